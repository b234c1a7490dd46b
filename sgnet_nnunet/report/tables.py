"""Tables of a comparison: data frames of text, written as Markdown, LaTeX, HTML, JSON and CSV."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, isnan
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from sgnet_nnunet.errors import printable
from sgnet_nnunet.evaluation.comparison import Comparison
from sgnet_nnunet.evaluation.registry import Metric
from sgnet_nnunet.evaluation.results import Model
from sgnet_nnunet.evaluation.statistics import CONFIDENCE
from sgnet_nnunet.files import csv_cell, write_text

NOTHING = "–"  # in a cell without a value
SMALLEST_P = 0.001
SIGNIFICANT = 0.05
INTERVAL = f"{100 * CONFIDENCE:.0f} % interval"
TIMED = "Seconds per case"
TIME = (
    "Seconds: one fold's network with the engine (in brackets) that sgnet predict chooses for it, without "
    "mirroring, reading and writing."
)
WIDEST = 7  # columns of a printed table; a wider one is cut into several

Row = dict[Any, Any]
"""A row of a table of a `Comparison`, by the names of its columns."""

Verdict = Literal["better", "worse", "no difference shown", "inconclusive", "not tested"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """A data frame of text whose index means nothing, with a title and a note on how to read it.

    Attributes:
        names: Columns from the first on that hold names, not numbers.
        details: Text that is set smaller, such as intervals, for columns of `frame`; "" for none.
        best: Whether a cell is the best of its column, for columns of `frame`.
    """

    title: str
    frame: pd.DataFrame
    note: str = ""
    names: int = 1
    details: pd.DataFrame = field(default_factory=pd.DataFrame)
    best: pd.DataFrame = field(default_factory=pd.DataFrame)

    def marked(self, escape: Callable[[str], str], *, bold: str, detailed: str) -> pd.DataFrame:
        """Return the cells escaped for a markup language, in the formats of the best and of two texts."""
        cells = {}
        for title in self.frame:
            texts = [str(escape(text)) for text in self.frame[title]]
            if title in self.best:
                marks = zip(texts, self.best[title], strict=True)
                texts = [bold.format(text) if best else text for text, best in marks]
            if title in self.details:
                pairs = zip(texts, self.details[title], strict=True)
                texts = [detailed.format(text, escape(more)) if more else text for text, more in pairs]
            cells[str(escape(str(title)))] = texts
        return pd.DataFrame(cells)

    def parts(self) -> "Iterator[Table]":
        """Yield the table in parts that are narrow enough for a printed page."""
        titles = list(self.frame)
        names, values = titles[: self.names], titles[self.names :]
        pieces = -(-len(values) // (WIDEST - self.names))
        width = -(-len(values) // pieces)
        for piece in range(pieces):
            title = self.title if pieces == 1 else f"{self.title} ({piece + 1} of {pieces})"
            frame = self.frame[names + values[piece * width : (piece + 1) * width]]
            yield replace(self, title=title, frame=frame)


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


def span(low: float, high: float, decimals: int, *, sign: bool = False) -> str:
    """Return an interval as text, "" if there is none, or one without width."""
    # If all patients have equal values, so have all resamples: that is not a certain value.
    return pair(low, high, decimals, sign=sign) if low < high else ""


def pair(first: float, second: float, decimals: int, *, sign: bool = False, between: str = "to") -> str:
    """Return two numbers as text, `NOTHING` if the first is NaN."""
    texts = [number(value, decimals, sign=sign) for value in (first, second)]
    return NOTHING if isnan(first) else f" {between} ".join(texts)


def p_value(p: float) -> str:
    """Return p as text, with enough decimals to see on which side of 0.05 it is."""
    if isnan(p):
        return NOTHING
    if p < SMALLEST_P:
        return f"< {SMALLEST_P}"
    return f"{p:.4f}" if f"{p:.3f}" == "0.050" else f"{p:.3f}"


def verdict(difference: Row, metric: Metric) -> Verdict:
    """Return what a row of `Comparison.differences` shows: `better` or `worse` only if all evidence agrees.

    The corrected p, the interval of the mean and the ranks must all say so; a small p is `inconclusive`
    where the interval holds 0, is missing, or the ranks point the other way.
    """
    if isnan(difference["p_holm"]):
        return "not tested"
    if difference["p_holm"] >= SIGNIFICANT:
        return "no difference shown"
    apart = difference["low"] > 0 or difference["high"] < 0
    if not apart or difference["mean"] * difference["effect"] <= 0:
        return "inconclusive"
    return "better" if (difference["mean"] > 0) == metric.higher_is_better else "worse"


def rows_of_label(frame: pd.DataFrame, label: str) -> list[Row]:
    """Return the rows of one label of a table of a `Comparison`."""
    return [row for row in frame.to_dict("records") if row["label"] == label]


def _by_metric(comparison: Comparison, frame: pd.DataFrame, label: str) -> Iterator[tuple[Metric, Row]]:
    """Yield each headline metric with each of its rows for one label."""
    rows = rows_of_label(frame, label)
    for metric in comparison.headline:
        yield from ((metric, row) for row in rows if row["metric"] == metric.name)


def tables_of(comparison: Comparison, *, label: str) -> list[Table]:
    """Return the tables of one label or region, those that have rows; the headline table is the first."""
    supplement = (differences_table, ranking_table, pooled_table, distribution_table, counts_table)
    tables = [make(comparison, label=label) for make in (headline_table, *supplement)]
    return [table for table in tables if len(table.frame)]


def headline_table(comparison: Comparison, *, label: str) -> Table:
    """Return the headline metrics, a row for each model, with the networks' size and speed if known."""
    models = comparison.models
    found = {(row["model"], row["metric"]): row for row in rows_of_label(comparison.descriptions, label)}
    cells, details, best = {"Model": [model.name for model in models]}, {}, {}
    for metric in comparison.headline:
        rows = [found[model.name, metric.name] for model in models]
        cells[metric.title] = [pair(row["mean"], row["sd"], metric.decimals, between="±") for row in rows]
        details[metric.title] = [span(row["low"], row["high"], metric.decimals) for row in rows]
        # As printed, so that two models that look the same are both bold.
        means = pd.Series([row["mean"] for row in rows], dtype="float64").round(metric.decimals)
        best[metric.title] = means == (means.max() if metric.higher_is_better else means.min())
    costs = _costs(models)
    return Table(
        title=f"{label}: headline metrics",
        frame=pd.DataFrame(cells | costs),
        details=pd.DataFrame(details),
        best=pd.DataFrame(best if len(models) > 1 else {}),
        note=f"Mean ± standard deviation over cases, and the {INTERVAL} of the mean over patients."
        + (f" {TIME}" if TIMED in costs else ""),
    )


def _costs(models: Sequence[Model]) -> dict[str, list[str]]:
    """Return the columns of the models' parameters and time, those that are known."""
    parameters = [NOTHING if model.parameters is None else f"{model.parameters:,}" for model in models]
    times = [model.seconds_per_case for model in models]
    engines = [model.engine and f" ({model.engine})" for model in models]
    seconds = [
        NOTHING if time is None else f"{time:,.2f}{engine}"
        for time, engine in zip(times, engines, strict=True)
    ]
    columns = {"Parameters": parameters, TIMED: seconds}
    return {title: texts for title, texts in columns.items() if set(texts) != {NOTHING}}


def differences_table(comparison: Comparison, *, label: str) -> Table:
    """Return each model's difference to the baseline in each headline metric."""
    rows = [
        {
            "Metric": metric.title,
            "Model": row["model"],
            "Difference": number(row["mean"], metric.decimals, sign=True),
            INTERVAL: span(row["low"], row["high"], metric.decimals, sign=True) or NOTHING,
            "p": p_value(row["p"]),
            "p (Holm)": p_value(row["p_holm"]),
            "Effect": number(row["effect"], 2, sign=True),
            "Patients": count(row["patients"]),
            "Result": verdict(row, metric),
        }
        for metric, row in _by_metric(comparison, comparison.differences, label)
    ]
    protocol = comparison.protocol
    family = max((row["family"] for row in rows_of_label(comparison.differences, label)), default=0)
    return Table(
        title=f"{label}: differences to {protocol.baseline}",
        frame=pd.DataFrame(rows),
        note=f"Mean of the paired differences over cases. p: {protocol.test}, then corrected for {family} "
        f"tests ({protocol.correction}). Effect: {protocol.effect}. Result: better or worse only if the "
        f"corrected p is below {SIGNIFICANT:g} and the interval excludes 0 on the side of the effect.",
        names=2,
    )


def ranking_table(comparison: Comparison, *, label: str) -> Table:
    """Return the models by mean rank."""
    found = rows_of_label(comparison.ranking, label)
    titles = {metric.name: metric.title for metric in comparison.metrics}
    ranked = ", ".join(titles[name] for row in found[:1] for name in row["metrics"])
    rows = [
        {
            "Model": row["model"],
            "Rank": str(row["rank"]),
            "Mean rank": number(row["mean_rank"], 2),
            f"{INTERVAL} of the rank": pair(row["low"], row["high"], 0),
            "First in": NOTHING if isnan(row["place_1"]) else f"{100 * row['place_1']:.1f} %",
        }
        for row in found
    ]
    return Table(
        title=f"{label}: ranking",
        frame=pd.DataFrame(rows),
        note=f"Mean rank over {ranked}. First in: share of {comparison.protocol.resamples:,} resamples of "
        "the patients in which the model ranks first; equal models share the better rank.",
    )


COUNTED = {"detected": "Detected", "missed": "Missed", "false_positives": "False positives"}
# Columns of `Comparison.pooled` and `Comparison.counts`, with their titles and decimals.
POOLED = {
    "sensitivity": ("Sensitivity", 3),
    "precision": ("Precision", 3),
    "f1": ("F1", 3),
    "false_positives_per_case": ("False positives per case", 2),
}


def pooled_table(comparison: Comparison, *, label: str) -> Table:
    """Return micro-averaged detection metrics: lesions counted over all cases, by size."""
    found = rows_of_label(comparison.pooled, label)
    cells = {"Lesions": [row["size"] for row in found], "Model": [row["model"] for row in found]}
    details = {}
    for name, title in COUNTED.items():
        cells[title] = [count(row[name]) for row in found]
    for name, (title, decimals) in POOLED.items():
        cells[title] = [number(row[name], decimals) for row in found]
        details[title] = [span(row[f"{name}_low"], row[f"{name}_high"], decimals) for row in found]
    return Table(
        title=f"{label}: lesions of all cases together",
        frame=pd.DataFrame(cells),
        details=pd.DataFrame(details),
        note="Counted over all cases before dividing: cases weigh by their number of lesions. Sizes are "
        f"diameters of the sphere of the lesion's volume. Intervals: {INTERVAL} over patients.",
        names=2,
    )


def distribution_table(comparison: Comparison, *, label: str) -> Table:
    """Return the distribution of the headline metrics over cases."""
    rows = [
        {
            "Metric": metric.title,
            "Model": row["model"],
            "Mean": number(row["mean"], metric.decimals),
            INTERVAL: span(row["low"], row["high"], metric.decimals) or NOTHING,
            "Median": number(row["median"], metric.decimals),
            "Quartiles": pair(row["q1"], row["q3"], metric.decimals),
            "Cases": count(row["n"]),
            "Not a number": count(row["left_out"]),
            "One mask empty": count(row["one_empty"]),
        }
        for metric, row in _by_metric(comparison, comparison.descriptions, label)
    ]
    return Table(
        title=f"{label}: distributions",
        frame=pd.DataFrame(rows),
        note="Not a number: cases left out, mostly because both masks are empty. One mask empty: a share "
        "scores 0, a distance the image's diagonal.",
        names=2,
    )


COUNTS = {
    "cases": "Cases",
    "patients": "Patients",
    "both_empty": "Both masks empty",
    "empty_predictions": "Only the prediction empty",
    "empty_references": "Only the reference empty",
    "missing": "Predictions missing",
}


def counts_table(comparison: Comparison, *, label: str) -> Table:
    """Return the cases that each model was evaluated on."""
    rows = [
        {"Model": row["model"], **{title: count(row[name]) for name, title in COUNTS.items()}}
        for row in rows_of_label(comparison.counts, label)
    ]
    return Table(
        title=f"{label}: cases",
        frame=pd.DataFrame(rows),
        note="A missing prediction is scored as an empty mask and counted among the empty ones.",
    )


# An underscore within a word is safe, and escaped names could not be searched for.
_MARKDOWN = re.compile(r"[\\|*`]|<(?=\S)|(?<!\w)_+|(?<!_)_+(?!\w)")

PREAMBLE = (
    "% Tables for a LaTeX document: \\usepackage{booktabs} in its preamble, \\input{summary} in its text.\n"
)
_LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "–": "--",
        "±": r"$\pm$",
        "∞": r"$\infty$",
        # At the beginning of a row they would belong to the line break before it.
        "[": "{[}",
        "*": "{*}",
    }
)
_MINUS = re.compile(r"(?<!\w)-(?=\d|\$\\infty)")


def escape_markdown(text: str) -> str:
    """Return text without characters that Markdown would read as markup."""
    return _MARKDOWN.sub(lambda match: "".join(f"\\{character}" for character in match[0]), printable(text))


def escape_latex(text: str) -> str:
    """Return text without characters that LaTeX would read as commands."""
    return _MINUS.sub("$-$", printable(text).translate(_LATEX))


def table_to_markdown(table: Table) -> str:
    """Return a table under a heading, its note below, details in brackets and the best in bold."""
    frame = table.marked(escape_markdown, bold="**{}**", detailed="{} ({})")
    lines: list[list[str]] = [list(map(str, frame)), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join((f"## {escape_markdown(table.title)}", body, escape_markdown(table.note)))


def table_to_latex(table: Table) -> str:
    """Return a floating table, its title and note as caption, details below and the best in bold."""
    below = r"\shortstack[r]{{{}\\{{\scriptsize {}}}}}"
    frame = table.marked(escape_latex, bold=r"\textbf{{{}}}", detailed=below)
    text = frame.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="l" * table.names + "r" * (frame.shape[1] - table.names),
        position="tbp",
        position_float="centering",
        caption=f"{escape_latex(table.title)}. {escape_latex(table.note)}",
    )
    return text.replace("\\centering\n", "\\centering\n\\footnotesize\n", 1)


def table_to_html(table: Table, *, escape: Callable[[str], str]) -> str:
    """Return an HTML table, details below the numbers and the best in bold."""
    frame = table.marked(escape, bold="<b>{}</b>", detailed="{}<small>{}</small>")
    with pd.option_context("display.max_colwidth", None):
        return str(frame.to_html(escape=False, index=False, border=0, classes="sortable"))


def write_summary(comparison: Comparison, folder: Path) -> None:
    """Write `summary.json`, `summary.md` and `summary.tex` into an existing folder."""
    tables = [table for label in comparison.labels for table in tables_of(comparison, label=label)]
    title = f"# Comparison on {escape_markdown(comparison.dataset)}"
    write_text(folder / "summary.json", to_json(comparison))
    write_text(folder / "summary.md", "\n\n".join((title, *map(table_to_markdown, tables))) + "\n")
    parts = (part for table in tables for part in table.parts())
    write_text(folder / "summary.tex", "\n".join((PREAMBLE, *map(table_to_latex, parts))))


def to_json(comparison: Comparison) -> str:
    """Return everything as strict JSON: null stands for values that are not numbers, or infinite."""
    text = json.dumps(comparison.as_dict(), default=Path.as_posix)
    return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=2, ensure_ascii=False) + "\n"


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, atomically, text by `csv_cell`; a cell is empty where a value is not a number."""
    texts = table.select_dtypes(exclude=["number", "bool"])
    safe = table.assign(**{str(name): column.map(csv_cell) for name, column in texts.items()})
    write_text(path, safe.to_csv(index=False, lineterminator="\n"))
