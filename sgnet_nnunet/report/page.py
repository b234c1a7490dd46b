"""Tables that a reader can sort."""

import os
import re
from base64 import b64encode
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sgnet_nnunet import __version__
from sgnet_nnunet.evaluation.measurement import Figures
from sgnet_nnunet.evaluation.results import PredictedCase, Results, Target
from sgnet_nnunet.evaluation.statistics import rows_of
from sgnet_nnunet.evaluation.summary import Counts, Definition, Summary
from sgnet_nnunet.files import write_text
from sgnet_nnunet.parallel import run_jobs
from sgnet_nnunet.report.case_pictures import (
    CaseJob,
    CasePictures,
    Choice,
    GatePictures,
    choose,
    draw_case,
    gates_of,
)
from sgnet_nnunet.report.figures import REFERENCE_COLOUR, colours_of, plots_of, save
from sgnet_nnunet.report.sentences import words
from sgnet_nnunet.report.tables import NOTHING, count, decimals_of, number, span, supplement
from sgnet_nnunet.report.viewer import render, write_viewer

if TYPE_CHECKING:
    from sgnet_nnunet.evaluation.froc import Froc


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


Row = dict[Hashable, Any]
"""A row of `per_case` by the names of its columns."""

MM3_PER_ML = 1000
NO_BREAK = "\N{NO-BREAK SPACE}"
EMPTY_WORDS = {
    "both": "both masks are empty",
    "prediction": "the prediction is empty",
    "reference": "the reference is empty",
}


def case_table(figures: Figures, *, label: str, colours: dict[str, str]) -> dict[str, tuple[SortedCell, ...]]:
    """Return each case's cells after its picture: name, lesions, volume, mean Dice, then model by model.

    A model's cell has its Dice and below it the lesions that it missed and the false ones. The heads
    are `case_columns`.
    """
    rows = {model.name: _rows(figures, model.name, label) for model in figures.results.models}
    lesions = figures.per_lesion[figures.per_lesion["label"] == label]
    tallies = lesions.groupby(["model", "case", "status"]).size().to_dict()
    first = {case.name: case for case in reversed(figures.results.cases)}
    cells = {}
    for name, case in sorted(first.items()):
        own: dict[str, Row] = {model: table[name] for model, table in rows.items() if name in table}
        counted = {model: _tally(tallies, model, name) for model in own}
        total = next((sum(counts[:2]) for counts in counted.values()), 0)
        volume = next((float(row["reference_volume_mm3"]) / MM3_PER_ML for row in own.values()), nan)
        mean = float(pd.Series([row["dice"] for row in own.values()]).mean())
        where = f"patient {case.patient}" + (f", fold {case.fold}" if case.fold else "")
        cells[name] = (
            SortedCell(text=name, key=name, detail=where),
            SortedCell(text=str(total), key=total),
            amount(volume, lambda value: number(value, 2)),
            amount(mean, lambda value: number(value, 3)),
            *(_model_cell(own.get(model), counted.get(model), total, colours[model]) for model in rows),
        )
    return cells


def case_columns(figures: Figures) -> tuple[Column, ...]:
    """Return the heads of `case_table`."""
    return (
        Column(title="Case", numeric=False),
        Column(title="Lesions", hint="Lesions of the reference"),
        Column(title="Volume (ml)", hint="Volume of the reference"),
        Column(title="Mean Dice", hint="Mean over the models: sort by it for the hardest cases"),
        *(
            Column(title=model.name, hint="Dice; below it the lesions missed and the false positives")
            for model in figures.results.models
        ),
    )


def _rows(figures: Figures, model: str, label: str) -> dict[str, Row]:
    """Return the rows of a model and label by case."""
    table = rows_of(figures.per_case, model=model, label=label)
    return {str(case): row for case, row in zip(table.index, table.to_dict("records"), strict=True)}


def _tally(tallies: dict[Any, int], model: str, case: str) -> tuple[int, int, int]:
    detected, missed, false = (
        int(tallies.get((model, case, status), 0)) for status in ("detected", "missed", "false positive")
    )
    return detected, missed, false


def _model_cell(row: Row | None, counts: tuple[int, int, int] | None, total: int, colour: str) -> SortedCell:
    if row is None or counts is None:
        return SortedCell(text=NOTHING, detail="not judged")
    dice = float(row["dice"])
    return SortedCell(
        text=number(dice, 3),
        key=dice if isfinite(dice) else None,
        detail="; ".join(_remarks(row, counts, total)),
        share=dice if isfinite(dice) else None,
        colour=colour,
    )


def _remarks(row: Row, counts: tuple[int, int, int], total: int) -> Iterator[str]:
    _, missed, false = counts
    if row["missing"]:
        yield "no prediction"
    elif row["empty"]:
        yield EMPTY_WORDS[str(row["empty"])]
    if missed:
        yield f"missed {missed} of {total}".replace(" ", NO_BREAK)
    if false:
        yield f"{false} false".replace(" ", NO_BREAK)


METRICS = (
    *("dice", "precision", "recall", "hd95_directed_mm"),
    *("lesion_sensitivity", "lesion_precision", "lesion_f1", "false_positives", "nsd_1mm"),
)
PARAMETERS_AFTER = "hd95_directed_mm"


def summary_table(summary: Summary, *, label: str, colours: dict[str, str]) -> SortedTable:
    """Return a row for each model: means with standard deviations, intervals below."""
    by_name = {definition.name: definition for definition in summary.definitions}
    columns = [Column(title="Model", numeric=False)]
    cells = [[SortedCell(text=m.name, key=m.name, colour=colours[m.name]) for m in summary.models]]
    for name in (name for name in METRICS if name in by_name):
        definition = by_name[name]
        columns.append(Column(title=definition.title, hint=definition.meaning))
        cells.append(_metric_cells(summary, label, definition))
        if name == PARAMETERS_AFTER:
            columns.append(Column(title="Parameters", hint="Trained parameters of the network"))
            cells.append([amount(model.parameters, count) for model in summary.models])
    columns.append(Column(title="Seconds per case", hint="Measured time of the network on one case"))
    cells.append([amount(m.seconds_per_case, lambda value: number(value, 2)) for m in summary.models])
    return SortedTable(columns=tuple(columns), rows=tuple(zip(*cells, strict=True)))


def _metric_cells(summary: Summary, label: str, definition: Definition) -> list[SortedCell]:
    decimals = decimals_of(definition)
    found = [summary.description_of[model.name, label, definition.name] for model in summary.models]
    means = [round(each.mean, decimals) for each in found]
    known = [mean for mean in means if isfinite(mean)]
    best = (max if definition.higher_is_better else min)(known, default=None)
    return [
        SortedCell(
            text=f"{number(each.mean, decimals)} ± {number(each.sd, decimals)}",
            key=each.mean,
            detail=span(each.interval, decimals),
            best=len(means) > 1 and mean == best,
        )
        if each.n
        else SortedCell(text=NOTHING)
        for each, mean in zip(found, means, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class DrawnPlot:
    """A plot as it stands on the page.

    Attributes:
        name: Stem of its file.
        title: What it shows.
        caption: How to read it.
        base64: Its PNG file.
    """

    name: str
    title: str
    caption: str
    base64: str


@dataclass(frozen=True, kw_only=True)
class Drawings:
    """Every picture of the page.

    Attributes:
        plots: By label.
        cases: By case.
        gates: Of the cases that are shown large.
    """

    plots: dict[str, list[DrawnPlot]]
    cases: dict[str, CasePictures]
    gates: GatePictures


def report_page(
    figures: Figures,
    summary: Summary,
    choices: Sequence[Choice],
    drawings: Drawings,
    *,
    colours: dict[str, str],
    viewer: bool,
) -> str:
    """Return the page, which needs no other file.

    Args:
        figures: What was measured.
        summary: Its statistics.
        choices: The cases that are shown large.
        drawings: The pictures.
        colours: Each model's colour.
        viewer: Whether there is a 3D viewer beside it.
    """
    cases = figures.results.cases
    return render(
        "report.html",
        summary=summary,
        version=__version__,
        cases=len({case.name for case in cases}),
        patients=len({case.patient for case in cases}),
        words=words(summary),
        all_there=not any(_empty(counts) for counts in summary.counts),
        sections=[
            _section(place, label, figures, summary, choices, drawings, colours)
            for place, label in enumerate(summary.labels, start=1)
        ],
        case_columns=case_columns(figures),
        colours=colours,
        truth_colour=REFERENCE_COLOUR,
        gates=bool(drawings.gates.pictures),
        gate_notes=drawings.gates.skipped,
        targets=[
            {"name": target.name, "values_in_words": _values(target)} for target in figures.results.targets
        ],
        better=_better,
        viewer=viewer,
    )


def _section(
    place: int,
    label: str,
    figures: Figures,
    summary: Summary,
    choices: Sequence[Choice],
    drawings: Drawings,
    colours: dict[str, str],
) -> dict[str, Any]:
    cells = case_table(figures, label=label, colours=colours)
    position = {model.name: i for i, model in enumerate(summary.models)}
    return {
        "id": f"label-{place}",
        "label": label,
        "summary": summary_table(summary, label=label, colours=colours),
        "plots": drawings.plots[label],
        "has_froc": any(plot.name == "froc" for plot in drawings.plots[label]),
        "supplement": list(supplement(summary, label=label)),
        "large": [
            {
                "model": model,
                "colour": colours[model],
                "pictures": [
                    _large(choice, drawings, cells[choice.case][i - len(position)])
                    for choice in choices
                    if (choice.model, choice.label) == (model, label)
                ],
            }
            for model, i in position.items()
        ],
        "cases": [
            {"name": name, "thumbnail": _source(drawings.cases[name].thumbnails[label]), "cells": row}
            for name, row in cells.items()
        ],
    }


def _large(choice: Choice, drawings: Drawings, cell: SortedCell) -> dict[str, Any]:
    gates = drawings.gates.pictures.get((choice.model, choice.case))
    return {
        "role": choice.role,
        "case": choice.case,
        "dice": choice.dice,
        "remark": cell.detail,
        "overlay": _source(drawings.cases[choice.case].large[choice.model, choice.label]),
        "gates": None if gates is None else _source(gates, kind="png"),
    }


def _source(content: bytes, *, kind: str = "webp") -> dict[str, str]:
    return {"kind": kind, "base64": b64encode(content).decode("ascii")}


def _empty(counts: Counts) -> int:
    return counts.both_empty + counts.empty_predictions + counts.empty_references + counts.missing


def _values(target: Target) -> str:
    """Return the values of a target as text, runs of them shortened."""
    listed = ", ".join(map(str, target.values))
    run = target.values[-1] - target.values[0] == len(target.values) - 1
    shown = f"{target.values[0]} to {target.values[-1]}" if run and len(target.values) > 1 else listed
    return f"value{'' if len(target.values) == 1 else 's'} {shown}"


def _better(definition: Definition) -> str:
    """Return the unit and the direction of a metric as the end of its definition."""
    unit = f", in {re.sub('3$', '³', definition.unit)}" if definition.unit.startswith("mm") else ""
    if definition.higher_is_better is None:
        return unit
    return f"{unit}; {'higher' if definition.higher_is_better else 'lower'} is better"


FEW_CASES = 4
"""So few are drawn sooner than a second process has started."""


def write_report(
    figures: Figures,
    summary: Summary,
    folder: Path,
    *,
    viewer: bool = False,
    gates: bool = True,
    workers: int | None = None,
) -> None:
    """Write `report.html`, `plots/*.png` and, if wanted, `viewer/`.

    Args:
        figures: What was measured.
        summary: Its statistics.
        folder: An existing folder.
        viewer: Whether to add the 3D viewer, which holds every case's images and masks.
        gates: Whether to run gated networks on the cases that are shown large, to draw their gates:
            seconds for each on a CPU.
        workers: Processes, each with one case in memory; as many as there are processors by default.

    Raises:
        InputFileError: A mask or an image cannot be read.
    """
    results, workers = figures.results, workers or os.cpu_count() or 1
    colours = colours_of(results.models)
    choices = choose(figures)
    viewer_folder = folder / "viewer" if viewer else None
    if viewer_folder is not None:
        write_viewer(results, viewer_folder, colours=colours)
    drawings = Drawings(
        plots=_draw_plots(figures, folder / "plots", workers=workers),
        cases=_draw_cases(results, choices, colours=colours, viewer=viewer_folder, workers=workers),
        gates=gates_of(results, choices if gates else ()),
    )
    page = report_page(figures, summary, choices, drawings, colours=colours, viewer=viewer)
    write_text(folder / "report.html", page)


def _draw_cases(
    results: Results,
    choices: Sequence[Choice],
    *,
    colours: dict[str, str],
    viewer: Path | None,
    workers: int,
) -> dict[str, CasePictures]:
    answers: dict[str, list[PredictedCase]] = {}
    for case in results.cases:
        answers.setdefault(case.name, []).append(case)
    jobs = [
        CaseJob(
            answers=tuple(found),
            targets=results.targets,
            known_values=results.known_values,
            ignored_value=results.ignored_value,
            colours=colours,
            large=tuple((choice.model, choice.label) for choice in choices if choice.case == name),
            viewer=viewer,
        )
        for name, found in answers.items()
    ]
    workers = workers if len(jobs) > FEW_CASES else 1
    return {job.answers[0].name: pictures for job, pictures in run_jobs(draw_case, jobs, workers=workers)}


def _draw_plots(figures: Figures, folder: Path, *, workers: int) -> dict[str, list[DrawnPlot]]:
    folder.mkdir(exist_ok=True)
    curves = _froc(figures.results, workers=workers)
    drawn: dict[str, list[DrawnPlot]] = {}
    for place, target in enumerate(figures.results.targets, start=1):
        prefix = f"{place}_" if len(figures.results.targets) > 1 else ""
        drawn[target.name] = []
        for plot in plots_of(figures, label=target.name, froc=curves):
            path = folder / f"{prefix}{plot.name}.png"
            save(plot.figure, path)
            drawn[target.name].append(
                DrawnPlot(
                    name=plot.name,
                    title=plot.title,
                    caption=plot.caption,
                    base64=b64encode(path.read_bytes()).decode("ascii"),
                )
            )
    return drawn


def _froc(results: Results, *, workers: int) -> Mapping[str, "Froc"]:
    """Return the curve of each model whose cases all have probabilities."""
    curves: dict[str, Froc] = {}
    for model in results.models:
        cases = [case for case in results.cases if case.model == model.name]
        if model.folder is None or any(case.probabilities is None for case in cases):
            continue
        # nnU-Net, which reads the probabilities, takes seconds to import.
        from sgnet_nnunet.evaluation.froc import froc_of  # noqa: PLC0415

        curve = froc_of(cases, model_folder=model.folder, workers=workers)
        if curve is not None:
            curves[model.name] = curve
    return curves
