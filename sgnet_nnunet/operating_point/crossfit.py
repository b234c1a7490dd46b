"""The honest figures: each case at a point that was chosen without it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.operating_point.choose import Objective, choose
from sgnet_nnunet.operating_point.counts import Counts, Grid
from sgnet_nnunet.results.case import PredictedCase

GROUPS_OF_ONE_FOLD = 5


@dataclass(frozen=True, eq=False)
class CrossFit:
    """What was chosen for each group of cases on the others.

    Attributes:
        groups: Name of each case's group, shape (cases,).
        chosen: Index of (threshold, volume) for each group.
    """

    groups: NDArray[np.str_]
    chosen: dict[str, tuple[int, int]]

    @property
    def points(self) -> NDArray[np.intp]:
        """Index of (threshold, volume) of each case's point, shape (cases, 2)."""
        return np.array([self.chosen[str(group)] for group in self.groups], dtype=np.intp)


def cross_fit(
    cases: Sequence[PredictedCase], counts: Counts, *, objective: Objective, grid: Grid
) -> CrossFit:
    """Choose a point for each group of cases on the cases of all other groups and patients.

    The groups are the folds; with one fold they are its patients, dealt out to five groups.

    Args:
        cases: The cases.
        counts: Their lesions, in the same order.
        objective: What to choose for.
        grid: The points to choose from.

    Raises:
        SGNetError: If a group would leave no patient, or no lesion, to choose on.
    """
    groups = _groups(cases)
    patients = np.array([case.patient for case in cases])
    chosen = {}
    for group in dict.fromkeys(map(str, groups)):
        # A patient may have scans in several folds: nnU-Net's own splits do not look at patients.
        others = ~np.isin(patients, patients[groups == group])
        if not counts.lesions[others].sum():
            raise SGNetError(
                f"nothing to choose an operating point on without {group}: no other patient has a lesion; "
                "take more folds or cases"
            )
        chosen[group] = choose(counts.of(others).pooled, objective, grid)
    return CrossFit(groups, chosen)


def _groups(cases: Sequence[PredictedCase]) -> NDArray[np.str_]:
    if len({case.fold for case in cases}) > 1:
        return np.array([f"fold {case.fold}" for case in cases])
    patients = sorted({case.patient for case in cases})
    group = {patient: i % GROUPS_OF_ONE_FOLD for i, patient in enumerate(patients)}
    return np.array([f"group {group[case.patient]}" for case in cases])
