"""One case at every threshold: all that is needed to count its lesions for any smallest volume."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.lesions import Lesions, find_lesions, match_lesions
from sgnet_nnunet.evaluation.pair import bounding_box
from sgnet_nnunet.operating_point.apply import foreground_probability

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

BELOW_DEFAULT = 0.49
"""nnU-Net's own foreground has a higher foreground probability than this: it takes the largest of all."""

SMALLEST_SHARE = 0.1
"""Share of a predicted lesion that must lie in the reference's; less of it is a flood, not a find.

Any common voxel will do at nnU-Net's own threshold, as in `evaluation.detection`. But the lower the
threshold, the more of what is predicted runs together, until one lesion fills the brain, meets every
lesion of the reference and leaves no false positive: the best of all by that rule alone.
"""


@dataclass(frozen=True, eq=False)
class Level:
    """The lesions of one mask beside those of the reference.

    A predicted lesion is true if a tenth of it or more (`SMALLEST_SHARE`) lies in the reference's
    lesions, else it is false. A lesion of the reference is found if it meets a true one.

    Attributes:
        found_mm3: Volume in mm3 of the largest true lesion that meets each lesion of the reference, 0
            where none does, shape (reference lesions,). If smaller lesions than this are removed, the
            reference's lesion is still found.
        false_mm3: Volumes in mm3 of the false lesions, shape (false positives,).
    """

    found_mm3: NDArray[np.float64]
    false_mm3: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CaseLevels:
    """One case, cut at many thresholds.

    Attributes:
        lesions: Lesions of the reference.
        default: nnU-Net's own segmentation.
        levels: One for each threshold.
    """

    lesions: int
    default: Level
    levels: tuple[Level, ...]


def levels_of(
    probabilities: NDArray[np.floating],
    reference: NDArray[np.bool_],
    *,
    thresholds: Sequence[float],
    label_manager: "LabelManager",
    spacing: tuple[float, ...],
) -> CaseLevels:
    """Cut a case at every threshold.

    Args:
        probabilities: As nnU-Net saves them, shape (classes or regions, z, y, x).
        reference: Where the reference has foreground of any kind, shape (z, y, x).
        thresholds: Thresholds on the foreground probability.
        label_manager: nnU-Net's for the model.
        spacing: Voxel size in mm along z, y, x.
    """
    lowest = min(*thresholds, BELOW_DEFAULT)
    box = bounding_box((foreground_probability(probabilities, label_manager) > lowest) | reference)
    inside = np.ascontiguousarray(probabilities[(slice(None), *box)])
    lesions = find_lesions(reference[box], spacing=spacing)
    default, *levels = (
        _level(mask, lesions, spacing=spacing) for mask in _masks(inside, thresholds, label_manager)
    )
    return CaseLevels(lesions.number, default, tuple(levels))


def _masks(
    probabilities: NDArray[np.floating], thresholds: Sequence[float], label_manager: "LabelManager"
) -> Iterator[NDArray[np.bool_]]:
    yield label_manager.convert_probabilities_to_segmentation(probabilities) > 0
    foreground = foreground_probability(probabilities, label_manager)
    yield from (foreground > threshold for threshold in thresholds)


def _level(mask: NDArray[np.bool_], reference: Lesions, *, spacing: tuple[float, ...]) -> Level:
    match = match_lesions(find_lesions(mask, spacing=spacing), reference)
    voxels, volumes = match.prediction.voxels, match.prediction.volumes_mm3
    inside = np.bincount(match.predicted, weights=match.common, minlength=voxels.size)
    true = inside >= SMALLEST_SHARE * voxels
    found = np.zeros(reference.number)
    np.maximum.at(found, match.actual, np.where(true, volumes, 0)[match.predicted])
    return Level(found, volumes[~true])
