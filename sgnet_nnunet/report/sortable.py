"""Tables that a reader can sort."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite

from sgnet_nnunet.comparison.table import NOTHING


@dataclass(frozen=True, kw_only=True)
class Column:
    """Head of a column.

    Attributes:
        title: Its title.
        hint: What stands in it, in a sentence.
        numeric: Whether it is sorted by number.
    """

    title: str
    hint: str = ""
    numeric: bool = True


@dataclass(frozen=True, kw_only=True)
class SortedCell:
    """One cell.

    Attributes:
        text: What it says.
        key: What it is sorted by; None for nothing, which comes last either way.
        detail: Smaller, below.
        best: Whether it is the best of its column.
        share: From 0 to 1, for a bar; None for none.
        colour: Colour `#rrggbb` of the bar, or of a dot before the text; "" for none.
    """

    text: str
    key: float | str | None = None
    detail: str = ""
    best: bool = False
    share: float | None = None
    colour: str = ""


@dataclass(frozen=True, kw_only=True)
class SortedTable:
    """A table that a reader can sort.

    Attributes:
        columns: Heads of the columns.
        rows: Rows of as many cells.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[SortedCell, ...], ...]


def amount(value: float | None, text: Callable[[float], str]) -> SortedCell:
    """Return a cell with a number, or that says that there is none."""
    if value is None or not isfinite(value):
        return SortedCell(text=NOTHING)
    return SortedCell(text=text(value), key=value)
