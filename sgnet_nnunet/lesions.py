"""Lesions: the connected components of a mask."""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Box: TypeAlias = tuple[slice, slice, slice]
"""A part of an array, as an index."""

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

    def mean_of(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the mean in each lesion of an array of the mask's shape, shape (number,)."""
        inside = self.labels > 0
        sums = np.bincount(self.labels[inside], weights=values[inside], minlength=self.number + 1)[1:]
        return np.asarray(sums / self.voxels, dtype=np.float64)

    @cached_property
    def boxes(self) -> list[tuple[slice, slice, slice]]:
        """Bounding box of each lesion."""
        return ndimage.find_objects(self.labels)


def find_lesions(mask: NDArray[np.bool_], *, spacing: tuple[float, ...]) -> Lesions:
    """Return the lesions of a mask of three axes in any order; voxel size in mm along each."""
    return label_components(mask, float(np.prod(spacing)))


def label_components(mask: NDArray[np.bool_], voxel_mm3: float) -> Lesions:
    """Return the lesions of a mask of three axes in any order, given the volume of a voxel."""
    labels = np.zeros(mask.shape, dtype=np.int32)
    box = bounding_box(mask)
    number = ndimage.label(mask[box], structure=CONNECTIVITY, output=labels[box])
    voxels = np.bincount(labels[mask], minlength=number + 1)[1:]
    return Lesions(labels, voxels, voxel_mm3)


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box that contains every voxel of a 3D mask; empty if it has none."""
    hits = (np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    i, j, k = (slice(int(axis[0]), int(axis[-1]) + 1) if axis.size else slice(0, 0) for axis in hits)
    return i, j, k
