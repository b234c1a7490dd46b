"""Files in, the network's input out: what nnU-Net's `DefaultPreprocessor` does, sooner."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.standalone.normalise import normalise
from sgnet_nnunet.standalone.plan import Plan
from sgnet_nnunet.standalone.read import read_channels
from sgnet_nnunet.standalone.resample import Shape, grid_weights, resample

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network takes it.

    Attributes:
        image: Shape (channels, z, y, x) on the network's grid.
        properties: What nnU-Net's reader and preprocessor know of the case, under their own names.
    """

    image: NDArray[np.float32]
    properties: dict[str, Any]


def preprocess(paths: Sequence[Path], plan: Plan, *, pool: Executor) -> Prepared:
    """Read a case, transpose it, crop it to its non-zero voxels, normalise and resample it.

    Args:
        paths: Its files, one a channel.
        plan: The model's plan.
        pool: Where channels are worked on side by side.

    Raises:
        InputFileError: As for `read_channels`.
        SGNetError: If the reader or a normalisation is not known here.
    """
    channels, properties = read_channels(paths, reader=plan.reader, pool=pool)
    return prepare(channels, properties, plan, pool=pool)


def prepare(
    channels: Sequence[NDArray[np.float32]], properties: dict[str, Any], plan: Plan, *, pool: Executor
) -> Prepared:
    """Return a case that has been read, preprocessed; the channels given may be overwritten.

    Args:
        channels: Each of shape (z, y, x) in the reader's order of axes.
        properties: The reader's.
        plan: The model's plan.
        pool: Where channels are worked on side by side.

    Raises:
        SGNetError: If a normalisation is not known here.
    """
    transposed = [channel.transpose(plan.transpose_forward) for channel in channels]
    nonzero = transposed[0] != 0
    for channel in transposed[1:]:
        nonzero |= channel != 0
    box = box_of(nonzero)
    inside = fill_holes(nonzero[box]) if any(plan.masked) else None
    spacing = [properties["spacing"][axis] for axis in plan.transpose_forward]
    cropped: Shape = nonzero[box].shape
    weights = grid_weights(cropped, new_shape(cropped, spacing, plan.spacing))
    image = np.empty((len(channels), *(len(axis.low) for axis in weights)), dtype=np.float32)

    def work_on(index: int) -> None:
        channel = normalise(
            transposed[index][box],
            scheme=plan.normalisations[index],
            inside=inside if plan.masked[index] else None,
            intensities=plan.intensities[index],
        )
        resample(channel, weights, out=image[index])

    list(pool.map(work_on, range(len(channels))))
    return Prepared(
        image,
        {
            **properties,
            "shape_before_cropping": nonzero.shape,
            "bbox_used_for_cropping": [[part.start, part.stop] for part in box],
            "shape_after_cropping_and_before_resampling": cropped,
        },
    )


def new_shape(shape: Shape, old_spacing: Sequence[float], new_spacing: Sequence[float]) -> Shape:
    """Return how many voxels an image has on another grid, as nnU-Net's `compute_new_shape` does."""
    z, y, x = (
        round(old / new * length) for old, new, length in zip(old_spacing, new_spacing, shape, strict=True)
    )
    return z, y, x


def box_of(mask: NDArray[np.bool_]) -> Box:
    """Return the bounding box of a mask, which is the whole of it if it is empty."""
    bounds = []
    for axis in range(mask.ndim):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        bounds.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, mask.shape[axis]))
    z, y, x = bounds
    return z, y, x


def fill_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask with the background that its border cannot reach, as SciPy's `binary_fill_holes`.

    Args:
        mask: Shape (z, y, x).
    """
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
