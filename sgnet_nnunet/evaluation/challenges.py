"""Lesion-wise metrics of the BraTS challenges on metastases, as the presets `brats2023` and `brats2026`.

Lesions are 26-connected components in both. Volumes are in mm3 and distances in mm, through the affine.

`brats2023` (BraTS-METS 2023 and 2024): each lesion of the reference is grown by one voxel in every
direction, corners included, and is matched with all predicted lesions that its grown shape meets;
Dice and HD95 compare the lesion itself with all of these together. Lesions of 2 mm3 or less do not
count, nor do predicted ones that match them. A missed or a false lesion scores Dice 0 and HD95 374
mm; the mean is taken over the reference's lesions and the false ones. Where there is neither, Dice
is 1 and HD95 is 0. The HD95 is surface-weighted, since the challenge used DeepMind's.

The challenge's code differs in two points: reference lesions whose grown shapes touch, with two voxels or
fewer between them, are one lesion there; and a lesion grows to its faces and edges, not to its corners.

Sources: BraTS-METS 2023 (arXiv:2306.00838); its organisers' announcement (Synapse syn51156910, thread
10357); https://github.com/rachitsaluja/BraTS-2023-Metrics at 43c9052 (BraTS-MET: dilation 1, threshold 2).

`brats2026`: lesions are matched one to one, for the largest sum of Dice. Those of the reference below 20
mm3 are small: found from a Dice of 0.1 on, else missed, and scored by the F1 of their detection. The others
are scored each by Dice, NSD within the smallest side of a voxel (the mean of both surfaces' shares) and
HD95 (pooled); a missed one scores 0, 0 and 373 mm. Every predicted lesion without a match, of whatever size,
is a false positive of both classes. A class without a lesion in the reference has no score.

The official package differs in one point: it takes the sizes of a voxel along x, y and z for those along z,
y and x, which changes distances where the first and the last differ. BraTS images have voxels of 1 mm.

Source: behaviour of the package brats-evaluation 0.0.10 (configuration `mets`, `--vol_threshold 20.0
--overlap_threshold 0.1`) on panoptica 2.1.7. The challenge may rank by other rules.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import nan

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from sgnet_nnunet.evaluation.lesion_metrics import lesions_of, pair_of_lesion
from sgnet_nnunet.evaluation.mask_metrics import dice
from sgnet_nnunet.evaluation.pairs import MaskPair, once_per_pair
from sgnet_nnunet.evaluation.registry import DISTANCE, SHARE, register_metric
from sgnet_nnunet.evaluation.surface_metrics import hd95_pooled, hd95_surface_weighted, surface_distances
from sgnet_nnunet.lesions import CONNECTIVITY, Lesions
from sgnet_nnunet.nifti import at_least

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
        if at_least(IGNORED_MM3, volume):
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
"""Reference lesions below this volume are small."""

MATCH_DICE = 1e-6
"""Smallest Dice of a match, and what a match is worth beyond its Dice."""

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
    """Match each lesion with at most one of the other mask, for the largest sum of Dice, then most matches.

    Between equally good matchings the order of the lesions in the file decides.
    """
    match = lesions_of(pair)
    # Lesions that meet none of the other mask would only enlarge the matrix.
    predicted, column = np.unique(match.predicted, return_inverse=True)
    actual, row = np.unique(match.actual, return_inverse=True)
    dice = np.zeros((actual.size, predicted.size))
    dice[row, column] = match.dice
    rows, columns = linear_sum_assignment(np.where(dice > 0, 1 - dice, 1 + MATCH_DICE))
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
    """F1 of detection below 20 mm³ by BraTS 2026; not a number without such a lesion in the reference."""
    match, matching = lesions_of(pair), match_one_to_one(pair)
    small = ~at_least(match.reference.volumes_mm3, SPLIT_MM3)
    hits = np.count_nonzero(small & (matching.dice >= FOUND_DICE))
    whole = hits + np.count_nonzero(small) + np.count_nonzero(matching.false)
    return 2 * hits / whole if small.any() else nan


@_brats2026("brats2026_large_dice", "BraTS 2026 Dice, large lesions", _LESION_SHARE)
def brats2026_large_dice(pair: MaskPair) -> float:
    """Lesion-wise Dice from 20 mm³ on by BraTS 2026; not a number without such a lesion in the reference."""
    return _mean_of_large(pair, dice, penalty=0.0)


@_brats2026("brats2026_large_nsd", "BraTS 2026 NSD, large lesions", _LESION_SHARE)
def brats2026_large_nsd(pair: MaskPair) -> float:
    """Lesion-wise NSD within the smallest side of a voxel, like the Dice: mean of both surfaces' shares."""
    return _mean_of_large(pair, _directed_nsd, penalty=0.0)


@_brats2026("brats2026_large_hd95_mm", "BraTS 2026 HD95, large lesions (mm)", _LESION_DISTANCE)
def brats2026_large_hd95(pair: MaskPair) -> float:
    """Lesion-wise HD95 (pooled) from 20 mm³ on, like the Dice, by BraTS 2026."""
    return _mean_of_large(pair, hd95_pooled, penalty=BRATS2026_PENALTY_MM)


def _mean_of_large(pair: MaskPair, metric: Callable[[MaskPair], float], *, penalty: float) -> float:
    """Return the mean over the reference's large lesions and all predicted ones without a match."""
    match, matching = lesions_of(pair), match_one_to_one(pair)
    large = np.flatnonzero(at_least(match.reference.volumes_mm3, SPLIT_MM3))
    values = [penalty] * int(np.count_nonzero(matching.false))
    for lesion in map(int, large):
        partner = matching.partners[lesion : lesion + 1]
        values.append(metric(pair_of_lesion(pair, lesion, partner)) if partner[0] >= 0 else penalty)
    return float(np.mean(values)) if large.size else nan


def _directed_nsd(pair: MaskPair) -> float:
    distances, tolerance = surface_distances(pair), min(pair.grid.spacing)
    both = distances.to_reference, distances.to_prediction
    return float(np.mean([np.mean(at_least(tolerance, direction)) for direction in both]))
