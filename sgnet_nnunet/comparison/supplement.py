"""The tables behind the first two: distributions, differences, ranks, pooled lesions, and counts."""

from collections.abc import Iterator

from sgnet_nnunet.comparison.definitions import size_in_words
from sgnet_nnunet.comparison.interval import Estimate
from sgnet_nnunet.comparison.statistics import Summary
from sgnet_nnunet.comparison.table import (
    INTERVAL,
    NOTHING,
    Cell,
    Table,
    count,
    decimals_of,
    number,
    p_value,
    places,
    span,
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
