import numpy as np
import pytest

from sgnet_nnunet.evaluation.pairs import MaskPair, bounding_box, once_per_pair


def test_only_the_bounding_box_of_both_masks_is_kept(make_pair):
    pair = make_pair(predicted=[((2, 3, 4), (1, 1, 1))], reference=[((5, 3, 6), (1, 2, 1))])
    assert pair.prediction.shape == pair.reference.shape == (4, 2, 3)
    assert pair.origin.tolist() == [2, 3, 4]
    assert pair.grid.shape == (20, 20, 20)


def test_voxels_are_counted(make_pair):
    pair = make_pair(predicted=[((2, 2, 2), (2, 2, 2))], reference=[((3, 2, 2), (2, 2, 1))])
    assert (pair.predicted_voxels, pair.reference_voxels, pair.common_voxels) == (8, 4, 2)


def test_it_says_which_mask_is_empty(make_pair):
    lesion = [((2, 2, 2), (2, 2, 2))]
    assert make_pair().empty == "both"
    assert make_pair(predicted=lesion).empty == "reference"
    assert make_pair(reference=lesion).empty == "prediction"
    assert make_pair(predicted=lesion, reference=lesion).empty is None


def test_an_intermediate_result_is_computed_once_for_each_pair(make_pair):
    calls = []

    @once_per_pair
    def result(pair):
        calls.append(pair)
        return len(calls)

    first, second = make_pair(), make_pair()
    assert [result(first), result(first), result(second)] == [1, 1, 2]


def test_the_box_of_an_empty_mask_is_empty():
    assert np.zeros((3, 4, 5))[bounding_box(np.zeros((3, 4, 5), dtype=bool))].size == 0


def test_masks_of_different_shapes_are_refused():
    masks = np.ones((2, 2, 2), dtype=bool), np.ones((3, 3, 3), dtype=bool)
    with pytest.raises(ValueError, match=r"one shape; got \(2, 2, 2\) and \(3, 3, 3\)"):
        MaskPair(*masks, affine=np.eye(4))


def test_a_mask_of_numbers_is_refused_with_the_remedy():
    masks = np.ones((2, 2, 2), dtype=bool), np.full((2, 2, 2), 0.7)
    with pytest.raises(ValueError, match="the reference must be boolean; got float64: compare it"):
        MaskPair(*masks, affine=np.eye(4))
