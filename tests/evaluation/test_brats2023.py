import pytest

from sgnet_nnunet.evaluation.challenges import Brats2023Dice, Brats2023HD95

LESION = ((2, 2, 2), (3, 3, 3))
FAR = ((14, 14, 14), (3, 3, 3))


def scores(pair):
    return Brats2023Dice()(pair), Brats2023HD95()(pair)


def test_a_perfect_lesion_scores_one_and_zero(make_pair):
    assert scores(make_pair(predicted=[LESION], reference=[LESION])) == (1, 0)


def test_voxels_that_touch_by_a_corner_are_one_lesion(make_pair):
    reference = [((2, 2, 2), (2, 2, 2)), ((4, 4, 4), (2, 2, 2))]
    # As two lesions the second would be missed: its grown shape ends a voxel before the prediction's.
    pair = make_pair(predicted=[((2, 2, 2), (1, 1, 1))], reference=reference)
    assert Brats2023Dice()(pair) == pytest.approx(2 * 1 / (1 + 16))


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
    assert Brats2023Dice()(pair) == pytest.approx(2 * 18 / (18 + 27))


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
    assert Brats2023HD95()(make_pair(**slab, spacing=(3.0, 1.0, 1.0))) == pytest.approx(6)
