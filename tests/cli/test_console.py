"""List options take several values, as nnU-Net's users are used to."""

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from sgnet_nnunet.cli.console import ListCommand, repeat_flags


@pytest.fixture
def parse():
    """Return a function that parses a command line and returns what the command was called with."""
    app, calls = typer.Typer(), []

    @app.command(cls=ListCommand)
    def command(
        folder: Annotated[str, typer.Argument()],
        models: Annotated[list[str], typer.Option("--models", "-m")],
        folds: Annotated[list[str], typer.Option("-f")] = ["0"],  # noqa: B006
        output: Annotated[str, typer.Option("-o")] = "out",
        viewer: Annotated[bool, typer.Option("--viewer")] = False,
    ) -> None:
        calls.append((folder, models, folds, output, viewer))

    def run(line):
        result = CliRunner().invoke(app, line.split())
        assert result.exit_code == 0, result.output
        return calls[-1]

    return run


@pytest.mark.parametrize(
    "line",
    [
        "in --models A B -f 0 1 2 -o here --viewer",
        "in --viewer --models A B -o here -f 0 1 2",
        "in --models A --models B -f 0 -f 1 -f 2 -o here --viewer",
        "in -m A B -f 0 1 -f 2 --viewer -o here",
        "-o here --viewer in --models=A B -f 0 1 2",
        "--models A B -f 0 1 2 --viewer -o here -- in",
    ],
)
def test_values_are_taken_up_to_the_next_option(parse, line):
    assert parse(line) == ("in", ["A", "B"], ["0", "1", "2"], "here", True)


def test_default_holds_where_the_option_is_not_given(parse):
    assert parse("in -m A") == ("in", ["A"], ["0"], "out", False)


def test_option_without_values_is_refused(parse):
    with pytest.raises(AssertionError, match="requires an argument"):
        parse("in -m")


def test_other_options_keep_their_one_value():
    line = ["-o", "x", "y", "-f", "0", "1", "--", "-f", "2", "3"]
    assert list(repeat_flags(line, ["-f"])) == ["-o", "x", "y", "-f", "0", "-f", "1", "--", "-f", "2", "3"]
