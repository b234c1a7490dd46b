"""The models beside each other."""

from math import isfinite

from sgnet_nnunet.comparison.definitions import Definition
from sgnet_nnunet.comparison.statistics import Summary
from sgnet_nnunet.comparison.table import NOTHING, count, decimals_of, number, span
from sgnet_nnunet.report.sortable import Column, SortedCell, SortedTable, amount

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
