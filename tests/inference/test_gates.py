import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.inference.gates import find_cases
from sgnet_nnunet.inference.model import load_predictor


def touch(folder, *names):
    for name in names:
        (folder / name).touch()


def test_cases_are_found_with_a_file_a_channel(tmp_path):
    touch(tmp_path, "b_0000.nii.gz", "b_0001.nii.gz", "a_0000.nii.gz", "a_0001.nii.gz", "notes.txt")
    cases = find_cases(tmp_path, file_ending=".nii.gz", channels=2)
    assert list(cases) == ["a", "b"]
    assert [path.name for path in cases["a"]] == ["a_0000.nii.gz", "a_0001.nii.gz"]


def test_missing_channel_is_named(tmp_path):
    touch(tmp_path, "a_0000.nii.gz")
    with pytest.raises(InputFileError, match=r"a_0001\.nii\.gz: there is no such file; the model takes 2"):
        find_cases(tmp_path, file_ending=".nii.gz", channels=2)


def test_empty_folder_is_named(tmp_path):
    with pytest.raises(InputFileError, match=r"holds no file \*_0000\.nii\.gz"):
        find_cases(tmp_path, file_ending=".nii.gz", channels=2)


def test_folder_without_the_weights_is_named(tmp_path):
    with pytest.raises(InputFileError, match=r"fold_3/checkpoint_best\.pth: there is no such file"):
        load_predictor(tmp_path, fold="3", checkpoint="checkpoint_best.pth")
