"""`report.html`: what was measured and drawn, as one page."""

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sgnet_nnunet import __version__
from sgnet_nnunet.comparison.definitions import Definition
from sgnet_nnunet.comparison.describe import Counts
from sgnet_nnunet.comparison.figures import Figures
from sgnet_nnunet.comparison.statistics import Summary
from sgnet_nnunet.comparison.supplement import supplement
from sgnet_nnunet.comparison.words import words
from sgnet_nnunet.report.case_table import case_columns, case_table
from sgnet_nnunet.report.cases import CasePictures
from sgnet_nnunet.report.choice import Choice
from sgnet_nnunet.report.gates import GatePictures
from sgnet_nnunet.report.pages import render
from sgnet_nnunet.report.palette import TRUTH_COLOUR
from sgnet_nnunet.report.sortable import SortedCell
from sgnet_nnunet.report.summary_table import summary_table
from sgnet_nnunet.results.case import Target


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
        truth_colour=TRUTH_COLOUR,
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
