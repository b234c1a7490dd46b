"""Differences between two models in words, claiming no more than was shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Literal

from sgnet_nnunet.comparison.definitions import Definition
from sgnet_nnunet.comparison.difference import ALL_EQUAL, Difference
from sgnet_nnunet.comparison.table import INTERVAL, decimals_of, listed, number, p_value, plural, span

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
    if interval := span(difference.interval.times(turn), decimals):
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
