"""Surfaces of two masks, and the distances between them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sgnet_nnunet.evaluation.grid import Grid
from sgnet_nnunet.evaluation.pair import MaskPair, once_per_pair


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


@once_per_pair
def surface_distances(pair: MaskPair) -> Distances:
    """Return the distances between the surface voxels of two masks that have voxels.

    A voxel is on the surface if one of its six neighbours is not in the mask; outside of the image
    nothing is.
    """
    return _distances(_surface_voxels(pair.prediction), _surface_voxels(pair.reference), pair.grid)


@once_per_pair
def weighted_surface_distances(pair: MaskPair) -> WeightedDistances:
    """Return the distances between the surface elements of two masks that have voxels.

    An element lies between 2x2x2 voxels that are not all alike; its area is that of the triangles
    which marching cubes would draw there (Nikolov et al. 2018, arXiv:1809.04430). Areas assume a
    grid without shear.
    """
    predicted, predicted_areas = _surface_elements(pair.prediction, pair.grid)
    actual, reference_areas = _surface_elements(pair.reference, pair.grid)
    return WeightedDistances(_distances(predicted, actual, pair.grid), predicted_areas, reference_areas)


def _surface_voxels(mask: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return the indices of the surface voxels, shape (n, 3)."""
    padded = np.pad(mask, 1)
    flat = padded.ravel()
    voxels = np.flatnonzero(flat)
    inside = np.ones(voxels.size, dtype=bool)
    # Lesions fill little of their box: looking up each voxel's neighbours costs less than an erosion.
    for step in (1, padded.shape[2], padded.shape[1] * padded.shape[2]):
        inside &= flat[voxels - step] & flat[voxels + step]
    return np.stack(np.unravel_index(voxels[~inside], padded.shape), axis=1) - 1


def _surface_elements(mask: NDArray[np.bool_], grid: Grid) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the indices of the elements' first corners, shape (n, 3), and the areas in mm2."""
    # Imported here because MONAI takes seconds to import.
    from monai.metrics.utils import get_code_to_measure_table  # noqa: PLC0415

    table, kernel = get_code_to_measure_table(grid.spacing)
    areas, weights = table.numpy().astype(np.float64), kernel.numpy().reshape(2, 2, 2)
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([length - 1 for length in padded.shape], dtype=np.uint8)
    for corner in np.ndindex(2, 2, 2):
        window = tuple(slice(c, c + length) for c, length in zip(corner, codes.shape, strict=True))
        codes += padded[window] * np.uint8(weights[corner])
    elements = np.argwhere((codes != 0) & (codes != np.iinfo(np.uint8).max))
    return elements, areas[codes[tuple(elements.T)]]


def _distances(predicted: NDArray[np.intp], actual: NDArray[np.intp], grid: Grid) -> Distances:
    points, others = grid.millimetres(predicted), grid.millimetres(actual)
    to_reference, _ = cKDTree(others).query(points)
    to_prediction, _ = cKDTree(points).query(others)
    return Distances(to_reference, to_prediction)
