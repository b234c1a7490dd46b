"""Surfaces of two masks, and the distances between them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sgnet_nnunet.evaluation.element_area import CORNERS, element_areas
from sgnet_nnunet.evaluation.grid import Grid
from sgnet_nnunet.evaluation.pair import MaskPair, bounding_box, once_per_pair


@dataclass(frozen=True, eq=False)
class Distances:
    """How far each mask's surface is from the other's.

    Attributes:
        to_reference: In mm from every element of the predicted surface to the nearest element of
            the reference's, shape (elements of the predicted surface,).
        to_prediction: The same from the reference's surface to the predicted one.
    """

    to_reference: NDArray[np.float64]
    to_prediction: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WeightedDistances:
    """Distances between surface elements, with the elements' areas.

    Attributes:
        distances: The distances in mm.
        predicted_areas: Area in mm2 of each element of the predicted surface.
        reference_areas: Area in mm2 of each element of the reference's.
    """

    distances: Distances
    predicted_areas: NDArray[np.float64]
    reference_areas: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Surface:
    """A mask inside its bounding box, with a margin of one voxel, and where its surface is.

    Attributes:
        shape: Shape of the box with its margin.
        inside: Whether each voxel is in the mask, flat.
        voxels: Flat indices of the surface voxels.
        first: Index of the box's first voxel, shape (3,).
    """

    shape: tuple[int, ...]
    inside: NDArray[np.bool_]
    voxels: NDArray[np.intp]
    first: NDArray[np.intp]

    def indices(self, flat: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return flat indices as indices of the mask's three axes, shape (n, 3)."""
        return np.stack(np.unravel_index(flat, self.shape), axis=1) + self.first


@once_per_pair
def surface_distances(pair: MaskPair) -> Distances:
    """Return the distances between the surface voxels of two masks that have voxels.

    A voxel is on the surface if one of its six neighbours is not in the mask; outside of the image
    nothing is.
    """
    predicted, actual = (surface.indices(surface.voxels) for surface in _surfaces(pair))
    return _distances(predicted, actual, pair.grid)


@once_per_pair
def weighted_surface_distances(pair: MaskPair) -> WeightedDistances:
    """Return the distances between the surface elements of two masks that have voxels.

    An element lies between 2x2x2 voxels that are not all alike; its area is that of the triangles
    which marching cubes would draw there (Nikolov et al. 2018, arXiv:1809.04430). Areas assume a
    grid without shear.
    """
    predicted, actual = (_elements(surface, pair.grid.spacing) for surface in _surfaces(pair))
    return WeightedDistances(_distances(predicted[0], actual[0], pair.grid), predicted[1], actual[1])


@once_per_pair
def _surfaces(pair: MaskPair) -> tuple[_Surface, _Surface]:
    return _surface(pair.prediction), _surface(pair.reference)


def _surface(mask: NDArray[np.bool_]) -> _Surface:
    box = bounding_box(mask)
    padded = np.pad(mask[box], 1)
    inside = padded.ravel()
    voxels = np.flatnonzero(inside)
    enclosed = np.ones(voxels.size, dtype=bool)
    # Lesions fill little of their box: looking up each voxel's neighbours costs less than an erosion.
    for step in _steps(padded.shape):
        enclosed &= inside[voxels - step] & inside[voxels + step]
    first = np.array([axis.start - 1 for axis in box])
    return _Surface(padded.shape, inside, voxels[~enclosed], first)


def _elements(
    surface: _Surface, spacing: tuple[float, float, float]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the index of each element's first voxel, shape (n, 3), and its area in mm2."""
    corners = {corner: int(np.dot(corner, _steps(surface.shape))) for corner in np.ndindex(2, 2, 2)}
    # Voxels that are not all alike have a surface voxel among them.
    near = np.zeros(surface.inside.size, dtype=bool)
    for offset in corners.values():
        near[surface.voxels - offset] = True
    cells = np.flatnonzero(near)
    codes = np.zeros(cells.size, dtype=np.uint8)
    for corner, offset in corners.items():
        codes += surface.inside[cells + offset] * CORNERS[corner]
    mixed = codes != np.iinfo(np.uint8).max
    return surface.indices(cells[mixed]), element_areas(spacing)[codes[mixed]]


def _steps(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return how far apart in a flat array neighbours along each axis are."""
    return shape[1] * shape[2], shape[2], 1


def _distances(predicted: NDArray[np.intp], actual: NDArray[np.intp], grid: Grid) -> Distances:
    points, others = grid.millimetres(predicted), grid.millimetres(actual)
    to_reference, _ = cKDTree(others).query(points)
    to_prediction, _ = cKDTree(points).query(others)
    return Distances(to_reference, to_prediction)
