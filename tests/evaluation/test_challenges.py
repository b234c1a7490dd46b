"""The presets of the BraTS challenges against values worked out by hand."""

import math

import pytest

from sgnet_nnunet.evaluation.challenges import (
    brats2023_dice,
    brats2023_hd95,
    brats2026_large_dice,
    brats2026_large_hd95,
    brats2026_large_nsd,
    brats2026_small_f1,
    match_one_to_one,
)

LESION = ((2, 2, 2), (3, 3, 3))
FAR = ((14, 14, 14), (3, 3, 3))


def scores(pair):
    return brats2023_dice(pair), brats2023_hd95(pair)


def test_a_perfect_lesion_scores_one_and_zero(make_pair):
    assert scores(make_pair(predicted=[LESION], reference=[LESION])) == (1, 0)


def test_voxels_that_touch_by_a_corner_are_one_lesion(make_pair):
    reference = [((2, 2, 2), (2, 2, 2)), ((4, 4, 4), (2, 2, 2))]
    # As two lesions the second would be missed: its grown shape ends a voxel before the prediction's.
    pair = make_pair(predicted=[((2, 2, 2), (1, 1, 1))], reference=reference)
    assert brats2023_dice(pair) == pytest.approx(2 * 1 / (1 + 16))


@pytest.mark.parametrize("corner", [(5, 3, 3), (5, 5, 3), (5, 5, 5)])
def test_lesions_are_grown_by_one_voxel_to_faces_edges_and_corners_for_matching(corner, make_pair):
    pair = make_pair(predicted=[(corner, (1, 1, 1))], reference=[LESION])
    dice, distance = scores(pair)
    assert dice == 0  # matched by the grown shape, compared with the true one
    assert distance < 374


def test_two_voxels_apart_is_no_match(make_pair):
    pair = make_pair(predicted=[((6, 3, 3), (1, 1, 1))], reference=[LESION])
    assert scores(pair) == (0, 374)


def test_any_overlap_matches_and_all_that_overlaps_counts_together(make_pair):
    predicted = [((2, 2, 2), (1, 3, 3)), ((4, 2, 2), (1, 3, 3))]
    pair = make_pair(predicted=predicted, reference=[LESION])
    assert brats2023_dice(pair) == pytest.approx(2 * 18 / (18 + 27))


@pytest.mark.parametrize("voxels", [1, 2])
def test_lesions_of_two_mm3_or_less_are_ignored(voxels, make_pair):
    tiny = ((14, 14, 14), (voxels, 1, 1))
    assert scores(make_pair(predicted=[LESION], reference=[LESION, tiny])) == (1, 0)


def test_a_lesion_above_two_mm3_counts(make_pair):
    pair = make_pair(predicted=[LESION], reference=[LESION, ((14, 14, 14), (3, 1, 1))])
    assert scores(pair) == (0.5, 374 / 2)


def test_the_limit_is_in_mm3_and_not_in_voxels(make_pair):
    one_voxel = ((14, 14, 14), (1, 1, 1))
    pair = make_pair(predicted=[LESION], reference=[LESION, one_voxel], spacing=(1.0, 1.0, 3.0))
    assert scores(pair) == (0.5, 374 / 2)


def test_a_prediction_on_an_ignored_lesion_is_no_false_positive(make_pair):
    tiny = ((14, 14, 14), (2, 1, 1))
    assert scores(make_pair(predicted=[LESION, tiny], reference=[LESION, tiny])) == (1, 0)


def test_an_unmatched_predicted_lesion_is_a_false_positive_whatever_its_size(make_pair):
    pair = make_pair(predicted=[LESION, ((14, 14, 14), (1, 1, 1))], reference=[LESION])
    assert scores(pair) == (0.5, 374 / 2)


def test_missed_and_false_lesions_score_0_and_374(make_pair):
    assert scores(make_pair(predicted=[FAR], reference=[LESION])) == (0, 374)
    assert scores(make_pair(reference=[LESION])) == (0, 374)
    assert scores(make_pair(predicted=[FAR])) == (0, 374)


def test_the_sum_is_over_the_references_lesions_and_the_false_positives(make_pair):
    missed, false = ((2, 14, 2), (3, 3, 3)), [FAR, ((2, 2, 14), (3, 3, 3))]
    pair = make_pair(predicted=[LESION, *false], reference=[LESION, missed])
    assert scores(pair) == (1 / 4, 3 * 374 / 4)


def test_nothing_in_either_scores_one_and_zero(make_pair):
    assert scores(make_pair()) == (1, 0)
    assert scores(make_pair(reference=[((2, 2, 2), (2, 1, 1))])) == (1, 0)


def test_the_hausdorff_distance_is_that_of_each_lesion_in_mm(make_pair):
    slab = {"predicted": [((4, 2, 2), (4, 8, 8))], "reference": [((2, 2, 2), (4, 8, 8))]}
    assert brats2023_hd95(make_pair(**slab, spacing=(3.0, 1.0, 1.0))) == pytest.approx(6)


LARGE = ((2, 2, 2), (3, 3, 3))
SMALL = ((12, 12, 12), (2, 2, 2))


def of_large(pair):
    return brats2026_large_dice(pair), brats2026_large_nsd(pair), brats2026_large_hd95(pair)


def test_matching_is_one_to_one(make_pair):
    """A bridge over two lesions finds the one that it has more of, and the other is missed."""
    pair = make_pair(
        predicted=[((2, 2, 2), (9, 3, 3))], reference=[((2, 2, 2), (4, 3, 3)), ((8, 2, 2), (3, 3, 3))]
    )
    assert match_one_to_one(pair).partners.tolist() == [0, -1]
    assert brats2026_large_dice(pair) == pytest.approx(2 * 36 / (81 + 36) / 2)


def test_matching_makes_the_sum_of_dice_largest(make_pair):
    """The first lesion leaves its best match to the second, which has no other."""
    reference = [((2, 2, 2), (4, 1, 1)), ((8, 2, 2), (2, 1, 1))]
    predicted = [((2, 2, 2), (1, 1, 1)), ((4, 2, 2), (6, 1, 1))]
    matching = match_one_to_one(make_pair(predicted=predicted, reference=reference))
    # 2*1/(4+1) + 2*2/(2+6) = 0.9, against 2*2/(4+6) = 0.4 alone.
    assert matching.partners.tolist() == [0, 1]
    assert matching.dice == pytest.approx([0.4, 0.5])


def test_what_has_no_common_voxel_is_no_match_even_side_by_side(make_pair):
    pair = make_pair(predicted=[((5, 2, 2), (3, 3, 3))], reference=[LARGE])
    assert match_one_to_one(pair).partners.tolist() == [-1]
    assert of_large(pair) == (0, 0, 373)


def test_one_common_voxel_matches_large_lesions(make_pair):
    pair = make_pair(predicted=[((4, 4, 4), (3, 3, 3))], reference=[LARGE])
    assert brats2026_large_dice(pair) == pytest.approx(2 / 54)
    assert brats2026_large_hd95(pair) < 373


def test_lesions_are_split_at_20_mm3(make_pair):
    at_split, below = ((2, 2, 2), (5, 4, 1)), ((12, 2, 2), (19, 1, 1))
    large = make_pair(predicted=[at_split], reference=[at_split])
    assert math.isnan(brats2026_small_f1(large))
    assert of_large(large) == (1, 1, 0)
    small = make_pair(predicted=[below], reference=[below], shape=(40, 20, 20))
    assert brats2026_small_f1(small) == 1
    assert all(math.isnan(value) for value in of_large(small))


def test_the_split_is_in_mm3_and_not_in_voxels(make_pair):
    assert of_large(make_pair(predicted=[SMALL], reference=[SMALL], spacing=(1.0, 1.0, 3.0))) == (1, 1, 0)


def test_a_matched_prediction_counts_with_its_lesion_and_a_false_one_by_its_own_volume(make_pair):
    pair = make_pair(predicted=[((12, 12, 12), (3, 3, 3)), LARGE, ((2, 14, 2), (2, 2, 2))], reference=[SMALL])
    assert brats2026_small_f1(pair) == pytest.approx(2 / (2 + 0 + 1))
    assert of_large(pair) == (0, 0, 373)


@pytest.mark.parametrize(("length", "f1"), [(17, 1), (18, 1), (19, 0)])
def test_a_small_lesion_is_found_from_a_dice_of_a_tenth_on(length, f1, make_pair):
    """One common voxel of two rows, the reference's of 2: Dice 2 / (2 + length), 0.1 at 18."""
    pair = make_pair(
        predicted=[((2, 2, 2), (length, 1, 1))], reference=[((1, 2, 2), (2, 1, 1))], shape=(40, 20, 20)
    )
    assert match_one_to_one(pair).partners.tolist() == [0]
    assert brats2026_small_f1(pair) == f1


def test_a_match_below_a_tenth_is_a_miss_and_a_false_positive(make_pair):
    weak = {"predicted": ((2, 2, 2), (19, 1, 1)), "reference": ((1, 2, 2), (2, 1, 1))}
    pair = make_pair(
        predicted=[SMALL, weak["predicted"]], reference=[SMALL, weak["reference"]], shape=(40, 20, 20)
    )
    assert brats2026_small_f1(pair) == pytest.approx(2 / (2 + 1 + 1))


def test_small_lesions_are_scored_by_the_f1_of_detection(make_pair):
    missed, false = ((2, 12, 2), (2, 2, 2)), [((2, 2, 12), (1, 1, 1)), ((12, 2, 12), (1, 1, 1))]
    pair = make_pair(predicted=[SMALL, *false], reference=[SMALL, missed])
    assert brats2026_small_f1(pair) == pytest.approx(2 / (2 + 1 + 2))


def test_large_missed_and_false_lesions_score_0_0_and_373(make_pair):
    missed, false = ((2, 14, 2), (3, 3, 3)), [((14, 2, 2), (3, 3, 3)), ((14, 14, 14), (3, 3, 3))]
    pair = make_pair(predicted=[LARGE, *false], reference=[LARGE, missed])
    assert of_large(pair) == (1 / 4, 1 / 4, 3 * 373 / 4)


def test_large_lesions_are_scored_each_by_itself(make_pair):
    """A cube shifted by one voxel of 2 mm: the far one does not come into its distance."""
    far = ((14, 14, 14), (3, 3, 3))
    pair = make_pair(predicted=[((3, 2, 2), (3, 3, 3)), far], reference=[LARGE, far], spacing=(2.0, 1.0, 1.0))
    dice, nsd, hd95 = of_large(pair)
    assert dice == pytest.approx((2 * 18 / 54 + 1) / 2)
    # 9 of each cube's 26 surface voxels lie outside of the other, 2 mm away; the one in the middle of
    # the other's lies in its inside, 1 mm from its surface.
    assert nsd == pytest.approx((34 / 52 + 1) / 2)
    assert hd95 == pytest.approx((2 + 0) / 2)


def test_nothing_in_either_gives_no_number(make_pair):
    values = [brats2026_small_f1(make_pair()), *of_large(make_pair())]
    assert all(math.isnan(value) for value in values)
