"""What the commands share: the consoles, one way to print a line, a progress bar, options that take lists."""

from collections.abc import Collection, Iterator, Sequence

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from typer.core import TyperCommand

out = Console()
err = Console(stderr=True)

MODEL_FOLDER = "nnU-Net's folder of the training, TRAINER__PLANS__CONFIGURATION."
MOST_WORKERS = 1024  # more than any machine that this runs on has processors
CHECKPOINT = "checkpoint_final.pth"  # nnU-Net's default


def say(text: str, *, console: Console = out, style: str = "") -> None:
    """Print one line as it is: paths and commands are neither wrapped, nor coloured, nor read as markup."""
    console.print(escape(text), style=style, soft_wrap=True, highlight=False)


def progress_bar() -> Progress:
    """Return a progress bar with counts and the remaining time, drawn on standard error."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=err)


class ListCommand(TyperCommand):
    """A command whose list options take all values up to the next option; they may also be repeated.

    Positional arguments go before such an option, or after another option's value, or after `--`.
    """

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override, unused-ignore]
        """Repeat each list option before each of its values, then parse as usual."""
        flags = [flag for option in self.params if getattr(option, "multiple", False) for flag in option.opts]
        return super().parse_args(ctx, list(repeat_flags(args, flags)))

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override, unused-ignore]
        """Run the command; an EOFError becomes a ValueError, for Click takes it for the end of the input."""
        try:
            return super().invoke(ctx)
        except EOFError as error:
            raise ValueError(f"a file ends too early ({error})") from error


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
