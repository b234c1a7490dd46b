"""Which cases of a model are shown large."""

from dataclasses import dataclass

from sgnet_nnunet.comparison.figures import Figures
from sgnet_nnunet.comparison.rows import rows_of


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A case that is shown large.

    Attributes:
        model: Name of the model.
        label: Name of the label or region.
        role: `best`, `median` or `worst`.
        case: Name of the case.
        dice: Its Dice.
    """

    model: str
    label: str
    role: str
    case: str
    dice: float


def choose(figures: Figures) -> tuple[Choice, ...]:
    """Return each model's best, median and worst case by Dice, label by label, no case twice.

    Cases without a Dice, both masks being empty, are not chosen; of an even number of cases the
    better of the middle two is the median.
    """
    return tuple(
        choice
        for target in figures.results.targets
        for model in figures.results.models
        for choice in _choose(figures, model.name, target.name)
    )


def _choose(figures: Figures, model: str, label: str) -> list[Choice]:
    dice = rows_of(figures.per_case, model=model, label=label)["dice"].dropna()
    # A stable sort keeps equal cases in the order of their names.
    ranked = dice.sort_values(ascending=False, kind="stable")
    last = len(ranked) - 1
    places = {last: "worst", 0: "best"} if last >= 0 else {}
    places.setdefault(last // 2, "median")
    return [
        Choice(
            model=model, label=label, role=places[i], case=str(ranked.index[i]), dice=float(ranked.iloc[i])
        )
        for i in sorted(places)
        if last >= 0
    ]
