"""Overlap and volume against values worked out by hand."""

import math

import pytest

from sgnet_nnunet.evaluation.mask_metrics import (
    dice,
    precision,
    predicted_volume,
    recall,
    reference_volume,
    volume_error,
)


@pytest.fixture
def pair(make_pair):
    """Eight predicted voxels of 6 mm3, four of the reference, two in common."""
    masks = {"predicted": [((2, 2, 2), (2, 2, 2))], "reference": [((3, 2, 2), (2, 2, 1))]}
    return make_pair(**masks, spacing=(1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (dice, 4 / 12),
        (precision, 2 / 8),
        (recall, 2 / 4),
        (reference_volume, 24),
        (predicted_volume, 48),
        (volume_error, 24),
    ],
)
def test_values_equal_those_worked_out_by_hand(metric, value, pair):
    assert metric(pair) == pytest.approx(value)


def test_the_volume_error_with_one_empty_mask_is_the_others_volume(make_pair):
    assert volume_error(make_pair(reference=[((2, 2, 2), (2, 2, 2))])) == 8
    assert volume_error(make_pair(predicted=[((2, 2, 2), (2, 2, 2))])) == 8
    assert math.isnan(volume_error(make_pair()))
