"""Resampling against PyTorch's interpolation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from sgnet_nnunet.inference.preprocessing import grid_weights, resample

LENGTHS = st.tuples(*[st.integers(1, 24)] * 3)


@given(LENGTHS, LENGTHS, st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_agrees_with_pytorch(old, new, seed):
    channel = np.random.default_rng(seed).random(old, dtype=np.float32)
    expected = functional.interpolate(torch.from_numpy(channel)[None, None], new, mode="trilinear")
    np.testing.assert_allclose(
        resample(channel, grid_weights(old, new)), expected[0, 0].numpy(), rtol=0, atol=1e-6
    )


def test_same_grid_gives_the_same_values():
    channel = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    np.testing.assert_array_equal(resample(channel, grid_weights((5, 6, 7), (5, 6, 7))), channel)


@pytest.mark.parametrize("new", [(5, 6, 7), (9, 6, 4), (3, 11, 15)])
def test_box_is_a_part_of_the_whole(new):
    channel = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    weights = grid_weights((5, 6, 7), new)
    box = (slice(1, 3), slice(2, 6), slice(1, 4))
    part = resample(channel, tuple(axis.part(s) for axis, s in zip(weights, box, strict=True)))
    np.testing.assert_array_equal(part, resample(channel, weights)[box])


def test_result_goes_where_it_is_wanted():
    channel = np.random.default_rng(0).random((5, 6, 7), dtype=np.float32)
    out = np.empty((8, 3, 9), dtype=np.float32)
    assert resample(channel, grid_weights((5, 6, 7), (8, 3, 9)), out=out) is out
