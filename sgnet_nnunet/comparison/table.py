"""A table of text before it is Markdown, LaTeX or HTML, and how figures become text."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan

from sgnet_nnunet.comparison.definitions import Definition
from sgnet_nnunet.comparison.interval import CONFIDENCE, Interval

NOTHING = "–"
"""Stands where there is no figure."""

DECIMALS = {"": 3, "mm": 1, "lesions": 2, "mm3": 0}
"""Decimals of a metric by its unit."""

SMALLEST_P = 0.001

INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell.

    Attributes:
        text: What it says, without markup.
        detail: What may stand smaller beside or below it, such as an interval.
        best: Whether it is the best of its column.
    """

    text: str
    detail: str = ""
    best: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table.

    Attributes:
        title: What it shows.
        header: Titles of the columns.
        rows: Rows of as many cells.
        note: How to read it.
        names: Columns from the first on that hold names, not figures.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    names: int = 1


def number(value: float, decimals: int, *, sign: bool = False) -> str:
    """Return a number as text, `NOTHING` for NaN; never a negative zero."""
    if isnan(value):
        return NOTHING
    if not isfinite(value):
        return "∞" if value > 0 else "-∞"
    rounded = round(value, decimals) + 0.0
    return f"{rounded:{'+' if sign and rounded else ''}.{decimals}f}"


def count(value: float) -> str:
    """Return a whole number as text, with commas at the thousands."""
    return f"{value:,.0f}"


def plural(value: int, noun: str) -> str:
    """Return a number of things, such as `1 case` or `2 cases`."""
    return f"{count(value)} {noun}" if value == 1 else f"{count(value)} {noun}s"


def listed(items: Sequence[str]) -> str:
    """Return items as a list in a sentence, such as `a, b and c`."""
    *first, last = items
    return f"{', '.join(first)} and {last}" if first else last


def decimals_of(definition: Definition) -> int:
    """Return the decimals that a metric is shown with."""
    return DECIMALS.get(definition.unit, 2)


def span(interval: Interval, decimals: int, *, sign: bool = False) -> str:
    """Return an interval as text, "" if there is none, or one without width.

    Where all patients are alike their resamples are too, which does not make the figure certain.
    """
    if not interval.low < interval.high:
        return ""
    low, high = (number(end, decimals, sign=sign) for end in (interval.low, interval.high))
    return f"{low} to {high}"


def places(interval: Interval) -> str:
    """Return an interval of places in a ranking as text, `NOTHING` if there is none."""
    return NOTHING if interval.reason else f"{interval.low:.0f} to {interval.high:.0f}"


def p_value(p: float) -> str:
    """Return p as text, with enough decimals to see on which side of 0.05 it is."""
    if isnan(p):
        return NOTHING
    if p < SMALLEST_P:
        return f"< {SMALLEST_P}"
    return f"{p:.4f}" if f"{p:.3f}" == "0.050" else f"{p:.3f}"
