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

DATA, PREDICTION, EVALUATION, INSTALLATION = "Data", "Prediction", "Evaluation", "Installation"

app = typer.Typer(
    help="SG-Net for nnU-Net v2: convert a collection, predict, tune, evaluate and compare segmentations of "
    "brain metastases. Training and planning are nnU-Net's own commands.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(rich_help_panel=DATA)(data.convert)
app.command(rich_help_panel=DATA)(data.phantom)
app.command(rich_help_panel=PREDICTION, cls=ListCommand)(predict.predict)
app.command(rich_help_panel=PREDICTION, cls=ListCommand)(models.export)
app.command(rich_help_panel=PREDICTION)(models.gates)
app.command(rich_help_panel=EVALUATION, cls=ListCommand)(evaluate.evaluate)
app.command(rich_help_panel=EVALUATION, cls=ListCommand)(evaluate.compare)
app.command(rich_help_panel=EVALUATION, cls=ListCommand)(tune.tune)
app.command(rich_help_panel=INSTALLATION)(plugin.demo)
app.command(rich_help_panel=INSTALLATION)(plugin.doctor)
app.command(rich_help_panel=INSTALLATION)(plugin.link)
app.command(rich_help_panel=INSTALLATION)(plugin.unlink)


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
