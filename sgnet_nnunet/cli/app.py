"""The command line: the commands in their groups, and the options before a command."""

import logging
from typing import Annotated

import typer

from sgnet_nnunet import __version__
from sgnet_nnunet.cli import data, evaluate, follow, models, plugin, predict, segment, study, tune
from sgnet_nnunet.cli.console import LineHandler, ListCommand, out

COMMANDS = {
    "Data": (data.convert, data.phantom),
    "Prediction": (
        predict.predict,
        segment.segment,
        follow.follow,
        models.export,
        models.gates,
        models.weights,
    ),
    "Evaluation": (evaluate.evaluate, evaluate.compare, tune.tune),
    "Studies": (study.study,),
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
    debug: Annotated[  # noqa: ARG001 - taken from the line by `main`
        bool, typer.Option("--debug", help="Print the traceback of an error; anywhere on the line.")
    ] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, handlers=[LineHandler()])
