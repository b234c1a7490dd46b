import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from scipy import ndimage

from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.patient import draw_ids, draw_patient, patient_rng
from sgnet_nnunet.phantom.scanner import ORIENTATIONS


def brain_of(volume):
    return ndimage.binary_fill_holes(volume.data > 0)


@pytest.mark.slow
def test_image_and_mask_share_a_grid(patient):
    for image, mask in (("t1ce_img", "core_seg"), ("flair_img", "whole_seg")):
        assert patient[image].data.shape == patient[mask].data.shape
        np.testing.assert_array_equal(patient[image].affine, patient[mask].affine)
        assert set(np.unique(patient[mask].data)) == {0, 1}


def test_flair_lies_on_another_grid(patient):
    t1ce, flair = patient["t1ce_img"], patient["flair_img"]
    assert t1ce.data.shape != flair.data.shape
    assert max(t1ce.grid.spacing) < 1.25
    assert 3.0 <= max(flair.grid.spacing) <= 5.5
    assert 0.6 <= min(flair.grid.spacing) <= 0.95


def test_files_are_oriented_as_clinical_ones(patient):
    for volume in patient.values():
        assert "".join(nib.aff2axcodes(volume.affine)) in ORIENTATIONS


def test_background_is_exactly_zero(patient):
    for part in ("t1ce_img", "flair_img"):
        data = patient[part].data
        assert data.min() == 0
        for axis in range(3):
            assert not np.take(data, 0, axis).any()
        _, pieces = ndimage.label(data == 0)
        assert pieces < 50


def test_tumour_is_under_two_percent_of_the_brain(patient):
    for image, mask in (("t1ce_img", "core_seg"), ("flair_img", "whole_seg")):
        share = patient[mask].data.sum() / brain_of(patient[image]).sum()
        assert 0 < share < 0.02


def test_brain_has_the_volume_of_a_brain(patient):
    litres = brain_of(patient["t1ce_img"]).sum() * patient["t1ce_img"].grid.voxel_mm3 / 1e6
    assert 1.0 < litres < 1.9


def test_masks_lie_in_the_brain(patient):
    for image, mask in (("t1ce_img", "core_seg"), ("flair_img", "whole_seg")):
        assert (patient[image].data[patient[mask].data > 0] > 0).all()


def test_core_lies_inside_whole(patient):
    core, whole = patient["core_seg"], patient["whole_seg"]
    moved = resample_from_to(
        nib.Nifti1Image(core.data, core.affine), (whole.data.shape, whole.affine), order=0
    )
    assert not ((np.asarray(moved.dataobj) > 0) & (whole.data == 0)).any()


def test_whole_is_bright_on_flair_and_core_on_t1ce(patient):
    for image, mask in (("t1ce_img", "core_seg"), ("flair_img", "whole_seg")):
        data, inside = patient[image].data, patient[mask].data > 0
        assert np.percentile(data[inside], 75) > 1.1 * np.median(data[data > 0])


def test_distractors_enhance_but_are_not_labelled(patient):
    data, core = patient["t1ce_img"].data, patient["core_seg"].data > 0
    bright = data > 1.4 * np.median(data[data > 0])
    away = bright & ~ndimage.binary_dilation(core, iterations=3)
    assert away.sum() * patient["t1ce_img"].grid.voxel_mm3 > 2000


def test_some_distractors_are_as_bright_as_the_lesions(patient):
    data, core = patient["t1ce_img"].data, patient["core_seg"].data > 0
    away = ~ndimage.binary_dilation(core, iterations=3)
    as_bright = (data >= np.percentile(data[core], 75)) & away
    assert as_bright.sum() * patient["t1ce_img"].grid.voxel_mm3 > 500


def test_t1ce_and_flair_show_the_same_head(patient):
    t1ce, flair = patient["t1ce_img"], patient["flair_img"]
    moved = resample_from_to(
        nib.Nifti1Image((t1ce.data > 0).astype(np.uint8), t1ce.affine),
        (flair.data.shape, flair.affine),
        order=0,
    )
    t1ce_brain, flair_brain = np.asarray(moved.dataobj) > 0, flair.data > 0
    dice = 2 * (t1ce_brain & flair_brain).sum() / (t1ce_brain.sum() + flair_brain.sum())
    assert dice > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_the_smallest_lesions_are_seen_on_thick_slices(seed, coarse_config):
    tiny = PhantomConfig(
        diameter_median=3.0,
        diameter_sigma=0.0,
        oedema_fraction=0.0,
        extra_lesions_sigma=0.0,
        extra_lesions_median=0.0,
        flair_slice=(5.5, 5.5),
        flair_in_plane=(0.9, 0.9),
        vessels=coarse_config.vessels,
    )
    volumes = draw_patient(patient_rng(seed, 0), tiny)
    assert volumes["core_seg"].data.any()
    assert volumes["whole_seg"].data.any()


def test_ids_are_the_first_draw_of_a_patient():
    assert draw_ids(patient_rng(3, 1)) == draw_ids(patient_rng(3, 1))
    assert draw_ids(patient_rng(3, 1)) != draw_ids(patient_rng(3, 2))
    assert draw_ids(patient_rng(3, 1)) != draw_ids(patient_rng(4, 1))
