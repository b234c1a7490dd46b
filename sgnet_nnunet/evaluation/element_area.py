"""Areas of the surface elements between 2x2x2 voxels."""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import measure

CORNERS = (1 << np.arange(8, dtype=np.uint8)).reshape(2, 2, 2)
"""What each of the 2x2x2 voxels adds to an element's code if it is in the mask."""


@lru_cache(maxsize=64)
def element_areas(spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the area in mm2 of the element of each code, shape (256,).

    It is that of the triangles which marching cubes draw around the fewer of the voxels, those in the
    mask or the others, so that a mask and its complement have one surface. MONAI's table is the same,
    but takes seconds, and some 700 MB, to import.

    Args:
        spacing: Voxel size in mm along the mask's axes.

    Source: Nikolov et al. 2018, arXiv:1809.04430; Lorensen and Cline 1987 for the triangles.
    """
    areas = np.zeros(256)
    for code in range(1, 255):
        fewer = code if code.bit_count() <= 4 else 255 - code  # noqa: PLR2004 - half of the eight
        inside = ((fewer & CORNERS) > 0).astype(np.float64)
        areas[code] = _area(inside, spacing)
    areas.flags.writeable = False
    return areas


def _area(inside: NDArray[np.float64], spacing: tuple[float, float, float]) -> float:
    # scikit-image calls itself typed, but these are not.
    marching_cubes: Any = measure.marching_cubes
    mesh_surface_area: Any = measure.mesh_surface_area
    vertices, faces, _, _ = marching_cubes(inside, 0.5, spacing=spacing, method="lorensen")
    return float(mesh_surface_area(vertices.astype(np.float64), faces))
