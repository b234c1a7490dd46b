"""Lesions: the connected components of a mask, and which of them two masks have in common."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a face, an edge or a corner belong to one lesion (26-connectivity)."""


@dataclass(frozen=True)
class Lesions:
    """The connected components of a mask.

    Attributes:
        labels: 0 for background, then 1 to `number`; shape of the mask.
        volumes_mm3: Volume of each lesion, shape (number,).
    """

    labels: NDArray[np.int32]
    volumes_mm3: NDArray[np.float64]

    @property
    def number(self) -> int:
        """How many lesions there are."""
        return self.volumes_mm3.size

    @property
    def diameters_mm(self) -> NDArray[np.float64]:
        """Diameter in mm of the sphere of each lesion's volume, shape (number,)."""
        return np.cbrt(6 * self.volumes_mm3 / np.pi)


@dataclass(frozen=True)
class LesionMatch:
    """Which lesions of a reference a prediction finds; any common voxel will do.

    Attributes:
        detected: Whether each reference lesion is found, shape (lesions,).
        false_positives: Predicted components that touch no reference lesion.
    """

    detected: NDArray[np.bool_]
    false_positives: int


def find_lesions(mask: NDArray[np.bool_], *, spacing: tuple[float, ...]) -> Lesions:
    """Return the lesions of a mask.

    Args:
        mask: Shape (x, y, z) or any other order of the axes.
        spacing: Voxel size in mm along the mask's axes.
    """
    labels, number = ndimage.label(mask, structure=CONNECTIVITY)
    voxels = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    return Lesions(labels, (voxels * np.prod(spacing)).astype(np.float64))


def match_lesions(prediction: Lesions, reference: Lesions) -> LesionMatch:
    """Match two masks' lesions by any common voxel.

    Raises:
        ValueError: If the masks' shapes differ.
    """
    if prediction.labels.shape != reference.labels.shape:
        shapes = f"{prediction.labels.shape} and {reference.labels.shape}"
        raise ValueError(f"prediction and reference must have one shape; got {shapes}")
    common = (prediction.labels > 0) & (reference.labels > 0)
    detected = np.isin(np.arange(1, reference.number + 1), reference.labels[common])
    hits = np.unique(prediction.labels[common]).size
    return LesionMatch(detected, prediction.number - hits)
