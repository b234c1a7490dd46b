"""The grid of an image: how its voxels lie in the world."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from sgnet_nnunet.io.volume import spacing_of, voxel_volume_of

SMALLEST_VOXEL_MM3 = 1e-9
"""Below it an affine is singular: no scanner resolves a micrometre."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid of voxels in the world, turned and flipped as its affine says.

    Attributes:
        shape: Voxels along the array's three axes.
        affine: 4x4 matrix from voxel index to world millimetres.

    Raises:
        ValueError: If there are not three axes, or the affine is not 4x4, finite and invertible.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.shape) != 3:  # noqa: PLR2004
            raise ValueError(f"a mask must have three axes; got the shape {self.shape}")
        if np.shape(self.affine) != (4, 4) or not np.all(np.isfinite(self.affine)):
            raise ValueError(f"the affine must be a finite 4x4 matrix; got {self.affine!r}")
        if self.voxel_mm3 < SMALLEST_VOXEL_MM3:
            raise ValueError(f"the affine must be invertible; got voxels of {self.voxel_mm3:g} mm3")

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm3."""
        return voxel_volume_of(self.affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the array's axes."""
        return spacing_of(self.affine)

    @property
    def diagonal_mm(self) -> float:
        """Length in mm of the image's diagonal: no distance within it is larger."""
        return float(np.linalg.norm(self.affine[:3, :3] @ self.shape))

    @cached_property
    def _frame(self) -> NDArray[np.float64]:
        """The affine without its turn and flip, so that an unsheared grid keeps its exact spacing.

        Upper triangular U with U'U = A'A, hence |U v| = |A v| for every step v between voxels.
        """
        steps = self.affine[:3, :3]
        return np.asarray(np.linalg.cholesky(steps.T @ steps).T, dtype=np.float64)

    def millimetres(self, indices: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return voxel indices, shape (n, 3), as points in mm, true in their distances only."""
        return np.asarray(indices @ self._frame.T, dtype=np.float64)

    def world(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return voxel indices, shape (n, 3), as points of the world in mm."""
        return np.asarray(apply_affine(self.affine, indices), dtype=np.float64)
