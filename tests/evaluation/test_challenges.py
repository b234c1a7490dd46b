"""The presets of the BraTS challenges against values worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.eulerangles import euler2mat

from sgnet_nnunet.evaluation.challenges import (
    brats2023_dice,
    brats2023_hd95,
    brats2026_large_dice,
    brats2026_large_hd95,
    brats2026_large_nsd,
    brats2026_small_f1,
    match_one_to_one,
)
from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.evaluation.registry import case_metrics, measure

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


BY_BRATS_2023_METRICS = {
    "a miss and a false lesion": ([LESION, FAR], [LESION, ((2, 14, 2), (3, 3, 3))], (1 / 3, 2 * 374 / 3)),
    "next to a face": ([((5, 3, 3), (1, 1, 1))], [LESION], (0, 3.1622776601683795)),
    "next to an edge": ([((5, 5, 3), (1, 1, 1))], [LESION], (0, 3.7416573867739413)),
    "an ignored lesion": ([LESION], [LESION, ((14, 14, 14), (2, 1, 1))], (1, 0)),
    "two parts of one": ([((2, 2, 2), (1, 3, 3)), ((4, 2, 2), (1, 3, 3))], [LESION], (0.8, 1)),
    "three voxels between two lesions": ([LESION], [LESION, ((8, 2, 2), (3, 3, 3))], (0.5, 187)),
}
"""Predicted boxes, those of the reference, and what BraTS-2023-Metrics at 43c9052 gives (BraTS-MET, ET)."""


@pytest.mark.parametrize("name", BY_BRATS_2023_METRICS)
def test_scores_are_those_of_the_challenges_code(name, make_pair):
    predicted, reference, expected = BY_BRATS_2023_METRICS[name]
    assert scores(make_pair(predicted=predicted, reference=reference)) == pytest.approx(expected)


def test_scores_differ_from_the_challenges_code_for_close_lesions_and_at_corners(make_pair):
    close = make_pair(predicted=[LESION], reference=[LESION, ((7, 2, 2), (3, 3, 3))])
    assert scores(close) == (0.5, 187)  # two lesions; one there: Dice 2/3 and 5 mm
    corner = make_pair(predicted=[((5, 5, 5), (1, 1, 1))], reference=[LESION])
    assert scores(corner) == pytest.approx((0, 4.69041575982343))  # no match there: 374 mm


METRICS = case_metrics(("brats2023", "brats2026"))
CELL = 8
AT_LIMITS = ((1, 1, 1), (2, 1, 1), (1, 2, 2), (5, 2, 1), (5, 4, 1), (5, 4, 2), (3, 3, 3))
"""Sizes in voxels, of 2 mm3 or 20 mm3 for one of the spacings."""


@st.composite
def pairs_at_the_limits(draw):
    """A predicted mask and a reference with at most one lesion each in a cell, and a spacing in mm."""
    masks = np.zeros((2, 3 * CELL, 2 * CELL, CELL), dtype=bool)
    for cell in np.ndindex(3, 2, 1):
        for mask in masks:
            if draw(st.booleans()):
                size = draw(st.sampled_from(AT_LIMITS))
                first = [CELL * c + draw(st.integers(1, 2)) for c in cell]
                mask[tuple(slice(f, f + s) for f, s in zip(first, size, strict=True))] = True
    return *masks, draw(st.sampled_from([(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (0.5, 1.0, 4.0), (0.5, 0.5, 2.0)]))


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    case=pairs_at_the_limits(),
    degrees=st.tuples(*[st.sampled_from([0.0, 1.0, 7.0]) | st.floats(-180, 180)] * 3),
    axes=st.permutations(range(3)),
    flips=st.sets(st.integers(0, 2)),
)
def test_a_rotated_flipped_or_permuted_grid_has_the_same_scores(case, degrees, axes, flips):
    prediction, reference, spacing = case
    expected = measure(MaskPair(prediction, reference, affine=np.diag([*spacing, 1.0])), METRICS)
    turned = (np.flip(mask, sorted(flips)).transpose(axes) for mask in (prediction, reference))
    affine = np.eye(4)
    affine[:3, :3] = euler2mat(*np.radians(degrees)) @ np.diag([spacing[axis] for axis in axes])
    affine = affine.astype(np.float32)  # as a header stores it
    found = measure(MaskPair(*turned, affine=affine), METRICS)
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4, nan_ok=True)


LARGE = ((2, 2, 2), (3, 3, 3))
SMALL = ((12, 12, 12), (2, 2, 2))


MISSED = ((2, 14, 2), (3, 3, 3))
NAN, MM = math.nan, (1.0, 1.0, 1.0)
BY_BRATS_EVALUATION = {
    "a false lesion of 125 mm3": (
        [LARGE, SMALL, ((30, 12, 12), (5, 5, 5))],
        [LARGE, SMALL],
        MM,
        (2 / 3, 0.5, 0.5, 186.5),
    ),
    "a false lesion of 8 mm3": (
        [LARGE, SMALL, ((30, 12, 12), (2, 2, 2))],
        [LARGE, SMALL],
        MM,
        (2 / 3, 0.5, 0.5, 186.5),
    ),
    "nothing in either": ([], [], MM, (NAN, NAN, NAN, NAN)),
    "nothing in the reference": ([LARGE, SMALL], [], MM, (NAN, NAN, NAN, NAN)),
    "nothing in the prediction": ([], [LARGE, SMALL], MM, (0, 0, 0, 373)),
    "only small lesions in the reference": ([SMALL, LARGE], [SMALL], MM, (2 / 3, NAN, NAN, NAN)),
    "only large lesions in the reference": ([LARGE, SMALL], [LARGE], MM, (NAN, 0.5, 0.5, 186.5)),
    "a match below a Dice of a tenth": (
        [SMALL, ((2, 2, 2), (19, 1, 1))],
        [SMALL, ((1, 2, 2), (2, 1, 1))],
        MM,
        (2 / 3, NAN, NAN, NAN),
    ),
    "a match at a Dice of a tenth": (
        [SMALL, ((2, 2, 2), (18, 1, 1))],
        [SMALL, ((1, 2, 2), (2, 1, 1))],
        MM,
        (1, NAN, NAN, NAN),
    ),
    "20 mm3": ([((2, 2, 2), (5, 4, 1))], [((2, 2, 2), (5, 4, 1))], MM, (NAN, 1, 1, 0)),
    "19 mm3": ([((2, 2, 2), (19, 1, 1))], [((2, 2, 2), (19, 1, 1))], MM, (1, NAN, NAN, NAN)),
    "3 voxels of 8 mm3": (
        [((2, 2, 2), (3, 1, 1))],
        [((2, 2, 2), (3, 1, 1))],
        (2.0, 2.0, 2.0),
        (NAN, 1, 1, 0),
    ),
    "a bridge over two lesions": (
        [((2, 2, 2), (9, 3, 3))],
        [((2, 2, 2), (4, 3, 3)), ((8, 2, 2), (3, 3, 3))],
        MM,
        (NAN, 0.3076923076923077, 0.3885135135135135, 189),
    ),
    "a corner in common": (
        [((2, 2, 2), (2, 2, 2))],
        [((2, 2, 2), (2, 2, 2)), ((4, 4, 4), (2, 2, 2))],
        MM,
        (1, NAN, NAN, NAN),
    ),
    "shifts of 1 and 2 mm": (
        [((3, 2, 2), (3, 3, 3)), ((14, 12, 12), (4, 4, 4))],
        [LARGE, ((12, 12, 12), (4, 4, 4))],
        MM,
        (NAN, 0.5833333333333333, 0.8571428571428572, 1.5),
    ),
    "voxels of 1 x 2 x 1 mm": (
        [((3, 3, 2), (4, 4, 4)), ((20, 12, 12), (2, 3, 2))],
        [((2, 2, 2), (4, 4, 4)), ((20, 12, 12), (3, 3, 3))],
        (1.0, 2.0, 1.0),
        (NAN, 0.5889423076923077, 0.8282967032967032, 1.8251407699364424),
    ),
    "voxels of 0.9 x 3 x 0.9 mm": (
        [((3, 2, 2), (4, 3, 4)), ((20, 12, 12), (2, 1, 2))],
        [((2, 2, 2), (4, 4, 4)), ((20, 12, 12), (2, 2, 3))],
        (0.9, 3.0, 0.9),
        (NAN, 0.5714285714285714, 0.8035714285714286, 3.066045972911129),
    ),
}
"""Predicted boxes, those of the reference, spacing, and what brats-evaluation 0.0.10 (panoptica 2.1.7) gives.

It ran as in `tests/evaluation/test_agreement.py` on masks of 40 x 20 x 20 voxels with the label 3 (`et`):
`small_instance_f1`, `lesionwise_dsc_mean`, `lesionwise_nsd_mean`, `lesionwise_hd95_mean`.
"""


@pytest.mark.parametrize("name", BY_BRATS_EVALUATION)
def test_scores_are_those_of_brats_evaluation(name, make_pair):
    predicted, reference, spacing, expected = BY_BRATS_EVALUATION[name]
    pair = make_pair(predicted=predicted, reference=reference, spacing=spacing, shape=(40, 20, 20))
    assert (brats2026_small_f1(pair), *of_large(pair)) == pytest.approx(expected, nan_ok=True)


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


def test_large_lesions_are_scored_each_by_itself(make_pair):
    """A cube shifted by one voxel of 2 mm: the far one does not come into its distance."""
    far = ((14, 14, 14), (3, 3, 3))
    pair = make_pair(predicted=[((3, 2, 2), (3, 3, 3)), far], reference=[LARGE, far], spacing=(2.0, 1.0, 1.0))
    dice, nsd, hd95 = of_large(pair)
    assert dice == pytest.approx((2 * 18 / 54 + 1) / 2)
    # 9 of each cube's 26 surface voxels lie outside of the other, 2 mm away; the one in the middle of
    # the other's lies in its inside, 1 mm from its surface: the smallest side of a voxel.
    assert nsd == pytest.approx((34 / 52 + 1) / 2)
    assert hd95 == pytest.approx((2 + 0) / 2)
