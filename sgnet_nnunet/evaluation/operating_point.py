"""The operating point: where probabilities become lesions."""

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.lesion_metrics import find_lesions
from sgnet_nnunet.inference.plan import FEWEST_LABELS_OF_UINT16

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

VOLUME_TOLERANCE = 1e-4
"""Relative: headers keep a spacing of 1 mm as 1.0000001, and 5 voxels of it are still 5 mm3."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Which voxels are foreground, and which lesions are kept.

    Attributes:
        threshold: Voxels with a higher foreground probability are foreground.
        smallest_lesion_mm3: Lesions of a smaller volume are removed.

    Raises:
        ValueError: If the threshold is not between 0 and 1, or the volume is negative or not finite.
    """

    threshold: float
    smallest_lesion_mm3: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"the threshold must be between 0 and 1; got {self.threshold}")
        if not (isfinite(self.smallest_lesion_mm3) and self.smallest_lesion_mm3 >= 0):
            raise ValueError(f"the smallest lesion must have 0 mm3 or more; got {self.smallest_lesion_mm3}")

    def __str__(self) -> str:
        removed = f"below {self.smallest_lesion_mm3:g} mm3" if self.smallest_lesion_mm3 else "nothing"
        return f"threshold {self.threshold:g}, {removed} removed"


def is_kept(volumes_mm3: NDArray[np.float64], smallest_mm3: float | NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether lesions of these volumes are kept; the two broadcast."""
    return np.asarray(volumes_mm3 >= smallest_mm3 * (1 - VOLUME_TOLERANCE), dtype=np.bool_)


def foreground_probability(
    probabilities: NDArray[np.floating], label_manager: "LabelManager"
) -> NDArray[np.floating]:
    """Return the probability that a voxel is foreground of any kind.

    It is that of the one foreground class, what the background leaves of 1 with several classes, and
    the highest of the regions' with regions: above a threshold just where one of them is.

    Args:
        probabilities: Shape (classes or regions, z, y, x), or any other order of the last three.
        label_manager: nnU-Net's for the model.

    Returns:
        Shape (z, y, x).
    """
    if label_manager.has_regions:
        return np.asarray(probabilities.max(axis=0))
    return probabilities[1] if len(probabilities) == 2 else 1 - probabilities[0]  # noqa: PLR2004


def apply_operating_point(
    probabilities: NDArray[np.floating],
    point: OperatingPoint,
    label_manager: "LabelManager",
    spacing: tuple[float, ...],
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the segmentation at an operating point.

    A foreground voxel gets the most probable foreground class; with regions it gets nnU-Net's
    `regions_class_order`, each region cut at the threshold. A lesion is a 26-connected component of
    foreground of any kind, and is removed whole.

    Args:
        probabilities: As nnU-Net saves them, shape (classes or regions, z, y, x).
        point: The operating point.
        label_manager: nnU-Net's for the model.
        spacing: Voxel size in mm along z, y, x.

    Returns:
        Values of labels, shape (z, y, x).
    """
    lesions = find_lesions(
        foreground_probability(probabilities, label_manager) > point.threshold, spacing=spacing
    )
    kept = np.concatenate([[False], is_kept(lesions.volumes_mm3, point.smallest_lesion_mm3)])
    foreground = kept[lesions.labels]
    wide = len(label_manager.foreground_labels) >= FEWEST_LABELS_OF_UINT16
    segmentation = np.zeros(foreground.shape, dtype=np.uint16 if wide else np.uint8)
    segmentation[foreground] = _classes(probabilities[:, foreground], point.threshold, label_manager)
    return segmentation


def _classes(
    probabilities: NDArray[np.floating], threshold: float, label_manager: "LabelManager"
) -> NDArray[np.intp]:
    """Return the class of foreground voxels; shapes (classes or regions, n) and (n,)."""
    if not label_manager.has_regions:
        return probabilities[1:].argmax(axis=0) + 1
    classes = np.zeros(probabilities.shape[1], dtype=np.intp)
    for region, value in zip(probabilities, label_manager.regions_class_order, strict=True):
        classes[region > threshold] = value
    return classes
