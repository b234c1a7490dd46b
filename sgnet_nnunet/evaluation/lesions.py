"""Lesions: the connected components of a mask, and which of them two masks have in common."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sgnet_nnunet.evaluation.pair import MaskPair, bounding_box, once_per_pair

CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a face, an edge or a corner belong to one lesion (26-connectivity)."""


@dataclass(frozen=True, eq=False)
class Lesions:
    """The connected components of a mask.

    Attributes:
        labels: 0 for background, then 1 to `number`; shape of the mask.
        voxels: Voxels of each lesion, shape (number,).
        voxel_mm3: Volume of a voxel in mm3.
    """

    labels: NDArray[np.int32]
    voxels: NDArray[np.intp]
    voxel_mm3: float

    @property
    def number(self) -> int:
        """How many lesions there are."""
        return self.voxels.size

    @property
    def volumes_mm3(self) -> NDArray[np.float64]:
        """Volume of each lesion in mm3, shape (number,)."""
        return np.asarray(self.voxels * self.voxel_mm3, dtype=np.float64)

    @property
    def diameters_mm(self) -> NDArray[np.float64]:
        """Diameter in mm of the sphere of each lesion's volume, shape (number,)."""
        return np.asarray(np.cbrt(6 * self.volumes_mm3 / np.pi), dtype=np.float64)

    @cached_property
    def boxes(self) -> list[tuple[slice, slice, slice]]:
        """Bounding box of each lesion."""
        return ndimage.find_objects(self.labels)


@dataclass(frozen=True, eq=False)
class LesionMatch:
    """Which lesions of a reference meet which of a prediction; any common voxel will do.

    Attributes:
        prediction: The predicted lesions.
        reference: The reference's lesions.
        predicted: Index of the predicted lesion of each pair of lesions that meet, shape (pairs,).
        actual: Index of the reference's lesion of each pair, shape (pairs,).
        common: Voxels that each pair has in common, shape (pairs,).
    """

    prediction: Lesions
    reference: Lesions
    predicted: NDArray[np.intp]
    actual: NDArray[np.intp]
    common: NDArray[np.intp]

    @property
    def detected(self) -> NDArray[np.bool_]:
        """Whether each reference lesion is found, shape (reference lesions,)."""
        return np.isin(np.arange(self.reference.number), self.actual)

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether each predicted lesion meets one of the reference, shape (predicted lesions,)."""
        return np.isin(np.arange(self.prediction.number), self.predicted)

    @property
    def false_positives(self) -> int:
        """Predicted lesions that meet none of the reference."""
        return int(np.count_nonzero(~self.hits))

    @property
    def dice(self) -> NDArray[np.float64]:
        """Dice of each pair of lesions, shape (pairs,)."""
        return 2 * self.common / (self.prediction.voxels[self.predicted] + self.reference.voxels[self.actual])


def find_lesions(mask: NDArray[np.bool_], *, spacing: tuple[float, ...]) -> Lesions:
    """Return the lesions of a mask.

    Args:
        mask: Shape (x, y, z) or any other order of the axes.
        spacing: Voxel size in mm along the mask's axes.
    """
    return _label(mask, float(np.prod(spacing)))


def match_lesions(prediction: Lesions, reference: Lesions) -> LesionMatch:
    """Match two masks' lesions by any common voxel.

    Raises:
        ValueError: If the masks' shapes differ.
    """
    if prediction.labels.shape != reference.labels.shape:
        shapes = f"{prediction.labels.shape} and {reference.labels.shape}"
        raise ValueError(f"prediction and reference must have one shape; got {shapes}")
    voxels = np.flatnonzero((prediction.labels > 0) & (reference.labels > 0))
    first, second = (
        lesions.labels.ravel()[voxels].astype(np.intp) - 1 for lesions in (prediction, reference)
    )
    # One number for each pair of labels, since NumPy finds unique numbers faster than unique rows.
    codes, common = np.unique(first * reference.number + second, return_counts=True)
    predicted, actual = np.divmod(codes, max(reference.number, 1))
    return LesionMatch(prediction, reference, predicted, actual, common)


@once_per_pair
def lesions_of(pair: MaskPair) -> LesionMatch:
    """Return the lesions of a pair of masks, matched; the labels' shape is that of the pair's box."""
    prediction, reference = (_label(m, pair.grid.voxel_mm3) for m in (pair.prediction, pair.reference))
    return match_lesions(prediction, reference)


def _label(mask: NDArray[np.bool_], voxel_mm3: float) -> Lesions:
    labels = np.zeros(mask.shape, dtype=np.int32)
    box = bounding_box(mask)
    number = ndimage.label(mask[box], structure=CONNECTIVITY, output=labels[box])
    voxels = np.bincount(labels[mask], minlength=number + 1)[1:]
    return Lesions(labels, voxels, voxel_mm3)
