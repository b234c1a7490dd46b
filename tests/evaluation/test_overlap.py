import math

import pytest

from sgnet_nnunet.evaluation.mask_metrics import (
    Dice,
    Precision,
    PredictedVolume,
    Recall,
    ReferenceVolume,
    VolumeError,
)


@pytest.fixture
def pair(make_pair):
    """Eight predicted voxels of 6 mm3, four of the reference, two in common."""
    masks = {"predicted": [((2, 2, 2), (2, 2, 2))], "reference": [((3, 2, 2), (2, 2, 1))]}
    return make_pair(**masks, spacing=(1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (Dice(), 4 / 12),
        (Precision(), 2 / 8),
        (Recall(), 2 / 4),
        (ReferenceVolume(), 24),
        (PredictedVolume(), 48),
        (VolumeError(), 24),
    ],
)
def test_values_equal_those_worked_out_by_hand(metric, value, pair):
    assert metric(pair) == pytest.approx(value)


def test_the_volume_error_with_one_empty_mask_is_the_others_volume(make_pair):
    assert VolumeError()(make_pair(reference=[((2, 2, 2), (2, 2, 2))])) == 8
    assert VolumeError()(make_pair(predicted=[((2, 2, 2), (2, 2, 2))])) == 8
    assert math.isnan(VolumeError()(make_pair()))
