"""Tubes drawn into a volume: vessels and sinuses."""

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from sgnet_nnunet.phantom.grid import FloatArray


def densify(points: NDArray[np.float64], *, step: float) -> NDArray[np.float64]:
    """Return points along a smooth curve through `points`, shape (n, 3), about `step` apart."""
    length = np.concatenate(([0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))))
    count = max(int(length[-1] / step), 2)
    curve: NDArray[np.float64] = PchipInterpolator(length, points)(np.linspace(0, length[-1], count))
    return curve


def stamp(
    volume: FloatArray,
    points: NDArray[np.float64],
    radii: NDArray[np.floating],
    *,
    spacing: NDArray[np.float64],
) -> None:
    """Draw balls of `radii` mm, shape (n,), at `points` (voxel index, shape (n, 3)) into `volume`.

    The volume takes the larger of its value and the share of each voxel that the ball fills,
    approximated from the voxel's distance to the surface. Voxels outside are left out.
    """
    size = float(spacing.mean())
    reach = np.ceil((radii.max() + size) / spacing).astype(int)
    offsets = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1)
    base = np.rint(points).astype(int)
    voxels = base[:, None] + offsets.reshape(1, -1, 3)
    distance = np.linalg.norm((voxels - points[:, None]) * spacing, axis=-1)
    filled = np.clip((radii[:, None] - distance) / size + 0.5, 0, 1)
    # A tube thinner than a voxel fills at most its cross-section.
    filled *= np.minimum(np.pi * (radii[:, None] / size) ** 2, 1)
    keep = (filled > 0) & ((voxels >= 0) & (voxels < volume.shape)).all(axis=-1)
    index = tuple(voxels[keep].T)
    np.maximum.at(volume, index, filled[keep].astype(np.float32))
