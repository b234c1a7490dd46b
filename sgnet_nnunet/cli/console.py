"""Console output shared by the commands, the progress bar, and options that take lists."""

import io
import logging
import os
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperCommand

from sgnet_nnunet.errors import SGNetError, printable
from sgnet_nnunet.files import PARTIAL_PREFIX

# Text from files is printed literally: no markup, no emoji, no error for characters that cannot be encoded.
for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
out = Console(markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)

_LONGEST_NAME = 255  # bytes, of common file systems

MODEL_FOLDER = "nnU-Net's folder of the training, TRAINER__PLANS__CONFIGURATION."
TRUST = "Allow the model to run code of its own: pickles, other packages' trainers and networks."

# Options that `predict` and `segment` share.
Folds: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "-f", metavar="N", help="Folds to average; all that are trained by default.", rich_help_panel="Model"
    ),
]
Checkpoint: TypeAlias = Annotated[
    str, typer.Option("-chk", metavar="NAME", help="Checkpoint.", rich_help_panel="Model")
]
Trust: TypeAlias = Annotated[bool, typer.Option("--trust", help=TRUST, rich_help_panel="Model")]
PointFile: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="JSON",
        help="File of sgnet tune; none; or auto, the one in the model's folder.",
        rich_help_panel="Model",
    ),
]
Device: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "-device",
        metavar="NAME",
        help="cpu, cuda or mps; cuda by default if there is one.",
        rich_help_panel="Network",
    ),
]


def say(text: str, *, console: Console = out, style: str = "") -> None:
    """Print one line, `printable`: paths are neither wrapped, nor coloured, nor read as markup."""
    console.print(printable(text), style=style, soft_wrap=True, highlight=False)


class LineHandler(logging.Handler):
    """Prints each log record as one line on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the time, the level and the message."""
        clock = time.strftime("%X", time.localtime(record.created))
        say(f"[{clock}] {record.levelname:8} {record.getMessage()}", console=err)


def progress_bar() -> Progress:
    """Return a progress bar with counts and the remaining time, drawn on standard error."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=err)


class ListCommand(TyperCommand):
    """A command whose list options take all values up to the next option; they may also be repeated.

    Positional arguments go before such an option, or after another option's value, or after `--`.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override, unused-ignore]
        """Repeat each list option before each of its values, then parse as usual."""
        flags = [flag for option in self.params if getattr(option, "multiple", False) for flag in option.opts]
        rest = super().parse_args(ctx, list(repeat_flags(args, flags)))
        _check_lengths(args)
        return rest

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override, unused-ignore]
        """Run the command; an EOFError becomes a ValueError, for Click takes it for the end of the input."""
        try:
            return super().invoke(ctx)
        except EOFError as error:
            raise ValueError(f"a file ends too early ({error})") from error


def _check_lengths(arguments: Sequence[str]) -> None:
    """Raise an SGNetError if a path has a name that is too long for file systems, a prefix included."""
    for argument in arguments:
        if max(len(os.fsencode(name)) for name in argument.split("/")) > _LONGEST_NAME - len(PARTIAL_PREFIX):
            raise SGNetError(f"{argument}: its name is too long; give a shorter one")


def repeat_flags(arguments: Sequence[str], flags: Collection[str]) -> Iterator[str]:
    """Yield the arguments of a command line with each list option's name before each of its values.

    For the list option `-f`, the line `-f 0 1 -o out` becomes `-f 0 -f 1 -o out`.
    """
    flag, values = "", 0
    for position, argument in enumerate(arguments):
        if argument == "--":
            yield from arguments[position:]
            return
        name, _, value = argument.partition("=")
        if argument.startswith("-"):
            flag, values = (name, int(bool(value))) if name in flags else ("", 0)
            yield argument
        elif flag:
            yield from (flag, argument) if values else (argument,)
            values += 1
        else:
            yield argument
