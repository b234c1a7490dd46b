"""The deformation that makes one brain of the average."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.fields import SmoothField
from sgnet_nnunet.phantom.grid import FloatArray, Grid, rotation

TEMPLATE_EXTENT = np.array((160.0, 200.0, 180.0))
"""Sides in mm of a box that holds the ICBM152 brain in any pose, about `TEMPLATE_CENTRE`."""

TEMPLATE_CENTRE = np.array((0.0, -18.0, 5.0))
"""Middle of the ICBM152 brain in MNI mm."""


class Warp:
    """A pose, a size and a smooth deformation: from the scan's grid to MNI coordinates.

    Args:
        rng: Source of all draws.
        grid: Grid that the whole head fits in; fields are anchored to its first voxel.
        config: Population to draw from.
    """

    def __init__(self, rng: np.random.Generator, grid: Grid, config: PhantomConfig) -> None:
        extent = grid.extent
        self.extent = extent
        self.size = grid.spacing
        pose = rotation(rng.normal(0, config.head_angles))
        common = rng.uniform(*config.brain_scale)
        scale = common * (1 + rng.normal(0, 0.02, 3))
        centre = (np.array(grid.shape) - 1) / 2 * grid.spacing
        self.linear = (pose / scale).T
        self.shift = TEMPLATE_CENTRE - self.linear @ centre
        self.coarse = [SmoothField(rng, extent, 42.0) for _ in range(3)]
        self.fine = [SmoothField(rng, extent, 11.0) for _ in range(3)]
        self.amplitude = (config.warp_coarse, config.warp_fine)

    def on(self, axes: Sequence[NDArray[np.float64]]) -> FloatArray:
        """Return MNI coordinates in mm, shape (3, x, y, z), on the grid spanned by `axes` (mm)."""
        x, y, z = (axis.astype(np.float32) for axis in axes)
        mni = np.empty((3, len(x), len(y), len(z)), dtype=np.float32)
        for i, row in enumerate(self.linear.astype(np.float32)):
            mni[i] = self.coarse[i].on(axes) * np.float32(self.amplitude[0])
            mni[i] += self.fine[i].on(axes) * np.float32(self.amplitude[1])
            mni[i] += (row[0] * x + np.float32(self.shift[i]))[:, None, None]
            mni[i] += (row[1] * y)[:, None] + row[2] * z
        return mni
