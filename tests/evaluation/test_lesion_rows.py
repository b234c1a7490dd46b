import math

import numpy as np
import pytest

from sgnet_nnunet.evaluation.lesion_metrics import lesion_rows
from sgnet_nnunet.evaluation.pairs import MaskPair


@pytest.fixture
def rows(make_pair):
    """A lesion found by two components, one missed, one false positive; voxels of 1 x 1 x 2 mm."""
    return lesion_rows(
        make_pair(
            reference=[((2, 2, 2), (6, 1, 1)), ((2, 10, 10), (2, 2, 2))],
            predicted=[((2, 2, 2), (2, 1, 1)), ((6, 2, 2), (2, 2, 1)), ((15, 15, 15), (3, 1, 1))],
            spacing=(1.0, 1.0, 2.0),
        )
    )


def test_the_references_lesions_come_first_then_the_false_positives_each_the_largest_first(rows):
    assert [row.status for row in rows] == ["missed", "detected", "false positive"]


def test_a_lesion_is_compared_with_all_that_meets_it(rows):
    assert rows[1].dice == pytest.approx(2 * 4 / (6 + 6))
    # Reference to prediction 0, 0, 1, 1, 0, 0; prediction to reference 0 four times and 1 twice.
    assert rows[1].hd95_mm == 1


def test_missed_and_false_lesions_score_worst(rows):
    for row in (rows[0], rows[2]):
        assert (row.dice, row.hd95_mm) == (0, pytest.approx(math.hypot(20, 20, 40)))


def test_volume_diameter_and_centroid_are_in_mm(rows):
    assert [row.volume_mm3 for row in rows] == [16, 12, 6]
    assert rows[0].diameter_mm == pytest.approx(np.cbrt(6 * 16 / np.pi))
    assert [(row.x_mm, row.y_mm, row.z_mm) for row in rows] == [(2.5, 10.5, 21), (4.5, 2, 4), (16, 15, 30)]


def test_centroids_go_through_a_turned_and_flipped_affine(boxes):
    mask = boxes(((4, 6, 8), (3, 1, 1)))
    affine = np.array([[0, -2.0, 0, 10], [1.0, 0, 0, 20], [0, 0, -3.0, 30], [0, 0, 0, 1]])
    (row,) = lesion_rows(MaskPair(mask, mask, affine=affine))
    assert (row.x_mm, row.y_mm, row.z_mm) == pytest.approx((10 - 12, 20 + 5, 30 - 24))
    assert row.volume_mm3 == pytest.approx(18)


def test_empty_masks_have_no_lesions(make_pair):
    assert lesion_rows(make_pair()) == ()
