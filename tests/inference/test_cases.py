"""Finding the cases of a folder."""

import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.nnunet import find_cases


def touch(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


def test_cases_come_in_order_with_their_channels(tmp_path):
    touch(tmp_path, "b_0001.nii.gz", "b_0000.nii.gz", "a_1_0000.nii.gz", "a_1_0001.nii.gz", "c_0000.nrrd")
    cases = find_cases(tmp_path, file_ending=".nii.gz", channels=2)
    assert list(cases) == ["a_1", "b"]
    assert [path.name for path in cases["b"]] == ["b_0000.nii.gz", "b_0001.nii.gz"]


def test_missing_channel_is_named(tmp_path):
    touch(tmp_path, "a_0001.nii.gz")
    with pytest.raises(InputFileError, match=r"a_0000\.nii\.gz: there is no such file; .* 2 channels"):
        find_cases(tmp_path, file_ending=".nii.gz", channels=2)


def test_channel_too_many_is_named(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "a_0002.nii.gz")
    with pytest.raises(InputFileError, match=r"a_0002\.nii\.gz: is one channel too many"):
        find_cases(tmp_path, file_ending=".nii.gz", channels=2)


@pytest.mark.parametrize("folder", ["", "nowhere"])
def test_folder_without_images_is_named(tmp_path, folder):
    touch(tmp_path, "a_0000.nii")
    with pytest.raises(InputFileError, match=r"holds no file \*_0000\.nii\.gz"):
        find_cases(tmp_path / folder, file_ending=".nii.gz", channels=1)
