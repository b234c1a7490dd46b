"""Scanner grids, smooth random fields and deformations, and tubes along curves."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline, PchipInterpolator
from scipy.spatial.transform import Rotation

from sgnet_nnunet.nifti import Grid
from sgnet_nnunet.phantom.config import PhantomConfig

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]

MAJORITY = 0.5
"""A mask holds the voxels that its structure fills by more than this fraction."""


def axes_of(grid: Grid) -> list[DoubleArray]:
    """Return the positions in mm along x, y and z of a grid, counted from its first voxel."""
    return [np.arange(count) * np.float64(size) for count, size in zip(grid.shape, grid.spacing, strict=True)]


def rotation(degrees: DoubleArray) -> DoubleArray:
    """Return the 3x3 rotation by `degrees` about x, then y, then z."""
    matrix: DoubleArray = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    return matrix


def centred_grid(
    *, centre: DoubleArray, extent: DoubleArray, spacing: DoubleArray, turn: DoubleArray
) -> Grid:
    """Return a grid of at least `extent` mm around `centre` (world mm), its axes turned by `turn` (3x3)."""
    x, y, z = (int(count) for count in np.ceil(extent / spacing))
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array((x, y, z)) - 1) / 2)
    return Grid((x, y, z), affine)


_CUBIC_BSPLINE_POWER = 151 / 315
"""Integral of the squared cubic B-spline: the mean variance of a spline with unit-variance controls."""

_DEGREE = 3


class SmoothField:
    """A random cubic-spline field over a box, to be evaluated on any grid along the box's axes.

    Values have about zero mean and a standard deviation of one. Evaluation uses sparse products,
    which unlike dense ones sum in one order whatever the number of threads.

    Args:
        rng: Draws the control points.
        extent: Sides of the box in mm, shape (3,).
        wavelength: Distance of the control points in mm; details are about twice as large.
    """

    def __init__(self, rng: np.random.Generator, extent: DoubleArray, wavelength: float) -> None:
        self.wavelength = wavelength
        controls = [int(np.ceil(side / wavelength)) + _DEGREE + 1 for side in extent]
        self.controls: FloatArray = rng.standard_normal(controls, dtype=np.float32)

    def on(self, axes: Sequence[DoubleArray]) -> FloatArray:
        """Evaluate on the grid spanned by `axes`, the positions in mm along x, y and z of the box."""
        values = self.controls
        # Mean square weight of a control point: brings the field back to a variance of one.
        gain = np.float32(1 / np.sqrt(_CUBIC_BSPLINE_POWER))
        for positions in axes:
            count = values.shape[0]
            knots = np.arange(count + _DEGREE + 1, dtype=np.float64) - _DEGREE
            basis = BSpline.design_matrix(positions / self.wavelength, knots, _DEGREE).astype(np.float32)
            rest = values.shape[1:]
            values = np.moveaxis((basis @ values.reshape(count, -1)).reshape(-1, *rest) * gain, 0, -1)
        return np.ascontiguousarray(values)


TEMPLATE_EXTENT = np.array((160.0, 200.0, 180.0))
"""Sides in mm of a box that holds the ICBM152 brain in any pose, about `TEMPLATE_CENTRE`."""

TEMPLATE_CENTRE = np.array((0.0, -18.0, 5.0))
"""Middle of the ICBM152 brain in MNI mm."""


class Warp:
    """A random map from a grid that the head fits in to MNI: a pose, a size and a smooth deformation."""

    def __init__(self, rng: np.random.Generator, grid: Grid, config: PhantomConfig) -> None:
        pose = rotation(rng.normal(0, config.head_angles))
        scale = rng.uniform(*config.brain_scale) * (1 + rng.normal(0, 0.02, 3))
        centre = (np.array(grid.shape) - 1) / 2 * grid.spacing
        self.linear = (pose / scale).T
        self.shift = TEMPLATE_CENTRE - self.linear @ centre
        self.coarse = [SmoothField(rng, grid.extent, 42.0) for _ in range(3)]
        self.fine = [SmoothField(rng, grid.extent, 11.0) for _ in range(3)]
        self.config = config

    def on(self, axes: Sequence[DoubleArray]) -> FloatArray:
        """Return MNI coordinates in mm, shape (3, x, y, z), on the grid spanned by `axes` (mm)."""
        x, y, z = (axis.astype(np.float32) for axis in axes)
        mni = np.empty((3, len(x), len(y), len(z)), dtype=np.float32)
        for i, row in enumerate(self.linear.astype(np.float32)):
            mni[i] = self.coarse[i].on(axes) * np.float32(self.config.warp_coarse)
            mni[i] += self.fine[i].on(axes) * np.float32(self.config.warp_fine)
            mni[i] += (row[0] * x + np.float32(self.shift[i]))[:, None, None]
            mni[i] += (row[1] * y)[:, None] + row[2] * z
        return mni


def densify(points: DoubleArray, *, step: float) -> DoubleArray:
    """Return points along a smooth curve through `points`, shape (n, 3), about `step` apart."""
    length = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))))
    count = max(int(length[-1] / step), 2)
    curve: DoubleArray = PchipInterpolator(length, points)(np.linspace(0, length[-1], count))
    return curve


def stamp(
    volume: FloatArray, points: DoubleArray, radii: NDArray[np.floating], *, spacing: tuple[float, ...]
) -> None:
    """Draw balls of `radii` mm, shape (n,), at `points` (voxel index, shape (n, 3)) into `volume`.

    The volume takes the larger of its value and the share of each voxel that the ball fills,
    approximated from the voxel's distance to the surface. Voxels outside are left out.
    """
    size = float(np.mean(spacing))
    reach = np.ceil((radii.max() + size) / spacing).astype(int)
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1)
    voxels = np.rint(points).astype(int)[:, None] + offsets.reshape(1, -1, 3)
    distance = np.linalg.norm((voxels - points[:, None]) * spacing, axis=-1)
    filled = np.clip((radii[:, None] - distance) / size + 0.5, 0, 1)
    # A tube thinner than a voxel fills at most its cross-section.
    filled *= np.minimum(np.pi * (radii[:, None] / size) ** 2, 1)
    keep = (filled > 0) & ((voxels >= 0) & (voxels < volume.shape)).all(axis=-1)
    np.maximum.at(volume, tuple(voxels[keep].T), filled[keep].astype(np.float32))
