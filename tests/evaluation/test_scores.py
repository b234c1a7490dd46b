import math

import numpy as np
import pytest

from sgnet_nnunet.evaluation.measurement import score, surface_dice


def box(*corner, size=4, shape=(20, 20, 20)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(c, c + size) for c in corner)] = True
    return mask


def test_perfect_mask_scores_best():
    scores = score(box(5, 5, 5), box(5, 5, 5), spacing=(1, 1, 1))
    assert (scores.dice, scores.precision, scores.recall, scores.hd95_mm) == (1, 1, 1, 0)


def test_shifted_box_equals_the_values_worked_out_by_hand():
    scores = score(box(7, 5, 5), box(5, 5, 5), spacing=(3, 1, 1))
    assert scores.dice == scores.precision == scores.recall == 0.5
    assert scores.hd95_mm == 6  # two voxels of 3 mm


def test_larger_prediction_has_full_recall_and_less_precision():
    scores = score(box(4, 4, 4, size=8), box(5, 5, 5), spacing=(1, 1, 1))
    assert (scores.recall, scores.precision) == (1, 1 / 8)


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_mask_scores_worst_with_the_diagonal_as_distance(swap):
    pair = (np.zeros((20, 20, 20), dtype=bool), box(5, 5, 5))
    scores = score(*(pair[::-1] if swap else pair), spacing=(1, 2, 3))
    assert (scores.dice, scores.precision, scores.recall) == (0, 0, 0)
    assert scores.hd95_mm == pytest.approx(math.hypot(20, 40, 60))


def test_two_empty_masks_cannot_be_scored():
    empty = np.zeros((4, 4, 4), dtype=bool)
    assert math.isnan(score(empty, empty, spacing=(1, 1, 1)).dice)


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 2, 2\) and \(3, 3, 3\)"):
        score(np.ones((2, 2, 2), dtype=bool), np.ones((3, 3, 3), dtype=bool), spacing=(1, 1, 1))


class TestSurfaceDice:
    def test_is_one_within_the_tolerance_and_less_beyond_it(self):
        reference = box(5, 5, 5)
        shifted = np.roll(reference, 1, axis=0)
        assert surface_dice(shifted, reference, spacing=(1.0, 1.0, 1.0), tolerance_mm=1.0) == 1
        assert surface_dice(shifted, reference, spacing=(3.0, 1.0, 1.0), tolerance_mm=1.0) < 1

    def test_one_empty_mask_is_the_worst_and_two_are_no_score(self):
        empty = np.zeros_like(box(5, 5, 5))
        assert surface_dice(empty, box(5, 5, 5), spacing=(1.0, 1.0, 1.0), tolerance_mm=1.0) == 0
        assert np.isnan(surface_dice(empty, empty, spacing=(1.0, 1.0, 1.0), tolerance_mm=1.0))
