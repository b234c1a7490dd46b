"""nnU-Net's preprocessing without PyTorch: cropping, normalisation, linear resampling slab by slab."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.inference.plan import Plan
from sgnet_nnunet.lesions import bounding_box
from sgnet_nnunet.planning.normalization import normalise

Shape = tuple[int, ...]
Box = tuple[slice, ...]

SLAB_VOXELS = 1 << 17
"""Voxels of the output that are worked on at once, so that they stay in the processor's cache."""

FEWEST_PLANES = 8
"""In a slab, for neighbouring slabs both need the input's planes at their border."""


@dataclass(frozen=True, eq=False)
class AxisWeights:
    """Where along one axis the output's n voxels lie between the input's.

    Attributes:
        low: Index of the voxel below each of the output's, shape (n,); `high` of the one above.
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
    """Return the weights of `interpolate(mode="linear", align_corners=False)` from `old` voxels to `new`.

    In single precision, as PyTorch computes them: a weight decides up to 1e-5 of a value.
    Source: PyTorch's `area_pixel_compute_source_index`, in `aten/src/ATen/native/UpSample.h`.
    """
    scale = np.float64(np.float32(old) / np.float32(new))
    # Rounded once, at the end: compilers make one fused instruction of product and difference.
    position = np.maximum((scale * (np.arange(new) + 0.5) - 0.5).astype(np.float32), np.float32(0))
    low = np.minimum(position.astype(np.intp), old - 1)
    weight = np.clip(position - low.astype(np.float32), 0, 1)
    high = low if old == new else np.minimum(low + 1, old - 1)
    return AxisWeights(low, high, weight, old == new)


Weights = tuple[AxisWeights, ...]
"""Along z, y and x."""


def grid_weights(old: Shape, new: Shape) -> Weights:
    """Return the weights from a grid of one shape to another's."""
    return tuple(axis_weights(*lengths) for lengths in zip(old, new, strict=True))


def resample(
    channel: NDArray[np.float32], weights: Weights, *, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return one channel, shape (z, y, x), on another grid, in `out` if it is given.

    The weights are those of the whole output, or of a box of it, and give the result's shape.
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
    if weights.identity:
        return data
    weight = weights.weight.reshape([-1 if other == axis else 1 for other in range(data.ndim)])
    low = data.take(weights.low, axis=axis)
    low *= 1 - weight
    high = data.take(weights.high, axis=axis)
    high *= weight
    low += high
    return low


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network takes it.

    Attributes:
        image: Shape (channels, z, y, x) on the network's grid.
        properties: What nnU-Net's reader and preprocessor know of the case, under their own names.
    """

    image: NDArray[np.float32]
    properties: dict[str, Any]


def prepare(
    channels: Sequence[NDArray[np.float32]], properties: dict[str, Any], plan: Plan, *, pool: Executor
) -> Prepared:
    """Transpose a case, crop it to its non-zero voxels, normalise and resample it.

    Args:
        channels: Each of shape (z, y, x) in the reader's order of axes; they may be overwritten. One of
            `plan.optional_channels` that is all 0 is missing, and stays 0.
        properties: The reader's.
        plan: The model's.
        pool: Where channels are worked on side by side.

    Raises:
        SGNetError: If a normalisation is not known here.
    """
    transposed = [channel.transpose(plan.transpose_forward) for channel in channels]
    nonzero = transposed[0] != 0
    for channel in transposed[1:]:
        nonzero |= channel != 0
    box = bounding_box(nonzero if nonzero.any() else np.ones_like(nonzero))
    inside = fill_holes(nonzero[box]) if any(plan.masked) else None
    spacing = [properties["spacing"][axis] for axis in plan.transpose_forward]
    cropped = nonzero[box].shape
    weights = grid_weights(cropped, new_shape(cropped, spacing, plan.spacing))
    image = np.empty((len(channels), *(len(axis.low) for axis in weights)), dtype=np.float32)

    def work_on(index: int) -> None:
        if index in plan.optional_channels and not channels[index].any():
            image[index] = 0
            return
        channel = normalise(
            transposed[index][box],
            scheme=plan.normalisations[index],
            inside=inside if plan.masked[index] else None,
            intensities=plan.intensities[index],
        )
        resample(channel, weights, out=image[index])

    list(pool.map(work_on, range(len(channels))))
    of_crop = {
        "shape_before_cropping": nonzero.shape,
        "bbox_used_for_cropping": [[part.start, part.stop] for part in box],
        "shape_after_cropping_and_before_resampling": cropped,
    }
    return Prepared(image, properties | of_crop)


def new_shape(shape: Shape, old_spacing: Sequence[float], new_spacing: Sequence[float]) -> Shape:
    """Return how many voxels an image has on another grid, as nnU-Net's `compute_new_shape` does."""
    axes = zip(old_spacing, new_spacing, shape, strict=True)
    return tuple(round(old / new * length) for old, new, length in axes)


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask with the background that its border cannot reach, as SciPy's `binary_fill_holes`."""
    # It takes a fifth of a second to import, and many plans do not need it.
    from scipy import ndimage  # noqa: PLC0415

    labels, number = ndimage.label(~mask)
    is_hole = np.ones(number + 1, dtype=np.bool_)
    for axis in range(mask.ndim):
        for end in (0, -1):
            is_hole[labels.take(end, axis=axis)] = False
    # Label 0 is the mask itself.
    is_hole[0] = True
    return np.asarray(is_hole[labels])
