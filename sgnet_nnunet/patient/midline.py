"""The brain's mid-sagittal plane, found by symmetry, and where a point lies relative to it.

There is no atlas: a location is read off the relative position in the brain's box, with borders taken from
the landmarks of the ICBM 152 template. Lobes are right in their middle, and may be wrong within some 15 mm of
a border, after surgery, and for a head that is pitched forward or backward.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize

from sgnet_nnunet.nifti import Volume

Hemisphere = Literal["left", "right", "midline"]

STEP_MM = 6.0
"""Length of the blocks of voxels that the plane is found on."""

MIDLINE_MM = 4.0
"""Closer to the plane, a lesion is of neither hemisphere."""

_FEWEST_BLOCKS = 64
_TURNS = np.deg2rad([-20.0, 0.0, 20.0])
"""Turns of the head about the vertical and the anterior axis that the search starts from."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Midline:
    """The plane between the hemispheres, and the brain's box along its axes.

    Attributes:
        axes: Unit vectors to the patient's right, front and top in world mm (RAS+), in rows.
        low: Lower end of the brain along each axis, in mm; `high` the upper end.
        offset: Of the plane along the first axis, in mm.
    """

    axes: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    offset: float

    def hemisphere(self, world: NDArray[np.float64]) -> Hemisphere:
        """Return the patient's side that a point of the world in mm, shape (3,), is on."""
        distance = float(self.axes[0] @ world) - self.offset
        if abs(distance) < MIDLINE_MM:
            return "midline"
        return "right" if distance > 0 else "left"

    def location(self, world: NDArray[np.float64]) -> str:
        """Return the region of the brain that a point of the world in mm, shape (3,), is probably in."""
        position = self.axes @ world
        distance = abs(position[0] - self.offset)
        half = max(self.high[0] - self.offset, self.offset - self.low[0], 1.0)
        _, front, up = (position - self.low) / np.maximum(self.high - self.low, 1.0)
        return _region(float(distance / half), float(front), float(up))


def _region(side: float, front: float, up: float) -> str:
    """Return the region at a relative distance from the plane, from the back, and from the bottom, 0 to 1."""
    if up < 0.36 and front < 0.38:  # noqa: PLR2004 - below the tentorium
        return "cerebellum"
    if up < 0.36 and side < 0.25 and front < 0.58:  # noqa: PLR2004
        return "brainstem"
    if up < 0.48 and side > 0.35 and 0.25 < front < 0.75:  # noqa: PLR2004 - below the lateral sulcus
        return "temporal"
    if front < 0.22:  # noqa: PLR2004 - behind the parieto-occipital sulcus
        return "occipital"
    if up < 0.6 and side < 0.45 and 0.38 < front < 0.75:  # noqa: PLR2004
        return "deep"
    # The central sulcus runs forward and down, from 0.46 at the top to 0.58 at the lateral sulcus.
    return "frontal" if front > 0.46 + 0.24 * max(0.0, 0.92 - up) else "parietal"


def find_midline(brain: Volume) -> Midline:
    """Return the plane about which a brain, 0 outside, is most symmetrical.

    It passes near the brain's middle, turned about the vertical and the anterior axis. Blocks of voxels are
    compared with their mirror images by correlation, in world mm, so that any order of axes gives the same.
    """
    blocks = _in_blocks(brain.oriented("RAS"))
    averages = np.asarray(blocks.data, dtype=np.float64)
    found = averages > 0
    if np.count_nonzero(found) < _FEWEST_BLOCKS:
        found = np.ones_like(found)
    points = blocks.grid.world(np.argwhere(found).astype(np.float64))
    values = averages[found]
    centre = points.mean(axis=0)
    into_blocks = np.linalg.inv(blocks.affine)

    def asymmetry(plane: NDArray[np.float64]) -> float:
        normal = _axes(*plane[1:])[0]
        mirrored = points - 2 * ((points - centre) @ normal - plane[0])[:, None] * normal
        indices = mirrored @ into_blocks[:3, :3].T + into_blocks[:3, 3]
        opposite = ndimage.map_coordinates(averages, indices.T, order=1)
        return -float(np.corrcoef(values, opposite)[0, 1]) if values.std() and opposite.std() else 0.0

    starts = [np.array([0.0, turn, lean]) for turn in _TURNS for lean in _TURNS]
    start = min(starts, key=lambda plane: (round(asymmetry(plane), 6), float(np.abs(plane).sum())))
    simplex = start + np.concatenate([np.zeros((1, 3)), np.diag([4.0, 0.1, 0.1])])
    options = {"initial_simplex": simplex, "maxiter": 60, "xatol": 1e-2, "fatol": 1e-4}
    best = optimize.minimize(asymmetry, start, method="Nelder-Mead", options=options).x
    axes = _axes(*best[1:])
    along = points @ axes.T
    low, high = np.percentile(along, [0.5, 99.5], axis=0)
    return Midline(axes=axes, low=low, high=high, offset=float(axes[0] @ centre + best[0]))


def _axes(turn: float, lean: float) -> NDArray[np.float64]:
    """Return unit vectors to the right, front and top of a head turned and leant by angles in radians."""
    right = np.array([np.cos(turn) * np.cos(lean), np.sin(turn) * np.cos(lean), np.sin(lean)])
    front = np.array([-np.sin(turn), np.cos(turn), 0.0])
    return np.stack([right, front, np.cross(right, front)])


def _in_blocks(volume: Volume) -> Volume:
    """Return the mean of blocks of voxels, what is brighter than almost all of the brain cut off."""
    data = np.asarray(volume.data, dtype=np.float32)
    sample = data[::2, ::2, ::2]
    inside = sample[sample > 0]
    white = float(np.percentile(inside, 98)) if inside.size else 1.0
    steps = [max(1, round(STEP_MM / spacing)) for spacing in volume.grid.spacing]
    for axis, step in enumerate(steps):
        starts = np.arange(0, data.shape[axis], step)
        counts = np.diff(np.append(starts, data.shape[axis])).reshape(
            [-1 if a == axis else 1 for a in range(3)]
        )
        data = (
            np.add.reduceat(np.clip(data, 0, white, out=data if axis else None), starts, axis=axis) / counts
        )
    affine = volume.affine @ np.diag([*steps, 1.0])
    affine[:3, 3] = volume.grid.world(np.array([[(step - 1) / 2 for step in steps]]))[0]
    return Volume(data, affine)
