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


@dataclass(frozen=True, eq=False)
class Level:
    """The lesions of one mask beside those of the reference.

    Attributes:
        found_mm3: Volume in mm3 of the largest predicted lesion that meets each lesion of the
            reference, 0 where none does, shape (reference lesions,). If smaller lesions than this are
            removed, the reference's lesion is still found.
        false_mm3: Volumes in mm3 of the predicted lesions that meet none, shape (false positives,).
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
    volumes = match.prediction.volumes_mm3
    found = np.zeros(reference.number)
    np.maximum.at(found, match.actual, volumes[match.predicted])
    return Level(found, volumes[~match.hits])
