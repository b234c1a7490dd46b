"""Scanner grids: where the voxels of a scan lie in the world."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

FloatArray = NDArray[np.float32]
Shape = tuple[int, int, int]

MAJORITY = 0.5
"""A mask holds the voxels that its structure fills by more than this fraction."""


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxels in RAS axis order.

    Attributes:
        shape: Number of voxels along x, y, z.
        affine: 4x4 matrix from voxel index to world millimetres (RAS+).
    """

    shape: Shape
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> NDArray[np.float64]:
        """Voxel size in mm along x, y, z."""
        sizes: NDArray[np.float64] = np.linalg.norm(self.affine[:3, :3], axis=0)
        return sizes

    @property
    def extent(self) -> NDArray[np.float64]:
        """Sides in mm along x, y, z."""
        return self.spacing * self.shape

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm3."""
        return float(np.prod(self.spacing))

    def axes(self) -> list[NDArray[np.float64]]:
        """Positions in mm along x, y and z, counted from the first voxel."""
        return [np.arange(count) * size for count, size in zip(self.shape, self.spacing, strict=True)]

    def crop(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> "Grid":
        """Return the grid of voxels `low` to `high`, the last excluded; both may lie outside."""
        affine = self.affine.copy()
        affine[:3, 3] += self.affine[:3, :3] @ low
        x, y, z = (int(count) for count in high - low)
        return Grid((x, y, z), affine)


def rotation(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the 3x3 rotation by `degrees` about x, then y, then z."""
    matrix: NDArray[np.float64] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return matrix


def centred_grid(
    *,
    centre: NDArray[np.float64],
    extent: NDArray[np.float64],
    spacing: NDArray[np.float64],
    turn: NDArray[np.float64],
) -> Grid:
    """Return a grid of at least `extent` mm around `centre` (world mm), its axes turned by `turn` (3x3)."""
    x, y, z = (int(count) for count in np.ceil(extent / spacing))
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array((x, y, z)) - 1) / 2)
    return Grid((x, y, z), affine)
