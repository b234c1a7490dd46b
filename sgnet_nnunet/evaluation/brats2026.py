"""The lesion-wise scores of BraTS-METS 2026, as the preset `brats2026`.

Lesions are 26-connected components, matched one to one so that the sum of their Dice is largest; a
Dice below 1e-6 is no match, and nothing is grown. They are split at 20 mm3, a lesion of the reference
(and the predicted one matched with it) by the reference's volume, an unmatched predicted one by its
own. Small lesions, below the split, are found if their match has a Dice of at least 0.1, otherwise
missed and their match false; they are scored by the F1 of detection. Large lesions are scored by the
means of Dice, NSD at 1 mm and pooled HD95 over the reference's lesions and the false ones, where a
missed or a false one scores 0, 0 and 373 mm. A size without lesions in either mask gives NaN.
"""

from dataclasses import dataclass
from math import nan
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sgnet_nnunet.evaluation.distance import HD95, NSD
from sgnet_nnunet.evaluation.lesion_rows import pair_of_lesion
from sgnet_nnunet.evaluation.lesions import lesions_of
from sgnet_nnunet.evaluation.metric import Metric, Penalised
from sgnet_nnunet.evaluation.overlap import Dice
from sgnet_nnunet.evaluation.pair import MaskPair, once_per_pair

SPLIT_MM3 = 20.0
"""Lesions below this volume are small."""

MATCH_DICE = 1e-6
"""Smallest Dice of a match."""

FOUND_DICE = 0.1
"""Smallest Dice of a small lesion's match for which it counts as found."""

PENALTY_MM = 373.0
"""HD95 of a missed or a false lesion: the diagonal of a BraTS image, 240 x 240 x 155 mm."""


@dataclass(frozen=True, eq=False)
class OneToOne:
    """The best one-to-one matching of a pair's lesions.

    Attributes:
        partners: Index of each reference lesion's match among the predicted, -1 if it has none,
            shape (reference lesions,).
        dice: Dice of each match, 0 if there is none, shape (reference lesions,).
        false: Whether each predicted lesion is without a match, shape (predicted lesions,).
    """

    partners: NDArray[np.intp]
    dice: NDArray[np.float64]
    false: NDArray[np.bool_]


@once_per_pair
def match_one_to_one(pair: MaskPair) -> OneToOne:
    """Match each lesion with at most one of the other mask, for the largest sum of Dice."""
    match = lesions_of(pair)
    # Lesions that meet none of the other mask would only enlarge the matrix.
    predicted, column = np.unique(match.predicted, return_inverse=True)
    actual, row = np.unique(match.actual, return_inverse=True)
    dice = np.zeros((actual.size, predicted.size))
    dice[row, column] = match.dice
    rows, columns = linear_sum_assignment(dice, maximize=True)
    valid = dice[rows, columns] >= MATCH_DICE
    rows, columns = rows[valid], columns[valid]
    partners = np.full(match.reference.number, -1)
    of_partner = np.zeros(match.reference.number)
    partners[actual[rows]] = predicted[columns]
    of_partner[actual[rows]] = dice[rows, columns]
    false = ~np.isin(np.arange(match.prediction.number), partners)
    return OneToOne(partners, of_partner, false)


@dataclass(frozen=True)
class Brats2026SmallF1(Penalised):
    """F1 of the detection of small lesions."""

    name, unit, best, higher_is_better = "brats2026_small_f1", "", 1.0, True
    penalty = 0.0

    def measure(self, pair: MaskPair) -> float:
        """Return the share."""
        match, matching = lesions_of(pair), match_one_to_one(pair)
        small = match.reference.volumes_mm3 < SPLIT_MM3
        found = small & (matching.dice >= FOUND_DICE)
        rejected = small & (matching.partners >= 0) & ~found
        false = matching.false & (match.prediction.volumes_mm3 < SPLIT_MM3)
        hits, misses = np.count_nonzero(found), np.count_nonzero(small & ~found)
        whole = 2 * hits + misses + np.count_nonzero(rejected) + np.count_nonzero(false)
        return 2 * hits / whole if whole else nan


@dataclass(frozen=True)
class _OfLarge(Penalised):
    """The mean of a metric over large lesions."""

    metric: ClassVar[Metric]

    def measure(self, pair: MaskPair) -> float:
        """Return the mean over the reference's large lesions and the false ones."""
        match, matching = lesions_of(pair), match_one_to_one(pair)
        values = [self.penalty] * int(
            np.count_nonzero(matching.false & (match.prediction.volumes_mm3 >= SPLIT_MM3))
        )
        for lesion in map(int, np.flatnonzero(match.reference.volumes_mm3 >= SPLIT_MM3)):
            partner = matching.partners[lesion : lesion + 1]
            matched = partner[0] >= 0
            values.append(self.metric(pair_of_lesion(pair, lesion, partner)) if matched else self.penalty)
        return float(np.mean(values)) if values else nan


@dataclass(frozen=True)
class Brats2026Dice(_OfLarge):
    """Lesion-wise Dice of large lesions."""

    name, unit, best, higher_is_better = "brats2026_large_dice", "", 1.0, True
    metric = Dice()
    penalty = 0.0


@dataclass(frozen=True)
class Brats2026NSD(_OfLarge):
    """Lesion-wise normalised surface Dice of large lesions."""

    name, unit, best, higher_is_better = "brats2026_large_nsd_1mm", "", 1.0, True
    metric = NSD(tolerance_mm=1)
    penalty = 0.0


@dataclass(frozen=True)
class Brats2026HD95(_OfLarge):
    """Lesion-wise HD95 of large lesions."""

    name, unit, best, higher_is_better = "brats2026_large_hd95_mm", "mm", 0.0, False
    metric = HD95(definition="pooled")
    penalty = PENALTY_MM


BRATS2026: tuple[Metric, ...] = (Brats2026SmallF1(), Brats2026Dice(), Brats2026NSD(), Brats2026HD95())
