import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from sgnet_nnunet.inference.sparse import (
    batches,
    block_starts,
    copy_window,
    dilate,
    inside_window,
    open_block_starts,
    repeat_twice,
    write_block,
)

sizes = st.tuples(*[st.integers(1, 6)] * 3)
starts = st.tuples(*[st.integers(-7, 7)] * 3)


@given(extent=sizes, start=starts, size=sizes)
def test_window_holds_the_volume_and_zeros_outside_it(extent, start, size):
    volume = np.arange(1, 1 + np.prod(extent) * 2).reshape(*extent, 2)
    padded = np.pad(volume, [(7, 14)] * 3 + [(0, 0)])
    window = np.full((*size, 2), -1)
    copy_window(volume, start, window)
    z, y, x = (slice(first + 7, first + 7 + length) for first, length in zip(start, size, strict=True))
    assert np.array_equal(window, padded[z, y, x])
    assert np.array_equal(inside_window(extent, start, size), padded[z, y, x, 0] > 0)


def test_blocks_cover_a_volume_that_they_reach_beyond():
    covered = np.zeros((5, 6, 9, 1), dtype=np.float32)
    for start in block_starts((5, 6, 9), (2, 4, 4)):
        write_block(covered, start, np.ones((2, 4, 4, 1), dtype=np.float32))
    assert covered.all()


def test_open_blocks_are_those_that_hold_a_voxel(rng):
    mask = rng.random((9, 10, 13)) > 0.97
    block = (4, 3, 5)
    expected = {
        tuple(int(i // b) * b for i, b in zip(voxel, block, strict=True)) for voxel in np.argwhere(mask)
    }
    found = open_block_starts(mask, block)
    assert set(found) == expected
    assert len(found) == len(expected) < len(block_starts(mask.shape, block))
    assert open_block_starts(np.zeros((4, 4, 4), dtype=bool), block) == []


@pytest.mark.parametrize("voxels", [0, 1, 3])
def test_dilation_is_that_of_a_cube_and_stays_inside(rng, voxels):
    mask = rng.random((8, 2, 11)) > 0.95
    expected = ndimage.maximum_filter(mask, 2 * voxels + 1, mode="constant")
    before = mask.copy()
    assert np.array_equal(dilate(mask, voxels), expected)
    assert np.array_equal(mask, before)


def test_repeated_mask_has_twice_the_resolution():
    mask = np.array([[[True, False]]])
    assert np.array_equal(repeat_twice(mask), np.array([[[1, 1, 0, 0]] * 2] * 2, dtype=bool))


def test_batches_keep_the_order_and_the_rest():
    assert list(batches([(i, 0, 0) for i in range(5)], 2)) == [
        [(0, 0, 0), (1, 0, 0)],
        [(2, 0, 0), (3, 0, 0)],
        [(4, 0, 0)],
    ]
