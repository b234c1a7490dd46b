"""Blocks of a volume, and the windows that are cut from it for them.

Arrays have their channels last, so that the rows which a window is copied by are long.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

Size = tuple[int, int, int]
"""z, y, x in voxels."""


def copy_window(volume: NDArray[np.generic], start: Size, window: NDArray[np.generic]) -> None:
    """Fill `window` with what `volume` holds from `start` on, and with zeros where it has nothing.

    Args:
        volume: Shape (z, y, x, ...).
        start: First voxel of the window, which may lie outside the volume.
        window: Shape (z, y, x, ...), the last axes those of the volume.
    """
    inner, outer = [], []
    for first, length, extent in zip(start, window.shape, volume.shape, strict=False):
        low, high = max(first, 0), min(first + length, extent)
        if low >= high:
            window[...] = 0
            return
        outer.append(slice(low, high))
        inner.append(slice(low - first, high - first))
    source = volume[tuple(outer)]
    if source.shape[:3] != window.shape[:3]:
        window[...] = 0
    window[tuple(inner)] = source


def copy_image_window(image: NDArray[np.float32], start: Size, window: NDArray[np.float32]) -> None:
    """Fill a window with channels last from an image with channels first; see `copy_window`.

    Args:
        image: Shape (channels, z, y, x).
        start: First voxel of the window.
        window: Shape (z, y, x, channels).
    """
    # A channel at a time: rows along x are copied faster than pairs of channels.
    for channel, voxels in enumerate(image):
        copy_window(voxels, start, window[..., channel])


def inside_window(extent: Size, start: Size, size: Size) -> NDArray[np.bool_]:
    """Return which voxels of a window lie inside a volume, shape `size`."""
    if all(
        first >= 0 and first + length <= limit
        for first, length, limit in zip(start, size, extent, strict=True)
    ):
        return np.ones(size, dtype=bool)
    along = [
        (np.arange(first, first + length) >= 0) & (np.arange(first, first + length) < limit)
        for first, length, limit in zip(start, size, extent, strict=True)
    ]
    return along[0][:, None, None] & along[1][None, :, None] & along[2][None, None, :]


def block_starts(extent: Size, block: Size) -> list[Size]:
    """Return the first voxels of the blocks that cover a volume; the last may reach beyond it."""
    z, y, x = (range(0, length, step) for length, step in zip(extent, block, strict=True))
    return list(product(z, y, x))


def open_block_starts(mask: NDArray[np.bool_], block: Size) -> list[Size]:
    """Return the first voxels of the blocks that hold a True voxel of `mask`, shape (z, y, x)."""
    padding = [(0, -length % step) for length, step in zip(mask.shape, block, strict=True)]
    padded = np.pad(mask, padding)
    counts = [length // step for length, step in zip(padded.shape, block, strict=True)]
    split = padded.reshape(counts[0], block[0], counts[1], block[1], counts[2], block[2])
    opened = np.argwhere(split.any(axis=(1, 3, 5)))
    return [(z * block[0], y * block[1], x * block[2]) for z, y, x in opened.tolist()]


def batches(starts: Sequence[Size], size: int) -> Iterator[Sequence[Size]]:
    """Yield the starts in groups of `size`; the last may be smaller."""
    for first in range(0, len(starts), size):
        yield starts[first : first + size]


def repeat_twice(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask, shape (z, y, x), on the grid of twice its resolution."""
    return mask.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)


def dilate(mask: NDArray[np.bool_], voxels: int) -> NDArray[np.bool_]:
    """Return a mask grown by a cube of `voxels` to each side, shape (z, y, x)."""
    grown = mask
    for axis in range(3):
        before = np.moveaxis(grown, axis, 0)
        grown = grown.copy()
        after = np.moveaxis(grown, axis, 0)
        for step in range(1, voxels + 1):
            after[step:] |= before[:-step]
            after[:-step] |= before[step:]
    return grown


def write_block(volume: NDArray[np.float32], start: Size, block: NDArray[np.float32]) -> None:
    """Write a block, shape (z, y, x, channels), into a volume, as far as it reaches."""
    target = volume[
        tuple(slice(first, first + length) for first, length in zip(start, block.shape[:3], strict=True))
    ]
    z, y, x, _ = target.shape
    target[...] = block[:z, :y, :x]


def rounded_up(shape: Sequence[int], divisor: int) -> Size:
    """Return a shape, z, y, x, raised to multiples of a divisor."""
    z, y, x = (-(-length // divisor) * divisor for length in shape)
    return z, y, x


def divided(size: Size, divisor: int) -> Size:
    """Return a size or a voxel on a grid of a fraction of the resolution, rounded down."""
    z, y, x = size
    return z // divisor, y // divisor, x // divisor


def moved(start: Size, by: int) -> Size:
    """Return a voxel moved, or a size grown, by so many voxels along each axis."""
    z, y, x = start
    return z + by, y + by, x + by
