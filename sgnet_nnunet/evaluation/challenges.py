"""Lesion-wise metrics of the BraTS challenges on metastases, as the presets `brats2023` and `brats2026`.

`brats2023` (BraTS-METS 2023 and 2024): each lesion of the reference is grown by one voxel in every
direction, corners included, and is matched with all predicted lesions that its grown shape meets;
Dice and HD95 compare the lesion itself with all of these together. Lesions of 2 mm3 or less do not
count, nor do predicted ones that match them. A missed or a false lesion scores Dice 0 and HD95 374
mm; the mean is taken over the reference's lesions and the false ones. Where there is neither, Dice
is 1 and HD95 is 0. The HD95 is surface-weighted, since the challenge used DeepMind's.

The challenge's own code differs in two points: lesions whose grown shapes touch count there as one,
and a lesion does not grow to its corners.

`brats2026`: lesions are matched one to one, for the largest sum of Dice. Those below 20 mm3 are scored by
the F1 of their detection, the others each by Dice, NSD and HD95.

Lesions are 26-connected components in both.

Source: BraTS-METS 2023 (arXiv:2306.00838) and its organisers' announcement, Synapse syn51156910.
"""

from dataclasses import dataclass, replace
from functools import partial
from math import nan

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from sgnet_nnunet.evaluation.lesion_metrics import CONNECTIVITY, Lesions, lesions_of, pair_of_lesion
from sgnet_nnunet.evaluation.mask_metrics import dice
from sgnet_nnunet.evaluation.pairs import MaskPair, once_per_pair
from sgnet_nnunet.evaluation.registry import DISTANCE, SHARE, Metric, register_metric
from sgnet_nnunet.evaluation.surface_metrics import hd95_pooled, hd95_surface_weighted, nsd_1mm

IGNORED_MM3 = 2.0
"""Lesions of the reference up to this volume do not count."""

PENALTY_MM = 374.0
"""HD95 of a missed or a false lesion: about the diagonal of a BraTS image, 240 x 240 x 155 mm."""


# A mean over lesions, where one without a partner scores a penalty, needs no rule for empty masks.
_LESION_SHARE = replace(SHARE, both_empty="measured", one_empty="measured")
_LESION_DISTANCE = replace(DISTANCE, both_empty="measured", one_empty="measured")


@register_metric("brats2023_dice", "BraTS 2023 Dice", _LESION_SHARE, preset="brats2023")
def brats2023_dice(pair: MaskPair) -> float:
    """Lesion-wise Dice of BraTS-METS 2023."""
    scores, _, unmatched = _lesion_scores(pair)
    return _mean(scores, unmatched, penalty=0.0, of_nothing=1.0)


@register_metric("brats2023_hd95_mm", "BraTS 2023 HD95 (mm)", _LESION_DISTANCE, preset="brats2023")
def brats2023_hd95(pair: MaskPair) -> float:
    """Lesion-wise HD95 (surface-weighted) of BraTS-METS 2023."""
    _, scores, unmatched = _lesion_scores(pair)
    return _mean(scores, unmatched, penalty=PENALTY_MM, of_nothing=0.0)


def _mean(matched: list[float], unmatched: int, *, penalty: float, of_nothing: float) -> float:
    """Return the mean over matched lesions and the penalties of the others."""
    number = len(matched) + unmatched
    return (sum(matched) + penalty * unmatched) / number if number else of_nothing


@once_per_pair
def _lesion_scores(pair: MaskPair) -> tuple[list[float], list[float], int]:
    """Return Dice and HD95 in mm of each matched lesion, and the number of lesions that are not matched."""
    match = lesions_of(pair)
    matched = np.zeros(match.prediction.number, dtype=bool)
    dices, distances, missed = [], [], 0
    for lesion, volume in enumerate(match.reference.volumes_mm3):
        partners = _partners_of_grown(match.reference, lesion, match.prediction)
        matched[partners] = True
        if volume <= IGNORED_MM3:
            continue
        if partners.size:
            alone = pair_of_lesion(pair, lesion, partners)
            dices.append(dice(alone))
            distances.append(hd95_surface_weighted(alone))
        else:
            missed += 1
    return dices, distances, missed + int(np.count_nonzero(~matched))


def _partners_of_grown(reference: Lesions, lesion: int, prediction: Lesions) -> NDArray[np.intp]:
    """Return the indices of the predicted lesions that a grown lesion meets, shape (n,)."""
    around = tuple(slice(max(axis.start - 1, 0), axis.stop + 1) for axis in reference.boxes[lesion])
    grown = ndimage.binary_dilation(reference.labels[around] == lesion + 1, CONNECTIVITY)
    labels = np.unique(prediction.labels[around][grown])
    return labels[labels > 0].astype(np.intp) - 1


SPLIT_MM3 = 20.0
"""Lesions below this volume are small."""

MATCH_DICE = 1e-6
"""Smallest Dice of a match."""

FOUND_DICE = 0.1
"""Smallest Dice of a small lesion's match for which it counts as found."""

BRATS2026_PENALTY_MM = 373.0
"""HD95 of a missed or a false lesion: the diagonal of a BraTS image, 240 x 240 x 155 mm."""


@dataclass(frozen=True, eq=False)
class OneToOne:
    """The best one-to-one matching of a pair's lesions.

    Attributes:
        partners: Index of each reference lesion's match among the predicted, -1 if it has none.
        dice: Dice of each reference lesion's match, 0 if there is none.
        false: Whether each predicted lesion is without a match.
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


_brats2026 = partial(register_metric, preset="brats2026")


@_brats2026("brats2026_small_f1", "BraTS 2026 F1, small lesions", _LESION_SHARE)
def brats2026_small_f1(pair: MaskPair) -> float:
    """F1 of the detection of lesions below 20 mm³, by BraTS-METS 2026."""
    match, matching = lesions_of(pair), match_one_to_one(pair)
    small = match.reference.volumes_mm3 < SPLIT_MM3
    found = small & (matching.dice >= FOUND_DICE)
    rejected = small & (matching.partners >= 0) & ~found
    false = matching.false & (match.prediction.volumes_mm3 < SPLIT_MM3)
    hits, misses = np.count_nonzero(found), np.count_nonzero(small & ~found)
    whole = 2 * hits + misses + np.count_nonzero(rejected) + np.count_nonzero(false)
    return 2 * hits / whole if whole else nan


@_brats2026("brats2026_large_dice", "BraTS 2026 Dice, large lesions", _LESION_SHARE)
def brats2026_large_dice(pair: MaskPair) -> float:
    """Lesion-wise Dice of lesions of 20 mm³ or more, by BraTS-METS 2026."""
    return _mean_of_large(pair, dice, penalty=0.0)


@_brats2026("brats2026_large_nsd_1mm", "BraTS 2026 NSD at 1 mm, large lesions", _LESION_SHARE)
def brats2026_large_nsd(pair: MaskPair) -> float:
    """Lesion-wise normalised surface Dice at 1 mm of lesions of 20 mm³ or more, by BraTS-METS 2026."""
    return _mean_of_large(pair, nsd_1mm, penalty=0.0)


@_brats2026("brats2026_large_hd95_mm", "BraTS 2026 HD95, large lesions (mm)", _LESION_DISTANCE)
def brats2026_large_hd95(pair: MaskPair) -> float:
    """Lesion-wise HD95 (pooled) of lesions of 20 mm³ or more, by BraTS-METS 2026."""
    return _mean_of_large(pair, hd95_pooled, penalty=BRATS2026_PENALTY_MM)


def _mean_of_large(pair: MaskPair, metric: Metric, *, penalty: float) -> float:
    """Return the mean of a metric over the reference's large lesions and the false ones."""
    match, matching = lesions_of(pair), match_one_to_one(pair)
    false = matching.false & (match.prediction.volumes_mm3 >= SPLIT_MM3)
    values = [penalty] * int(np.count_nonzero(false))
    for lesion in map(int, np.flatnonzero(match.reference.volumes_mm3 >= SPLIT_MM3)):
        partner = matching.partners[lesion : lesion + 1]
        values.append(metric(pair_of_lesion(pair, lesion, partner)) if partner[0] >= 0 else penalty)
    return float(np.mean(values)) if values else nan
