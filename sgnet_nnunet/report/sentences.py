"""Differences between two models in words, claiming no more than was shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Literal

from sgnet_nnunet.evaluation.lesion_metrics import ALL_SIZES
from sgnet_nnunet.evaluation.statistics import ALL_EQUAL, Interval
from sgnet_nnunet.evaluation.summary import (
    Counts,
    Definition,
    Difference,
    PooledLesions,
    Ranking,
    Summary,
    size_in_words,
)
from sgnet_nnunet.report.tables import (
    INTERVAL,
    count,
    decimals_of,
    listed,
    number,
    p_value,
    places,
    plural,
    span,
)

SIGNIFICANT = 0.05
"""Below it a corrected p speaks for a difference."""

Verdict = Literal["better", "worse", "not shown", "at odds", "not tested"]


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """How a difference in one metric is told.

    Attributes:
        sentence: With the places {model}, {amount}, {direction} and {reference}.
        more: Direction of a model whose values are higher than the reference model's.
        less: Direction of a model whose values are lower.
        scale: What the values are multiplied by.
        decimals: Decimals after that; None for those of the tables.
        unit: Unit after that.
    """

    sentence: str
    more: str = "higher"
    less: str = "lower"
    scale: float = 1.0
    decimals: int | None = None
    unit: str = ""


PHRASES = {
    "lesion_sensitivity": Phrase(
        sentence="{model} finds {amount} {direction} of a case's lesions than {reference}",
        more="more",
        less="fewer",
        scale=100,
        decimals=1,
        unit=" percentage points",
    ),
    "false_positives": Phrase(
        sentence="{model} draws {amount} {direction} false positives per case than {reference}",
        more="more",
        less="fewer",
    ),
    "dice": Phrase(sentence="The Dice of {model} is {amount} {direction} than that of {reference}"),
    "hd95_directed_mm": Phrase(
        sentence="The HD95 (directed) of {model} is {amount} {direction} than that of {reference}",
        more="longer",
        less="shorter",
        unit=" mm",
    ),
}
"""The metrics that have a sentence of their own, in the order they are told; the others share one."""


def verdict(difference: Difference, definition: Definition) -> Verdict:
    """Return what a difference shows: `better` or `worse` only if everything agrees that there is one.

    The corrected p, the interval of the mean and the ranks must all say so; `at odds` is a small p
    where the interval holds 0, is missing, or the ranks point the other way.
    """
    if isnan(difference.p_holm):
        return "not tested"
    if difference.p_holm >= SIGNIFICANT:
        return "not shown"
    apart = difference.interval.low > 0 or difference.interval.high < 0
    if not apart or difference.mean * difference.effect <= 0:
        return "at odds"
    return "better" if (difference.mean > 0) == definition.higher_is_better else "worse"


def tell(differences: Sequence[Difference], definitions: Sequence[Definition]) -> Iterator[str]:
    """Yield a sentence for each metric of `PHRASES`, and one for all others that were tested.

    Args:
        differences: Differences of one model, in any order.
        definitions: The headline metrics.
    """
    by_metric = {difference.metric: difference for difference in differences}
    by_name = {each.name: each for each in definitions if each.name in by_metric}
    for name, phrase in PHRASES.items():
        if name in by_name:
            yield _sentence(by_metric[name], by_name[name], phrase)
    others = [
        (by_metric[name], definition)
        for name, definition in by_name.items()
        if name not in PHRASES and not isnan(by_metric[name].p_holm)
    ]
    if others:
        yield _others(others)


def _sentence(difference: Difference, definition: Definition, phrase: Phrase) -> str:
    model, reference = difference.model, difference.reference
    patients = plural(difference.patients, "patient")
    if isnan(difference.mean):
        return f"{definition.title}: {model} and {reference} cannot be compared, since {difference.reason}."
    if difference.reason == ALL_EQUAL:
        return f"{definition.title}: {model} and {reference} do not differ in any of {patients}."
    decimals = decimals_of(definition) if phrase.decimals is None else phrase.decimals
    # The interval is told in the direction of the sentence: around the amount that stands before it.
    turn = phrase.scale if difference.mean >= 0 else -phrase.scale
    told = phrase.sentence.format(
        model=model,
        amount=_amount(turn * difference.mean, decimals) + phrase.unit,
        direction=phrase.more if difference.mean >= 0 else phrase.less,
        reference=reference,
    )
    evidence = [_p(difference), patients] if not isnan(difference.p_holm) else [patients]
    low, high = sorted((turn * difference.interval.low, turn * difference.interval.high))
    if interval := span(Interval(low=low, high=high), decimals):
        evidence = [f"{INTERVAL} {interval}; {', '.join(evidence)}"]
    return f"{told} ({', '.join(evidence)}): {_conclusion(difference, definition)}."


def _amount(amount: float, decimals: int) -> str:
    if amount and not round(amount, decimals):
        return f"less than {10**-decimals:g}"
    return number(amount, decimals)


def _p(difference: Difference) -> str:
    p = p_value(difference.p_holm)
    equals = "" if p.startswith("<") else "= "
    return f"p {equals}{p} after Holm's correction over {plural(difference.family, 'test')}"


def _conclusion(difference: Difference, definition: Definition) -> str:
    return {
        "better": f"a difference was shown, in favour of {difference.model}",
        "worse": f"a difference was shown, in favour of {difference.reference}",
        "not shown": "no difference was shown",
        "at odds": "the test and the interval of the mean disagree, so no difference was shown",
        "not tested": f"not tested, since {difference.reason}",
    }[verdict(difference, definition)]


def _others(others: Sequence[tuple[Difference, Definition]]) -> str:
    model, reference = others[0][0].model, others[0][0].reference
    metrics = f"{plural(len(others), 'other metric')} tested ({listed([each.title for _, each in others])})"
    shown = []
    for outcome, winner in (("better", model), ("worse", reference)):
        titles = [each.title for difference, each in others if verdict(difference, each) == outcome]
        if titles:
            shown.append(f"{listed(titles)}, in favour of {winner}")
    found = f"a difference was shown in {'; and in '.join(shown)}" if shown else "no difference was shown"
    return f"{model} against {reference} in {metrics}: {found}."


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
    ends = sensitivity.interval
    if interval := span(Interval(low=100 * ends.low, high=100 * ends.high), 1):
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
