"""A predicted mask beside its reference, from arrays and from disk."""

import gzip
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.evaluation.pairs import MaskPair, once_per_pair, read_pairs
from sgnet_nnunet.evaluation.results import Model, PredictedCase, Results, Target
from sgnet_nnunet.lesions import bounding_box


def test_only_the_bounding_box_of_both_masks_is_kept(make_pair):
    pair = make_pair(predicted=[((2, 3, 4), (1, 1, 1))], reference=[((5, 3, 6), (1, 2, 1))])
    assert pair.prediction.shape == pair.reference.shape == (4, 2, 3)
    assert pair.box == (slice(2, 6), slice(3, 5), slice(4, 7))
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


SHAPE = (6, 7, 8)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves two label maps and returns the case and its results."""

    def save(prediction, reference, *, affine=AFFINE, ignored_value=None):
        paths = tmp_path / "prediction.nii.gz", tmp_path / "reference.nii.gz"
        for path, data, grid in ((paths[0], prediction, affine), (paths[1], reference, AFFINE)):
            if data is not None:
                nib.save(nib.Nifti1Image(data, grid), path)
        case = PredictedCase(
            model="m",
            name="c",
            patient="p",
            reference=paths[1],
            prediction=None if prediction is None else paths[0],
        )
        results = Results(
            dataset="d",
            targets=(Target(name="whole", values=(1, 2)), Target(name="core", values=(2,))),
            known_values=frozenset({0, 1, 2}) | ({ignored_value} - {None}),
            ignored_value=ignored_value,
            models=(Model(name="m"),),
            cases=(case,),
        )
        return case, results

    return save


def label_map(dtype=np.uint8, **values):
    data = np.zeros(SHAPE, dtype=dtype)
    data[1:4, 1:4, 1:4] = values.get("whole", 1)
    data[2, 2, 2] = values.get("core", 2)
    return data


def test_each_target_is_a_pair(saved):
    whole, core = read_pairs(*saved(label_map(), label_map(core=1)))
    assert (whole.predicted_voxels, whole.reference_voxels) == (27, 27)
    assert (core.predicted_voxels, core.reference_voxels) == (1, 0)
    assert core.empty == "reference"
    assert whole.grid.spacing == (2.0, 1.0, 1.0)  # the memory's order, x last


def test_missing_prediction_is_an_empty_mask(saved):
    whole, _ = read_pairs(*saved(None, label_map()))
    assert whole.empty == "prediction"


def test_ignored_voxels_of_the_reference_count_in_neither_mask(saved):
    reference = label_map()
    reference[1] = 3
    whole, _ = read_pairs(*saved(label_map(), reference, ignored_value=3))
    assert (whole.predicted_voxels, whole.reference_voxels, whole.common_voxels) == (18, 18, 18)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint16, ">i4"])
def test_whole_numbers_of_any_type_are_a_mask(saved, dtype):
    whole, core = read_pairs(*saved(label_map(dtype), label_map()))
    assert whole.common_voxels == 27
    assert core.common_voxels == 1


def test_affines_may_differ_by_rounding(saved):
    off = AFFINE.copy()
    off[0, 3] += 0.01
    assert read_pairs(*saved(label_map(), label_map(), affine=off))[0].common_voxels == 27


@pytest.mark.parametrize(
    "change", [{"move": 0.5}, {"scale": 1.1}, {"flip": True}], ids=["moved", "scaled", "flipped"]
)
def test_other_affine_is_refused(saved, change):
    other = AFFINE.copy()
    other[2, 3] += change.get("move", 0)
    other[2, 2] *= change.get("scale", 1)
    if "flip" in change:
        other[0] = [1, 0, 0, -5]
    with pytest.raises(InputFileError, match=r"prediction.* mm off its reference; resample it"):
        read_pairs(*saved(label_map(), label_map(), affine=other))


def test_other_shape_is_refused(saved):
    with pytest.raises(InputFileError, match="has 6 x 7 x 9 voxels, its reference 6 x 7 x 8; resample"):
        read_pairs(*saved(np.zeros((6, 7, 9), dtype=np.uint8), label_map()))


@pytest.mark.parametrize("which", ["prediction", "reference"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "has the value 3, which is no label of the data set"),
        (0.5, "fractional values such as 0.5"),
        (-1, "negative values such as -1"),
        (np.nan, "1 of 336 voxels are NaN"),
        (np.inf, "1 of 336 voxels are NaN or infinite"),
    ],
)
def test_value_that_no_mask_has_is_refused_with_the_files_name(saved, which, value, message):
    bad = label_map(np.float32)
    bad[0, 0, 0] = value
    maps = (bad, label_map()) if which == "prediction" else (label_map(), bad)
    with pytest.raises(InputFileError, match=message) as raised:
        read_pairs(*saved(*maps))
    assert raised.value.path.name == f"{which}.nii.gz"


def test_truncated_file_is_refused(saved):
    case, results = saved(label_map(), label_map())
    case.prediction.write_bytes(case.prediction.read_bytes()[:-20])
    with pytest.raises(InputFileError, match=r"prediction\.nii\.gz: cannot be read"):
        read_pairs(case, results)


def test_file_that_is_no_nifti_is_refused(saved):
    case, results = saved(label_map(), label_map())
    case.reference.write_bytes(gzip.compress(b"a dog's dinner" * 100))
    with pytest.raises(InputFileError, match=r"reference\.nii\.gz: cannot be read"):
        read_pairs(case, results)


def test_large_values_are_compared_as_they_are(saved):
    case, results = saved(label_map(np.int32, whole=1000), label_map(np.int32, whole=1000))
    results = replace(
        results, targets=(Target(name="x", values=(1000,)),), known_values=frozenset({0, 2, 1000})
    )
    assert read_pairs(case, results)[0].common_voxels == 26
