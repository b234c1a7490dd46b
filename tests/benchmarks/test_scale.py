"""The tables of docs/scale.md are those that the command prints."""

from pathlib import Path

import pytest
import scale
import typer
from typer.testing import CliRunner

DOCS = Path(__file__).parents[2] / "docs/scale.md"


@pytest.fixture
def app():
    """Return the command."""
    app = typer.Typer()
    app.command()(scale.main)
    return app


def test_the_documentation_has_the_tables(app):
    printed = CliRunner().invoke(app, [], catch_exceptions=False).output
    text = DOCS.read_text(encoding="utf-8")
    for table in printed.strip().split("\n\n"):
        assert table in text


def test_prices_and_schedule_can_be_given(app):
    output = CliRunner().invoke(app, ["--price", "T4=100", "--epochs", "1"], catch_exceptions=False).output
    assert "$21" not in output
    assert "0 h, $" in output
