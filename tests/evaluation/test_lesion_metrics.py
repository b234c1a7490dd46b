"""Lesions, their detection and their rows."""

import math

import numpy as np
import pytest

from sgnet_nnunet.evaluation.lesion_metrics import (
    ALL_SIZES,
    SIZE_CLASSES,
    SizeClass,
    false_positives,
    lesion_f1,
    lesion_precision,
    lesion_rows,
    lesion_sensitivity,
    lesions_of,
    match_lesions,
)
from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.lesions import find_lesions


def mask(*voxels, shape=(6, 6, 6)):
    array = np.zeros(shape, dtype=bool)
    for voxel in voxels:
        array[voxel] = True
    return array


def lesions(*voxels, **kwargs):
    return find_lesions(mask(*voxels, **kwargs), spacing=(1.0, 1.0, 2.0))


def test_one_common_voxel_detects_a_lesion_and_the_rest_are_false():
    reference = lesions((0, 0, 0), (0, 0, 1), (3, 3, 3))
    match = match_lesions(lesions((0, 0, 1), (5, 5, 5), (5, 0, 0)), reference)
    assert match.detected.tolist() == [True, False]
    assert match.false_positives == 2


def test_one_component_can_find_two_lesions():
    bridge = [(0, 0, z) for z in range(5)]
    match = match_lesions(lesions(*bridge), lesions((0, 0, 0), (0, 0, 4)))
    assert match.detected.all()
    assert match.false_positives == 0


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        match_lesions(lesions(), lesions(shape=(5, 6, 6)))


SMALL, LARGE, _ = SIZE_CLASSES


@pytest.fixture
def pair(make_pair):
    """Two of three lesions found, one of them large (6.2 mm); one small and one large false positive."""
    return make_pair(
        reference=[((0, 0, 0), (5, 5, 5)), ((10, 0, 0), (2, 2, 2)), ((0, 10, 0), (2, 2, 2))],
        predicted=[
            ((1, 1, 1), (5, 5, 5)),
            ((11, 1, 1), (2, 2, 2)),
            ((10, 10, 10), (5, 5, 5)),
            ((18, 18, 18), (1, 1, 1)),
        ],
    )


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (lesion_sensitivity[ALL_SIZES], 2 / 3),
        (lesion_precision[ALL_SIZES], 2 / 4),
        (lesion_f1[ALL_SIZES], 4 / (4 + 1 + 2)),
        (false_positives[ALL_SIZES], 2),
        (lesion_sensitivity[SMALL], 1 / 2),
        (lesion_precision[SMALL], 1 / 2),
        (lesion_f1[SMALL], 2 / (2 + 1 + 1)),
        (false_positives[SMALL], 1),
        (lesion_sensitivity[LARGE], 1),
        (lesion_precision[LARGE], 1 / 2),
        (lesion_f1[LARGE], 2 / (2 + 1)),
        (false_positives[LARGE], 1),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_values_equal_those_worked_out_by_hand(metric, value, pair):
    assert metric(pair) == pytest.approx(value)


def test_a_lesion_counts_in_its_own_class_whatever_the_size_of_what_finds_it(make_pair):
    pair = make_pair(reference=[((0, 0, 0), (5, 5, 5))], predicted=[((1, 1, 1), (1, 1, 1))])
    assert lesion_sensitivity[LARGE](pair) == lesion_f1[LARGE](pair) == 1
    assert math.isnan(lesion_precision[LARGE](pair))
    assert lesion_precision[SMALL](pair) == 1


def test_a_healthy_case_has_no_false_positives(make_pair):
    assert false_positives[ALL_SIZES](make_pair()) == 0
    assert (
        false_positives[ALL_SIZES](make_pair(predicted=[((1, 1, 1), (1, 1, 1)), ((5, 5, 5), (1, 1, 1))])) == 2
    )


def test_diameters_are_in_mm(make_pair):
    lesion = [((0, 0, 0), (1, 1, 1))]
    coarse = make_pair(reference=lesion, predicted=lesion, spacing=(5.0, 5.0, 5.0))
    assert lesion_sensitivity[LARGE](coarse) == 1


def test_a_lesion_at_a_limit_belongs_to_the_class_above_alone(make_pair):
    lesion = [((0, 0, 0), (2, 2, 2))]
    pair = make_pair(reference=lesion, predicted=lesion)
    found = lesions_of(pair).reference
    limit = float(found.diameters_mm[0])
    assert not SizeClass("", "", 0, limit).has(found).any()
    assert SizeClass("", "", limit, math.inf).has(found).all()


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


def test_a_size_class_without_a_lesion_has_no_score_even_if_a_mask_is_empty(make_pair):
    missed = make_pair(reference=[((2, 2, 2), (2, 2, 2))])
    assert lesion_sensitivity[ALL_SIZES](missed) == 0
    for metric in (lesion_sensitivity, lesion_precision, lesion_f1):
        values = [metric[size](missed) for size in SIZE_CLASSES]
        assert values == pytest.approx([0, math.nan, math.nan], nan_ok=True)


def test_empty_masks_have_no_lesions(make_pair):
    assert lesion_rows(make_pair()) == ()
