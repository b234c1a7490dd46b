"""Linear interpolation as PyTorch does it, slab by slab."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int, int]


SLAB_VOXELS = 1 << 17
"""Voxels of the output that are worked on at once, so that they stay in the processor's cache."""

FEWEST_PLANES = 8
"""In a slab, for neighbouring slabs both need the input's planes at their border."""


@dataclass(frozen=True, eq=False)
class AxisWeights:
    """Where along one axis the output's voxels lie between the input's.

    Attributes:
        low: Index of the voxel below each of the output's, shape (n,).
        high: Index of the voxel above, shape (n,).
        weight: Weight of the voxel above, between 0 and 1, shape (n,).
        identity: Whether output and input are the same grid.
    """

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    weight: NDArray[np.float32]
    identity: bool

    def part(self, wanted: slice) -> "AxisWeights":
        """Return the weights of a part of the output alone."""
        return AxisWeights(self.low[wanted], self.high[wanted], self.weight[wanted], self.identity)

    def from_its_first(self) -> "tuple[int, AxisWeights]":
        """Return the first voxel of the input that is needed, and the weights that count from it."""
        first = int(self.low[0])
        return first, AxisWeights(self.low - first, self.high - first, self.weight, self.identity)


def axis_weights(old: int, new: int) -> AxisWeights:
    """Return the weights of `interpolate(mode="linear", align_corners=False)`.

    In single precision, as PyTorch computes them: a weight decides up to 1e-5 of a value.

    Args:
        old: Voxels of the input.
        new: Voxels of the output.

    Source: PyTorch's `area_pixel_compute_source_index`, in `aten/src/ATen/native/UpSample.h`.
    """
    scale = np.float64(np.float32(old) / np.float32(new))
    # Rounded once, at the end: compilers make one fused instruction of product and difference.
    position = np.maximum((scale * (np.arange(new) + 0.5) - 0.5).astype(np.float32), np.float32(0))
    low = np.minimum(position.astype(np.intp), old - 1)
    weight = np.clip(position - low.astype(np.float32), 0, 1)
    high = low if old == new else np.minimum(low + 1, old - 1)
    return AxisWeights(low, high, weight, old == new)


def grid_weights(old: Shape, new: Shape) -> tuple[AxisWeights, AxisWeights, AxisWeights]:
    """Return the weights along z, y and x."""
    z, y, x = (axis_weights(old_length, length) for old_length, length in zip(old, new, strict=True))
    return z, y, x


def resample(
    channel: NDArray[np.float32],
    weights: tuple[AxisWeights, AxisWeights, AxisWeights],
    *,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Return one channel on another grid.

    Args:
        channel: Shape (z, y, x).
        weights: Along z, y and x: of the whole output, or of a box of it.
        out: Where to put the result.

    Returns:
        Shape (n_z, n_y, n_x), of as many voxels as the weights have.
    """
    (first_y, y), (first_x, x) = (axis.from_its_first() for axis in weights[1:])
    channel = channel[:, first_y : first_y + y.high[-1] + 1, first_x : first_x + x.high[-1] + 1]
    shape = [len(axis.low) for axis in weights]
    if out is None:
        out = np.empty(shape, dtype=np.float32)
    planes = max(FEWEST_PLANES, SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], planes):
        first_z, z = weights[0].part(slice(start, start + planes)).from_its_first()
        slab = channel[first_z : first_z + z.high[-1] + 1]
        out[start : start + planes] = _along(_along(_along(slab, y, 1), x, 2), z, 0)
    return out


def _along(data: NDArray[np.float32], weights: AxisWeights, axis: int) -> NDArray[np.float32]:
    """Return an array on another grid along one axis."""
    if weights.identity:
        return data
    weight = weights.weight.reshape([-1 if other == axis else 1 for other in range(data.ndim)])
    low = data.take(weights.low, axis=axis)
    low *= 1 - weight
    high = data.take(weights.high, axis=axis)
    high *= weight
    low += high
    return low
