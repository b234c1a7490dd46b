"""Entry point of `sgnet`: registers the commands and turns an error into one line and an exit status."""

import logging
import os
import sys
import warnings
from typing import Annotated

import typer
from rich.logging import RichHandler

from sgnet_nnunet import __version__
from sgnet_nnunet.cli import data, evaluate, models, plugin, predict, tune
from sgnet_nnunet.cli.console import ListCommand, err, out, say
from sgnet_nnunet.errors import SGNetError

COMMANDS = {
    "Data": (data.convert, data.phantom),
    "Prediction": (predict.predict, models.export, models.gates),
    "Evaluation": (evaluate.evaluate, evaluate.compare, tune.tune),
    "Installation": (plugin.demo, plugin.doctor, plugin.link, plugin.unlink),
}

app = typer.Typer(
    help="SG-Net for nnU-Net v2: convert a collection, predict, tune, evaluate and compare segmentations of "
    "brain metastases. Training and planning are nnU-Net's own commands.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel, cls=ListCommand)(command)


def _print_version(requested: bool) -> None:
    if requested:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=err, show_path=False)]
    )


def main(argv: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit status.

    Args:
        argv: Arguments without the program's name; those of the process by default.
    """
    if not sys.warnoptions:
        # Warnings of other packages are for their developers; worker processes inherit the variable.
        warnings.simplefilter("ignore")
        os.environ.setdefault("PYTHONWARNINGS", "ignore")
    try:
        app(args=argv, prog_name="sgnet")
    except SGNetError as error:
        say(f"sgnet: {error}", console=err, style="bold red")
        sys.exit(error.exit_status)
