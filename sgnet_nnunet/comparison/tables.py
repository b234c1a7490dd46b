"""The tables of a comparison: the models beside each other, then what lies behind."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sgnet_nnunet.comparison.definitions import HD95_MEANINGS, Definition
from sgnet_nnunet.comparison.statistics import Summary
from sgnet_nnunet.comparison.supplement import supplement
from sgnet_nnunet.comparison.table import INTERVAL, NOTHING, Cell, Table, count, decimals_of, number, span
from sgnet_nnunet.results.case import Model

MASKS = ("dice", "precision", "recall", "hd95_directed_mm")
LESIONS = ("lesion_sensitivity", "lesion_precision", "lesion_f1", "false_positives", "nsd_1mm")

HOW_TO_READ = f"Mean ± standard deviation over cases, with the {INTERVAL} of the mean over patients"
HD95_NOTE = f"HD95 directed: {HD95_MEANINGS['directed']}"
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
    columns = [_cells(summary, label, definition) for definition in _measured(summary, names)]
    for model, *cells in zip(summary.models, *columns, strict=True):
        yield Cell(text=model.name), *cells, Cell(text=last.text(model))


def _cells(summary: Summary, label: str, definition: Definition) -> list[Cell]:
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
