"""The lesion-wise scores of BraTS-METS 2023 and 2024, as the preset `brats2023`.

Lesions are 26-connected components. Each lesion of the reference is grown by one voxel in every
direction, corners included, and is matched with all predicted lesions that its grown shape meets;
Dice and HD95 compare the lesion itself with all of these together. Lesions of 2 mm3 or less do not
count, nor do predicted ones that match them. A missed or a false lesion scores Dice 0 and HD95 374
mm; the mean is taken over the reference's lesions and the false ones. Where there is neither, Dice
is 1 and HD95 is 0. The HD95 is surface-weighted, since the challenge used DeepMind's.

The challenge's own code differs in two points: lesions whose grown shapes touch count there as one,
and a lesion does not grow to its corners.

Source: BraTS-METS 2023 (arXiv:2306.00838) and its organisers' announcement, Synapse syn51156910.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sgnet_nnunet.evaluation.distance import HD95
from sgnet_nnunet.evaluation.lesion_rows import pair_of_lesion
from sgnet_nnunet.evaluation.lesions import CONNECTIVITY, Lesions, lesions_of
from sgnet_nnunet.evaluation.metric import Metric, Penalised
from sgnet_nnunet.evaluation.overlap import Dice
from sgnet_nnunet.evaluation.pair import MaskPair, once_per_pair

IGNORED_MM3 = 2.0
"""Lesions of the reference up to this volume do not count."""

PENALTY_MM = 374.0
"""HD95 of a missed or a false lesion: about the diagonal of a BraTS image, 240 x 240 x 155 mm."""


@dataclass(frozen=True)
class _LesionScores:
    """Scores of the lesions that are matched, and how many are not."""

    dice: list[float]
    hd95_mm: list[float]
    unmatched: int


@dataclass(frozen=True)
class _Brats2023(Penalised):
    """The mean over the reference's lesions and the false ones."""

    perfect: ClassVar[float]

    def mean(self, matched: list[float], unmatched: int) -> float:
        """Return the mean over the matched lesions and the penalties for the others."""
        number = len(matched) + unmatched
        return (sum(matched) + self.penalty * unmatched) / number if number else self.perfect


@dataclass(frozen=True)
class Brats2023Dice(_Brats2023):
    """Lesion-wise Dice of BraTS-METS 2023."""

    name, unit, higher_is_better = "brats2023_dice", "", True
    best = perfect = 1.0
    penalty = 0.0

    def measure(self, pair: MaskPair) -> float:
        """Return the mean Dice."""
        scores = _lesion_scores(pair)
        return self.mean(scores.dice, scores.unmatched)


@dataclass(frozen=True)
class Brats2023HD95(_Brats2023):
    """Lesion-wise HD95 of BraTS-METS 2023."""

    name, unit, higher_is_better = "brats2023_hd95_mm", "mm", False
    best = perfect = 0.0
    penalty = PENALTY_MM

    def measure(self, pair: MaskPair) -> float:
        """Return the mean distance in mm."""
        scores = _lesion_scores(pair)
        return self.mean(scores.hd95_mm, scores.unmatched)


BRATS2023: tuple[Metric, ...] = (Brats2023Dice(), Brats2023HD95())


@once_per_pair
def _lesion_scores(pair: MaskPair) -> _LesionScores:
    match = lesions_of(pair)
    matched = np.zeros(match.prediction.number, dtype=bool)
    dice, hd95_mm, missed = [], [], 0
    for lesion, volume in enumerate(match.reference.volumes_mm3):
        partners = _partners_of_grown(match.reference, lesion, match.prediction)
        matched[partners] = True
        if volume <= IGNORED_MM3:
            continue
        if partners.size:
            alone = pair_of_lesion(pair, lesion, partners)
            dice.append(Dice()(alone))
            hd95_mm.append(HD95(definition="surface-weighted")(alone))
        else:
            missed += 1
    return _LesionScores(dice, hd95_mm, missed + int(np.count_nonzero(~matched)))


def _partners_of_grown(reference: Lesions, lesion: int, prediction: Lesions) -> NDArray[np.intp]:
    """Return the indices of the predicted lesions that a grown lesion meets, shape (n,)."""
    around = tuple(slice(max(axis.start - 1, 0), axis.stop + 1) for axis in reference.boxes[lesion])
    grown = ndimage.binary_dilation(reference.labels[around] == lesion + 1, CONNECTIVITY)
    labels = np.unique(prediction.labels[around][grown])
    return labels[labels > 0].astype(np.intp) - 1
