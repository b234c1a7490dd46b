"""Any folder of predictions beside any folder of references."""

import json

import numpy as np
import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.evaluation.results import FOREGROUND, results_of_folders
from sgnet_nnunet.nifti import Volume, write_volume


@pytest.fixture
def folders(tmp_path):
    """Two folders with masks of the cases a and b."""
    for folder in ("predicted", "reference"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            save(tmp_path / folder / f"{name}.nii.gz")
    return tmp_path / "predicted", tmp_path / "reference"


def save(path):
    write_volume(path, Volume(np.ones((2, 2, 2), dtype=np.uint8), np.eye(4)))


def test_masks_are_paired_by_name(folders):
    results = results_of_folders(*folders)
    assert [(case.model, case.name, case.fold) for case in results.cases] == [
        ("predicted", "a", ""),
        ("predicted", "b", ""),
    ]
    assert results.cases[1].prediction == folders[0] / "b.nii.gz"
    assert results.cases[1].reference == folders[1] / "b.nii.gz"
    assert results.dataset == "reference"


def test_compressed_and_plain_files_are_of_one_case(folders):
    (folders[0] / "a.nii.gz").unlink()
    save(folders[0] / "a.nii")
    assert results_of_folders(*folders).cases[0].prediction == folders[0] / "a.nii"


def test_everything_above_zero_is_foreground_without_a_dataset_json(folders):
    results = results_of_folders(*folders)
    assert results.targets == FOREGROUND.targets
    assert results.targets[0].name == "foreground"


@pytest.mark.parametrize("where", ["reference", ".", "predicted"])
def test_dataset_json_beside_the_masks_is_found(folders, where):
    path = folders[0].parent / where / "dataset.json"
    path.write_text(json.dumps({"labels": {"background": 0, "core": 2}}))
    results = results_of_folders(*folders)
    assert [(target.name, target.values) for target in results.targets] == [("core", (2,))]


def test_given_labels_come_first(folders, tmp_path):
    (folders[1] / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "core": 2}}))
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"labels": {"background": 0, "whole": [1, 2]}}))
    assert results_of_folders(*folders, labels=other).targets[0].name == "whole"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"labels": {"background": 0}}', '{"labels": {"a": "b"}}']
)
def test_dataset_json_that_says_nothing_is_refused(folders, tmp_path, content):
    path = tmp_path / "dataset.json"
    path.write_text(content)
    with pytest.raises(InputFileError, match=r"dataset\.json"):
        results_of_folders(*folders, labels=path)


def test_extra_prediction_is_left_out_with_a_warning(folders, caplog):
    save(folders[0] / "c.nii.gz")
    assert len(results_of_folders(*folders).cases) == 2
    assert "c.nii.gz: has no reference" in caplog.text


def test_missing_prediction_is_named_or_allowed(folders):
    (folders[0] / "b.nii.gz").unlink()
    with pytest.raises(
        InputFileError, match=r"b\.nii\.gz: there is no such prediction \(1 of 2 are missing\)"
    ):
        results_of_folders(*folders)
    assert [case.name for case in results_of_folders(*folders, allow_missing=True).missing] == ["b"]


def test_folders_without_a_common_case_are_refused_in_any_case(folders):
    for name in ("a", "b"):
        (folders[0] / f"{name}.nii.gz").rename(folders[0] / f"{name}_seg.nii.gz")
    with pytest.raises(InputFileError, match="same names"):
        results_of_folders(*folders, allow_missing=True)


@pytest.mark.parametrize("empty", [0, 1])
def test_empty_or_absent_folder_is_refused(folders, tmp_path, empty):
    chosen = list(folders)
    chosen[empty] = tmp_path / "nothing"
    with pytest.raises(InputFileError, match="no such folder"):
        results_of_folders(*chosen)
    chosen[empty].mkdir()
    with pytest.raises(InputFileError, match="holds no mask"):
        results_of_folders(*chosen)


@pytest.mark.parametrize("folder", [0, 1])
def test_two_files_of_one_case_are_refused(folders, folder):
    save(folders[folder] / "a.nii")
    with pytest.raises(InputFileError, match=r"a\.nii(\.gz)? is a file of the same case; keep one"):
        results_of_folders(*folders)


def test_hidden_files_are_passed_over(folders):
    save(folders[0] / ".partial-z.nii.gz")
    save(folders[1] / "._a.nii.gz")
    assert len(results_of_folders(*folders).cases) == 2


def test_images_beside_nnunets_labels_are_found(folders):
    labels = folders[1].rename(folders[1].parent / "labelsTr")
    images = labels.parent / "imagesTr"
    images.mkdir()
    for channel in range(2):
        save(images / f"a_{channel:04d}.nii.gz")
    results = results_of_folders(folders[0], labels)
    assert [path.name for path in results.cases[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert results.cases[1].images == ()
