"""Resample a volume onto another grid through the affines.

scipy does the interpolation, since SimpleITK's images cannot hold a sheared grid. A voxel is a box:
the field of view reaches half a voxel beyond the outer centres (half a slice of a thick-sliced FLAIR
is several millimetres), is filled with the outer voxel's value, and ends there with 0.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sgnet_nnunet.nifti import Grid, Volume

INTEGER_MAP_TOLERANCE = 0.01
"""In voxels: affines of different programs differ by rounding, and a smaller difference is removed."""

HALF = 0.5 - 1e-6
"""Threshold of a resampled mask; ties, as halfway between two slices, count as lesion on every machine."""

FIELD_OF_VIEW_MARGIN = 0.5 + 1e-3
"""Voxels that the field of view reaches beyond the outer centres; the surplus absorbs rounding."""


def resample_image(
    image: Volume, grid: Grid, *, world_map: NDArray[np.float64] | None = None
) -> NDArray[np.generic]:
    """Resample an image linearly.

    Linear, since it never leaves the range of the eight voxels around: a stripped background stays
    exactly 0, and integers, rounded, stay in their type (the rounding is far below the noise).

    `world_map` is the 4x4 matrix from the grid's world to the image's, both in mm; identity by default.

    Returns:
        Voxels of `grid.shape` in the image's dtype, 0 outside its field of view. On equal grids, or
        grids that differ by flips, swapped axes or whole voxels, each voxel is copied bit for bit.
    """
    index_map = _index_map(image, grid, world_map)
    if _is_copy(index_map, image, grid):
        return image.data
    dtype = image.data.dtype
    if dtype.kind == "f":
        return _interpolate(image.data, index_map, grid.shape, dtype)
    exact = np.float64 if dtype.itemsize >= np.dtype(np.int32).itemsize else np.float32
    values = _interpolate(image.data, index_map, grid.shape, np.dtype(exact))
    rounded: NDArray[np.generic] = np.rint(values, out=values).astype(dtype)
    return rounded


def resample_mask(
    mask: Volume, grid: Grid, *, world_map: NDArray[np.float64] | None = None
) -> NDArray[np.bool_]:
    """Resample a boolean mask as an image, thresholded at one half; False outside its field of view.

    Smoother than nearest neighbour between thick slices, and the same as it on equal grids.
    """
    index_map = _index_map(mask, grid, world_map)
    if _is_copy(index_map, mask, grid):
        return mask.data.astype(bool, copy=False)
    fraction = _interpolate(mask.data.astype(np.uint8), index_map, grid.shape, np.dtype(np.float32))
    inside: NDArray[np.bool_] = fraction >= HALF
    return inside


def field_of_view(
    image: Volume, grid: Grid, *, world_map: NDArray[np.float64] | None = None
) -> NDArray[np.bool_]:
    """Return which voxels of `grid` lie inside the image, shape `grid.shape`."""
    return _inside(_index_map(image, grid, world_map), image.data.shape, grid.shape)


def _index_map(volume: Volume, grid: Grid, world_map: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the 4x4 matrix from the grid's voxel indices to the volume's, rounding errors removed.

    Each row (one source axis) that is an integer one up to `INTEGER_MAP_TOLERANCE` becomes it:
    otherwise a 1e-7 of the brain would leak into a background that has to be 0.
    """
    world = np.eye(4) if world_map is None else world_map
    index_map = np.linalg.inv(volume.affine) @ world @ grid.affine
    integer = np.rint(index_map)
    corners = np.c_[grid.corners, np.ones(8)]
    error = np.abs(corners @ (index_map - integer).T).max(axis=0)
    cleaned: NDArray[np.float64] = np.where((error < INTEGER_MAP_TOLERANCE)[:, None], integer, index_map)
    return cleaned


def _is_copy(index_map: NDArray[np.float64], volume: Volume, grid: Grid) -> bool:
    return np.array_equal(index_map, np.eye(4)) and volume.data.shape == grid.shape


def _interpolate(
    data: NDArray[Any], index_map: NDArray[np.float64], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> NDArray[Any]:
    place = {"matrix": index_map[:3, :3], "offset": index_map[:3, 3], "output_shape": shape}
    values: NDArray[Any] = ndimage.affine_transform(data, **place, output=dtype, order=1, mode="nearest")
    values[~_inside(index_map, data.shape, shape)] = 0
    return values


def _inside(
    index_map: NDArray[np.float64], source_shape: tuple[int, ...], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return which voxels of a grid fall into the field of view of the source array."""
    x, y, z = np.ogrid[tuple(slice(length) for length in shape)]
    inside = np.ones(shape, dtype=bool)
    for (along_x, along_y, along_z, start), length in zip(index_map[:3], source_shape, strict=True):
        # float32 halves the memory of a 512 x 512 x 200 grid and is exact to a thousandth of a voxel there.
        index = (along_x * x).astype(np.float32) + (along_y * y).astype(np.float32)
        index = index + (along_z * z + start).astype(np.float32)
        inside &= (index >= -FIELD_OF_VIEW_MARGIN) & (index <= length - 1 + FIELD_OF_VIEW_MARGIN)
    return inside
