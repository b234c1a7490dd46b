"""What the clip takes from tumours, on images whose figures are known."""

import nibabel as nib
import numpy as np
import pytest
from clipping import clipping_of, clippings, main


@pytest.fixture
def tumour():
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[8:10, 8:10, 8:10] = True
    return mask


@pytest.fixture
def image(tumour):
    brain = np.random.default_rng(0).normal(100, 5, tumour.shape).astype(np.float32)
    brain[tumour] = 300
    return brain


def test_a_small_bright_tumour_is_clipped_whole_and_loses_its_contrast(image, tumour):
    figures = clipping_of(image, tumour.astype(np.int8), masked=False)
    assert figures.clipped == 1
    assert figures.unclipped_contrast == pytest.approx(200 / 5, rel=0.05)
    assert figures.clipped_contrast < 5


def test_a_tumour_of_the_brains_own_brightness_loses_nothing(image, tumour):
    image[tumour] = 100
    figures = clipping_of(image, tumour.astype(np.int8), masked=False)
    assert figures.clipped == 0
    assert figures.unclipped_contrast == pytest.approx(figures.clipped_contrast, abs=0.05)


def test_every_channel_is_read_and_the_empty_case_left_out(tmp_path, image, tumour, capsys):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir()
    for case, mask in {"with": tumour, "without": np.zeros_like(tumour)}.items():
        nib.save(nib.Nifti1Image(mask.astype(np.uint8), np.eye(4)), tmp_path / f"labelsTr/{case}.nii.gz")
        for channel in range(2):
            path = tmp_path / f"imagesTr/{case}_{channel:04d}.nii.gz"
            nib.save(nib.Nifti1Image(image, np.eye(4)), path)
    assert [len(channels) for channels in clippings(tmp_path)] == [2]
    main(tmp_path)
    assert "| 1 | 1 | 100% | " in capsys.readouterr().out


def test_within_a_mask_the_background_does_not_lower_the_clip(image, tumour):
    image[:, :, :7] = 0
    seg = np.where(image == 0, -1, tumour).astype(np.int8)
    image[tumour] = np.percentile(image[image > 0], 99.3)
    assert clipping_of(image, seg, masked=False).clipped == 1
    assert clipping_of(image, seg, masked=True).clipped == 0
