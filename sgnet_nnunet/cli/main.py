"""Entry point of `sgnet`: collects the commands and turns errors into one line and a status."""

import logging
import sys
from typing import Annotated

import typer
from rich.logging import RichHandler
from rich.markup import escape

from sgnet_nnunet import __version__
from sgnet_nnunet.cli import data, evaluate, models, plugin, predict, tune
from sgnet_nnunet.cli.console import ListCommand, err, out
from sgnet_nnunet.errors import SGNetError

app = typer.Typer(
    help="SG-Net for nnU-Net v2: convert the data, try it on phantoms, check the installation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(data.convert)
app.command()(data.phantom)
app.command()(plugin.demo)
app.command(cls=ListCommand)(evaluate.compare)
app.command(cls=ListCommand)(evaluate.evaluate)
app.command(cls=ListCommand)(tune.tune)
app.command(cls=ListCommand)(predict.predict)
app.command()(models.gates)
app.command(cls=ListCommand)(models.export)
app.command()(plugin.link)
app.command()(plugin.unlink)
app.command()(plugin.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--version", help="Print the version and stop.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=err, show_path=False)]
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command line and leave the process with its exit status.

    Args:
        argv: Arguments without the program's name; those of the process by default.
    """
    try:
        app(args=argv, prog_name="sgnet")
    except SGNetError as error:
        err.print(f"[bold red]sgnet:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_status)
