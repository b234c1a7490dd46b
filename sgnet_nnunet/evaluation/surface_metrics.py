"""Metrics of surfaces: distances between the surfaces of two masks, in mm."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage import measure

from sgnet_nnunet.evaluation.pairs import MaskPair, once_per_pair
from sgnet_nnunet.evaluation.registry import DISTANCE, SHARE, register_metric
from sgnet_nnunet.lesions import bounding_box
from sgnet_nnunet.nifti import Grid, at_least

CORNERS = (1 << np.arange(8, dtype=np.uint8)).reshape(2, 2, 2)
"""What each of the 2x2x2 voxels adds to an element's code if it is in the mask."""


@lru_cache(maxsize=64)
def element_areas(spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the area in mm2 of the element of each code, shape (256,).

    It is that of the triangles which marching cubes draw around the fewer of the voxels, those in the
    mask or the others, so that a mask and its complement have one surface. MONAI's table is the same,
    but takes seconds, and some 700 MB, to import. The spacing is in mm along the mask's axes.

    Source: Nikolov et al. 2018, arXiv:1809.04430; Lorensen and Cline 1987 for the triangles.
    """
    # scikit-image calls itself typed, but these are not.
    marching_cubes: Any = measure.marching_cubes
    mesh_surface_area: Any = measure.mesh_surface_area
    areas = np.zeros(256)
    for code in range(1, 255):
        fewer = code if code.bit_count() <= 4 else 255 - code  # noqa: PLR2004 - half of the eight
        inside = ((fewer & CORNERS) > 0).astype(np.float64)
        vertices, faces, _, _ = marching_cubes(inside, 0.5, spacing=spacing, method="lorensen")
        areas[code] = mesh_surface_area(vertices.astype(np.float64), faces)
    areas.flags.writeable = False
    return areas


@dataclass(frozen=True, eq=False)
class Distances:
    """Distances between the surfaces of two masks, in both directions.

    Attributes:
        to_reference: In mm from every element of the predicted surface to the nearest element of
            the reference's, shape (elements of the predicted surface,).
        to_prediction: The same from the reference's surface to the predicted one.
    """

    to_reference: NDArray[np.float64]
    to_prediction: NDArray[np.float64]

    @property
    def pooled(self) -> NDArray[np.float64]:
        """The distances of both directions, shape (elements of both surfaces,)."""
        return np.concatenate([self.to_reference, self.to_prediction])


@dataclass(frozen=True, eq=False)
class _Surface:
    """A mask in its bounding box with a margin of one voxel, flat, and its surface voxels' flat indices."""

    shape: tuple[int, ...]
    inside: NDArray[np.bool_]
    voxels: NDArray[np.intp]
    first: NDArray[np.intp]  # index of the box's first voxel in the mask, shape (3,)

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
def weighted_surface_distances(pair: MaskPair) -> tuple[Distances, NDArray[np.float64], NDArray[np.float64]]:
    """Return the distances between two masks' surface elements, and the area in mm2 of each of both surfaces.

    An element lies between 2x2x2 voxels that are not all alike; its area is that of the triangles
    which marching cubes would draw there (Nikolov et al. 2018, arXiv:1809.04430). Areas assume a
    grid without shear. Both masks must have voxels.
    """
    predicted, actual = (_elements(surface, pair.grid.spacing) for surface in _surfaces(pair))
    return _distances(predicted[0], actual[0], pair.grid), predicted[1], actual[1]


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


PERCENTILE = 95

HD95 = "Hausdorff distance at the 95th percentile"


@register_metric(
    "hd95_directed_mm",
    "HD95 directed (mm)",
    DISTANCE,
    meaning=f"{HD95}: the larger of the two directed percentiles over surface voxels (MONAI)",
    headline=True,
)
def hd95_directed(pair: MaskPair) -> float:
    """Return the larger of the two directed percentiles in mm."""
    distances = surface_distances(pair)
    directed = distances.to_reference, distances.to_prediction
    return max(float(np.percentile(direction, PERCENTILE)) for direction in directed)


@register_metric(
    "hd95_pooled_mm",
    "HD95 pooled (mm)",
    DISTANCE,
    meaning=f"{HD95}: the percentile of both directions' distances together (medpy, panoptica, BraTS 2025)",
)
def hd95_pooled(pair: MaskPair) -> float:
    """Return the percentile of all distances in mm."""
    return float(np.percentile(surface_distances(pair).pooled, PERCENTILE))


@register_metric(
    "hd95_surface_weighted_mm",
    "HD95 surface-weighted (mm)",
    DISTANCE,
    meaning=f"{HD95}: the larger of the two directed percentiles over surface area (DeepMind, BraTS 2023)",
)
def hd95_surface_weighted(pair: MaskPair) -> float:
    """Return the larger of the two directed percentiles over surface area in mm."""
    distances, *areas = weighted_surface_distances(pair)
    return max(map(_percentile_of_area, (distances.to_reference, distances.to_prediction), areas))


def _percentile_of_area(distances: NDArray[np.float64], areas: NDArray[np.float64]) -> float:
    """Return the smallest distance that the percentile's share of the area keeps within."""
    order = np.argsort(distances)
    covered = np.cumsum(areas[order])
    return float(distances[order[np.argmax(at_least(covered, PERCENTILE / 100 * covered[-1]))]])


@register_metric("assd_mm", "ASSD (mm)", DISTANCE)
def assd(pair: MaskPair) -> float:
    """Average symmetric surface distance: the mean over the surface voxels of both masks."""
    return float(np.mean(surface_distances(pair).pooled))


@register_metric("nsd_1mm", "NSD at 1 mm", SHARE, headline=True, ranked=True)
def nsd_1mm(pair: MaskPair) -> float:
    """Normalised surface Dice: the share of both surfaces within 1 mm of the other."""
    return surface_dice(pair, tolerance_mm=1.0)


@register_metric("nsd_2mm", "NSD at 2 mm", SHARE)
def nsd_2mm(pair: MaskPair) -> float:
    """Normalised surface Dice: the share of both surfaces within 2 mm of the other."""
    return surface_dice(pair, tolerance_mm=2.0)


def surface_dice(pair: MaskPair, *, tolerance_mm: float) -> float:
    """Return the normalised surface Dice of two masks that have voxels, at a tolerance in mm.

    MONAI's definition, over surface voxels (Nikolov et al. 2018, arXiv:1809.04430).
    """
    return float(np.mean(at_least(tolerance_mm, surface_distances(pair).pooled)))
