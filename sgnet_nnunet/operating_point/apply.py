"""Probabilities in, segmentation out, at an operating point."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.lesions import find_lesions
from sgnet_nnunet.operating_point.point import OperatingPoint, is_kept
from sgnet_nnunet.standalone.labels import FEWEST_LABELS_OF_UINT16

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager


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
