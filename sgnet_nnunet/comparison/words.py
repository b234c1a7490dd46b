"""The statistics in words that a clinician follows."""

from collections.abc import Iterator, Sequence

from sgnet_nnunet.comparison.definitions import size_in_words
from sgnet_nnunet.comparison.describe import Counts
from sgnet_nnunet.comparison.difference_words import tell
from sgnet_nnunet.comparison.pooled import ALL_SIZES, PooledLesions
from sgnet_nnunet.comparison.ranking import Ranking
from sgnet_nnunet.comparison.statistics import Summary
from sgnet_nnunet.comparison.table import INTERVAL, count, listed, number, places, plural, span

NAMED = 5
"""Missing cases that a sentence names."""


def words(summary: Summary) -> list[str]:
    """Return the statistics as sentences, label by label."""
    several = len(summary.labels) > 1
    return [
        f"{label}: {sentence}" if several else sentence
        for label in summary.labels
        for sentence in _of_label(summary, label)
    ]


def _of_label(summary: Summary, label: str) -> Iterator[str]:
    counts = [each for each in summary.counts if each.label == label]
    yield _scope(counts)
    yield from (_missing(model, cases) for model, cases in summary.missing.items() if cases)
    yield from _empties(counts)
    for model in summary.models:
        yield _pooled([each for each in summary.pooled if (each.model, each.label) == (model.name, label)])
    for model in summary.models:
        differences = [
            each for each in summary.differences if (each.model, each.label) == (model.name, label)
        ]
        yield from tell(differences, summary.headline)
    yield from (_ranking(each) for each in summary.rankings if each.label == label and each.standings)


def _scope(counts: Sequence[Counts]) -> str:
    scopes = [f"{plural(each.cases, 'case')} of {plural(each.patients, 'patient')}" for each in counts]
    if len(set(scopes)) == 1:
        were = "was" if len(counts) == 1 else "were"
        return f"{listed([each.model for each in counts])} {were} judged on {scopes[0]}."
    judged = [f"{each.model} on {scope}" for each, scope in zip(counts, scopes, strict=True)]
    return f"Judged were {listed(judged)}."


def _missing(model: str, cases: Sequence[str]) -> str:
    were = "is missing and was" if len(cases) == 1 else "are missing and were"
    names = listed(cases) if len(cases) <= NAMED else f"{', '.join(cases[:NAMED])} and others"
    return f"{plural(len(cases), 'prediction')} of {model} {were} scored as empty: {names}."


def _empties(counts: Sequence[Counts]) -> Iterator[str]:
    """Yield what is empty, once for all models that it is true of."""
    models: dict[str, list[str]] = {}
    for each in counts:
        parts = [
            f"{masks} in {plural(cases, 'case')}, {outcome}"
            for masks, cases, outcome in (
                ("both masks are empty", each.both_empty, "left out of most metrics"),
                ("only the prediction is empty", each.empty_predictions, "scored with the worst value"),
                ("only the reference is empty", each.empty_references, "scored with the worst value"),
            )
            if cases
        ]
        if parts:
            models.setdefault("; ".join(parts), []).append(each.model)
    yield from (f"{listed(names)}: {found}." for found, names in models.items())


def _pooled(classes: Sequence[PooledLesions]) -> str:
    whole = next(each for each in classes if each.size == ALL_SIZES)
    by_size = [_found(each) for each in classes if each.size != ALL_SIZES and _lesions(each)]
    finds = f"finds {_found(whole)}" if _lesions(whole) else "had no lesion to find"
    false = plural(whole.false_positives, "false positive")
    per_case = number(whole.false_positives_per_case.value, 2)
    sizes = f"; by diameter it finds {listed(by_size)}" if by_size else ""
    return f"Over all cases together {whole.model} {finds} and draws {false}, {per_case} per case{sizes}."


def _lesions(lesions: PooledLesions) -> int:
    return lesions.detected + lesions.missed


def _found(lesions: PooledLesions) -> str:
    sensitivity = lesions.sensitivity
    share = f"{number(100 * sensitivity.value, 1)} %"
    if interval := span(sensitivity.interval.times(100), 1):
        share += f", {INTERVAL} {interval} %"
    which = "" if lesions.size == ALL_SIZES else f" {size_in_words(lesions.size)}"
    return f"{count(lesions.detected)} of {plural(_lesions(lesions), 'lesion')}{which} ({share})"


def _ranking(ranking: Ranking) -> str:
    first = [each for each in ranking.standings if each.rank == 1]
    comes = "comes first" if len(first) == 1 else "share the first place"
    names = listed([each.model for each in first])
    told = f"By mean rank over {plural(len(ranking.metrics), 'metric')} {names} {comes}"
    if not first[0].shares:
        return f"{told}; with fewer than 2 patients, how sure that is cannot be said."
    held = [
        f"{each.model} has it in {number(100 * each.shares[0], 1)} % "
        f"({INTERVAL} of its place: {places(each.interval)})"
        for each in first
    ]
    sure = "" if all(each.interval.high == 1 for each in first) else ": the first place is not certain"
    return f"{told}; in resamples of the patients {listed(held)}{sure}."
