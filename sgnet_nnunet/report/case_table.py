"""Every case, a cell a model."""

from collections.abc import Hashable, Iterator
from math import isfinite, nan
from typing import Any

import pandas as pd

from sgnet_nnunet.comparison.figures import Figures
from sgnet_nnunet.comparison.rows import rows_of
from sgnet_nnunet.comparison.table import NOTHING, number
from sgnet_nnunet.report.sortable import Column, SortedCell, amount

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
