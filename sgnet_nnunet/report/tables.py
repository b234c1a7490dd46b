"""A table of text before it is Markdown, LaTeX or HTML, and how figures become text."""

import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite, isnan
from pathlib import Path

import pandas as pd

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.measurement import Figures
from sgnet_nnunet.evaluation.registry import find_metric
from sgnet_nnunet.evaluation.results import Model
from sgnet_nnunet.evaluation.statistics import CONFIDENCE, Estimate, Interval
from sgnet_nnunet.evaluation.summary import Definition, Summary, size_in_words
from sgnet_nnunet.files import PARTIAL_PREFIX, write_text

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


# An underscore within a word is safe, and escaped names could not be searched for.
_SPECIAL = re.compile(r"[\\|*`]|<(?=\S)|(?<!\w)_+|(?<!_)_+(?!\w)")


def table_to_markdown(table: Table) -> str:
    """Return a table under a heading, its note below, intervals in brackets and the best in bold."""
    header, rule = (escape_markdown(title) for title in table.header), ("---" for _ in table.header)
    lines = [header, rule, *((_cell(cell) for cell in row) for row in table.rows)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join(
        part for part in (f"## {escape_markdown(table.title)}", body, escape_markdown(table.note)) if part
    )


def escape_markdown(text: str) -> str:
    """Return text without characters that Markdown would read as markup."""
    return _SPECIAL.sub(lambda match: "".join(f"\\{character}" for character in match[0]), text)


def _cell(cell: Cell) -> str:
    text = f"**{escape_markdown(cell.text)}**" if cell.best else escape_markdown(cell.text)
    return f"{text} ({escape_markdown(cell.detail)})" if cell.detail else text


PREAMBLE = (
    "% Tables for a LaTeX document: \\usepackage{booktabs} in its preamble, \\input{summary} in its text.\n"
)

_LATEX_SPECIAL = str.maketrans(
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


def table_to_latex(table: Table) -> str:
    """Return a floating table, its title and note as caption, intervals below and the best in bold."""
    header = [escape_latex(title) for title in table.header]
    frame = pd.DataFrame([[_latex_cell(cell) for cell in row] for row in table.rows], columns=header)
    text = frame.style.hide(axis="index").to_latex(
        hrules=True,
        column_format="l" * table.names + "r" * (len(header) - table.names),
        position="tbp",
        position_float="centering",
        caption=f"{escape_latex(table.title)}. {escape_latex(table.note)}".strip(),
    )
    return text.replace("\\centering\n", "\\centering\n\\footnotesize\n", 1)


def escape_latex(text: str) -> str:
    """Return text without characters that LaTeX would read as commands."""
    return _MINUS.sub("$-$", text.translate(_LATEX_SPECIAL))


def _latex_cell(cell: Cell) -> str:
    text = rf"\textbf{{{escape_latex(cell.text)}}}" if cell.best else escape_latex(cell.text)
    if not cell.detail:
        return text
    # The figure, not the interval below it, stands in line with the row's other cells.
    return (
        rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{text}\\\scriptsize {escape_latex(cell.detail)}\end{{tabular}}"
    )


def supplement(summary: Summary, *, label: str) -> Iterator[Table]:
    """Yield the tables of one label or region that have rows."""
    makers = (differences_table, ranking_table, pooled_table, distribution_table, counts_table)
    yield from (table for table in (make(summary, label=label) for make in makers) if table.rows)


def differences_table(summary: Summary, *, label: str) -> Table:
    """Return each model's difference to the reference model in each headline metric."""
    protocol = summary.protocol
    rows = []
    for definition in summary.headline:
        decimals = decimals_of(definition)
        for model in summary.models:
            difference = summary.difference_of.get((model.name, label, definition.name))
            if difference is None:
                continue
            rows.append(
                _cells(
                    definition.title,
                    model.name,
                    number(difference.mean, decimals, sign=True),
                    span(difference.interval, decimals, sign=True) or NOTHING,
                    p_value(difference.p),
                    p_value(difference.p_holm),
                    number(difference.effect, 2, sign=True),
                    count(difference.cases),
                    count(difference.patients),
                )
            )
    family = max((each.family for each in summary.differences if each.label == label), default=0)
    return Table(
        title=f"{label}: differences to {protocol.reference}",
        header=(
            *("Metric", "Model", "Difference", INTERVAL, "p"),
            *("p (Holm)", "Effect", "Cases", "Patients"),
        ),
        rows=tuple(rows),
        note=f"Mean of the paired differences over cases. p: {protocol.test}; "
        f"p ({protocol.correction}): corrected for {family} tests. "
        "Effect: matched-pairs rank-biserial correlation, from -1 to 1.",
        names=2,
    )


def ranking_table(summary: Summary, *, label: str) -> Table:
    """Return the models by mean rank."""
    standings = [each for ranking in summary.rankings if ranking.label == label for each in ranking.standings]
    metrics = max((len(each.metrics) for each in summary.rankings if each.label == label), default=0)
    columns = range(1, len(summary.models) + 1)
    return Table(
        title=f"{label}: ranking",
        header=(
            *("Model", "Place", "Mean rank", f"{INTERVAL} of the place"),
            *(f"Place {place}" for place in columns),
        ),
        rows=tuple(
            _cells(
                standing.model,
                str(standing.rank),
                number(standing.mean_rank, 2),
                places(standing.interval),
                *(f"{100 * share:.1f} %" for share in standing.shares or ()),
                *(NOTHING for _ in columns if not standing.shares),
            )
            for standing in standings
        ),
        note=f"Mean rank over {metrics} headline metrics. "
        f"Place n: share of {summary.protocol.resamples:,} resamples of the patients in which the model "
        "has it; equals share the better place.",
    )


def pooled_table(summary: Summary, *, label: str) -> Table:
    """Return lesions counted over all cases, by size."""
    return Table(
        title=f"{label}: lesions of all cases together",
        header=(
            *("Lesions", "Model", "Detected", "Missed", "False positives"),
            *("Pooled sensitivity", "Pooled precision", "Pooled F1", "Pooled false positives per case"),
        ),
        rows=tuple(
            (
                Cell(text=size_in_words(each.size)),
                Cell(text=each.model),
                *_cells(count(each.detected), count(each.missed), count(each.false_positives)),
                _estimate(each.sensitivity, 3),
                _estimate(each.precision, 3),
                _estimate(each.f1, 3),
                _estimate(each.false_positives_per_case, 2),
            )
            for each in sorted(summary.pooled, key=lambda each: (each.size.smallest_mm, -each.size.limit_mm))
            if each.label == label
        ),
        note="Counted over all cases before dividing, so that a case with many lesions weighs more; "
        "sizes are diameters of the sphere of the lesion's volume.",
        names=2,
    )


def distribution_table(summary: Summary, *, label: str) -> Table:
    """Return median and quartiles of the headline metrics, and how many values there are."""
    rows = []
    for definition in summary.headline:
        decimals = decimals_of(definition)
        for model in summary.models:
            each = summary.description_of[model.name, label, definition.name]
            quartiles = f"{number(each.q1, decimals)} to {number(each.q3, decimals)}" if each.n else NOTHING
            numbers = (count(value) for value in (each.n, each.patients, each.left_out, each.one_empty))
            rows.append(
                _cells(definition.title, model.name, number(each.median, decimals), quartiles, *numbers)
            )
    return Table(
        title=f"{label}: distributions",
        header=(
            *("Metric", "Model", "Median", "Quartiles", "Cases", "Patients", "Left out"),
            "With one empty mask",
        ),
        rows=tuple(rows),
        note="Left out: cases in which the metric has no value, mostly since both masks are empty. "
        "With one empty mask: cases that count, where shares and distances score the worst value.",
        names=2,
    )


def counts_table(summary: Summary, *, label: str) -> Table:
    """Return what each model was judged on."""
    return Table(
        title=f"{label}: cases",
        header=(
            *("Model", "Cases", "Patients", "Both masks empty", "Only the prediction empty"),
            *("Only the reference empty", "Predictions missing"),
        ),
        rows=tuple(
            (
                Cell(text=each.model),
                *_cells(
                    *map(count, (each.cases, each.patients, each.both_empty, each.empty_predictions)),
                    *map(count, (each.empty_references, each.missing)),
                ),
            )
            for each in summary.counts
            if each.label == label
        ),
        note="A missing prediction is scored as an empty mask and counted among the empty ones.",
    )


def _cells(*texts: str) -> tuple[Cell, ...]:
    return tuple(Cell(text=text) for text in texts)


def _estimate(estimate: Estimate, decimals: int) -> Cell:
    return Cell(text=number(estimate.value, decimals), detail=span(estimate.interval, decimals))


MASKS = ("dice", "precision", "recall", "hd95_directed_mm")
LESIONS = ("lesion_sensitivity", "lesion_precision", "lesion_f1", "false_positives", "nsd_1mm")

HOW_TO_READ = f"Mean ± standard deviation over cases, with the {INTERVAL} of the mean over patients"
HD95_NOTE = f"HD95 directed: {find_metric('hd95_directed_mm').meaning}"
LESION_NOTE = "Lesions are counted case by case here"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of figures that the models themselves have.

    Attributes:
        title: Its title.
        text: A model's figure as text.
    """

    title: str
    text: Callable[[Model], str]


PARAMETERS = Column(
    title="Parameters",
    text=lambda model: NOTHING if model.parameters is None else count(model.parameters),
)
SECONDS = Column(
    title="Seconds per case",
    text=lambda model: NOTHING if model.seconds_per_case is None else number(model.seconds_per_case, 2),
)


def tables_of(summary: Summary) -> tuple[Table, ...]:
    """Return all tables, label by label, the models beside each other first."""
    return tuple(
        table
        for label in summary.labels
        for table in (*model_tables(summary, label=label), *supplement(summary, label=label))
    )


def model_tables(summary: Summary, *, label: str) -> tuple[Table, Table]:
    """Return a row for each model: the masks as a whole with parameters, then lesions with seconds."""
    return (
        Table(
            title=f"{label}: masks",
            header=("Model", *_titles(summary, MASKS), PARAMETERS.title),
            rows=tuple(_rows(summary, label, MASKS, PARAMETERS)),
            note=f"{HOW_TO_READ}. {HD95_NOTE}.",
        ),
        Table(
            title=f"{label}: lesions",
            header=("Model", *_titles(summary, LESIONS), SECONDS.title),
            rows=tuple(_rows(summary, label, LESIONS, SECONDS)),
            note=f"{HOW_TO_READ}. {LESION_NOTE}.",
        ),
    )


def _measured(summary: Summary, names: Sequence[str]) -> list[Definition]:
    by_name = {definition.name: definition for definition in summary.definitions}
    return [by_name[name] for name in names if name in by_name]


def _titles(summary: Summary, names: Sequence[str]) -> list[str]:
    return [definition.title for definition in _measured(summary, names)]


def _rows(summary: Summary, label: str, names: Sequence[str], last: Column) -> Iterator[tuple[Cell, ...]]:
    columns = [_tables_cells(summary, label, definition) for definition in _measured(summary, names)]
    for model, *cells in zip(summary.models, *columns, strict=True):
        yield Cell(text=model.name), *cells, Cell(text=last.text(model))


def _tables_cells(summary: Summary, label: str, definition: Definition) -> list[Cell]:
    """Return a metric's cells, model by model."""
    decimals = decimals_of(definition)
    descriptions = [summary.description_of[model.name, label, definition.name] for model in summary.models]
    # As printed, so that two models that look the same are both bold.
    means = [round(description.mean, decimals) for description in descriptions]
    known = [mean for mean in means if mean == mean]  # noqa: PLR0124 NaN is not itself
    best = (max if definition.higher_is_better else min)(known, default=None)
    return [
        Cell(
            text=f"{number(description.mean, decimals)} ± {number(description.sd, decimals)}",
            detail=span(description.interval, decimals),
            best=len(means) > 1 and mean == best,
        )
        if description.n
        else Cell(text=NOTHING)
        for description, mean in zip(descriptions, means, strict=True)
    ]


def write_summary(summary: Summary, folder: Path) -> None:
    """Write `summary.json`, `summary.md` and `summary.tex` into an existing folder."""
    write_text(folder / "summary.json", to_json(summary))
    write_text(folder / "summary.md", to_markdown(summary))
    write_text(folder / "summary.tex", to_latex(summary))


def to_json(summary: Summary) -> str:
    """Return everything as strict JSON: null stands for figures that are not numbers, or infinite."""
    return json.dumps(_plain(asdict(summary)), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def to_markdown(summary: Summary) -> str:
    """Return the statistics in words and all tables as Markdown."""
    from sgnet_nnunet.report.sentences import words  # noqa: PLC0415 - it imports this module

    sentences = "\n".join(f"- {escape_markdown(sentence)}" for sentence in words(summary))
    tables = (table_to_markdown(table) for table in tables_of(summary))
    title = f"# Comparison on {escape_markdown(summary.dataset)}"
    return "\n\n".join((title, sentences, *tables)) + "\n"


def to_latex(summary: Summary) -> str:
    """Return all tables as LaTeX."""
    return "\n".join((PREAMBLE, *map(table_to_latex, tables_of(summary))))


def _plain(value: object) -> object:
    """Return a value out of dictionaries, lists, texts, finite numbers and None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    return None if isinstance(value, float) and not isfinite(value) else value


CONTENTS = ".sgnet_report.json"
"""Hidden file of a report that lists what is in it, so that the next run replaces nothing else."""


def write_tables(figures: Figures, folder: Path) -> None:
    """Write `per_case.csv` and `per_lesion.csv`; a cell is empty where a value is not a number."""
    _write_csv(figures.per_case, folder / "per_case.csv")
    _write_csv(figures.per_lesion, folder / "per_lesion.csv")


@contextmanager
def report_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `folder` to write a report to; it takes its place if all goes well.

    Otherwise, nothing is left behind and what was in `folder` stays.

    Raises:
        SGNetError: If `folder` holds anything but a report of ours, or cannot be written.
    """
    folder = folder.resolve()
    refuse_strangers(folder)
    partial = folder.with_name(f"{PARTIAL_PREFIX}{folder.name}")
    refuse_strangers(folder)
    try:
        _remove(partial)
        partial.mkdir(parents=True)
        yield partial
        names = sorted(path.name for path in partial.iterdir())
        write_text(partial / CONTENTS, json.dumps(names, indent=2) + "\n")
        # Again, for a report takes minutes.
        refuse_strangers(folder)
        _replace(folder, partial)
    except OSError as error:
        raise SGNetError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); free space, check "
            "the permissions, or give another -o"
        ) from error
    finally:
        _remove(partial)


def _replace(folder: Path, partial: Path) -> None:
    """Put a finished report in the place of the last one, which comes back if that fails."""
    if not folder.exists():
        partial.rename(folder)
        return
    previous = folder.with_name(f"{PARTIAL_PREFIX}{folder.name}-previous")
    _remove(previous)
    folder.rename(previous)
    try:
        partial.rename(folder)
    except OSError:
        previous.rename(folder)
        raise
    _remove(previous)


def refuse_strangers(folder: Path) -> None:
    """See that a folder can be replaced by a report: it is not there, is empty, or is such a report.

    Raises:
        InputFileError: If it is something else, or holds a file that no report put there.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputFileError(folder, "is a file", "give a folder to write the report to")
    listed = folder / CONTENTS
    try:
        ours = {CONTENTS, *json.loads(listed.read_text(encoding="utf-8"))} if listed.exists() else set()
    except (ValueError, TypeError) as error:
        raise InputFileError(listed, "is damaged", "delete the report or give another -o") from error
    if strangers := sorted(path.name for path in folder.iterdir() if path.name not in ours):
        raise InputFileError(
            folder / strangers[0], "was not written by a report", "move it elsewhere or give another -o"
        )


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
