import json

import nibabel as nib
import numpy as np
import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.report.case_pictures import channel_names, load_case


def answers_of(results, name):
    return [case for case in results.cases if case.name == name]


@pytest.mark.parametrize("axes", ["RAS", "LPS", "AIL", "SRP"])
def test_a_case_looks_the_same_however_its_grid_lies(write_results, axes, tmp_path):
    volumes = load_case(answers_of(write_results(axes=axes), "a"))
    assert nib.aff2axcodes(volumes.affine) == ("R", "A", "S")
    assert volumes.reference.shape == (30, 36, 12)
    assert volumes.reference[6, 22, 6] == 1
    assert volumes.reference[30 - 6, 22, 6] == 0
    assert volumes.images[0][6, 22, 6] > 500


def test_a_missing_prediction_is_an_empty_mask(write_results):
    volumes = load_case(answers_of(write_results(missing=(("second", "a"),)), "a"))
    assert not volumes.predictions["second"].any()
    assert volumes.predictions["first"].any()


def test_images_on_another_grid_are_not_drawn(write_results):
    results = write_results()
    case = answers_of(results, "a")
    nib.save(nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.eye(4)), case[0].images[1])
    volumes = load_case(case)
    assert volumes.images == ()
    assert volumes.channels == ()


def test_a_truncated_image_is_named(write_results):
    case = answers_of(write_results(), "a")
    path = case[0].images[0]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputFileError, match=path.name):
        load_case(case)


def test_channels_have_the_names_of_the_data_set(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1ce", "1": "FLAIR"}}))
    images = [tmp_path / "imagesTr" / f"a_{i:04d}.nii.gz" for i in range(3)]
    assert channel_names(images) == ("T1ce", "FLAIR", "channel 2")


def test_channels_without_a_data_set_have_numbers(tmp_path):
    assert channel_names([tmp_path / "x" / "a.nii.gz"]) == ("channel 0",)


def test_damaged_description_of_the_data_set_is_named(tmp_path):
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(InputFileError, match=r"dataset\.json: holds no JSON object"):
        channel_names([tmp_path / "imagesTr" / "a_0000.nii.gz"])
