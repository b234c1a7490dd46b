import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from scipy import ndimage

from sgnet_nnunet.dataset.collection import PARTS, scan_collection
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import PARTIAL_PREFIX
from sgnet_nnunet.phantom import population as dataset
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.population import draw_ids, draw_patient, patient_rng, write_phantoms
from sgnet_nnunet.phantom.scanner import ORIENTATIONS

pytestmark = pytest.mark.slow


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.nii.gz"))}


def test_files_follow_the_layout_of_the_collection(coarse_root):
    name = re.compile(r"YG_[A-Z0-9]{12}")
    folders = sorted(coarse_root.iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert name.fullmatch(folder.name)
        accessions = {path.name[:15] for path in folder.iterdir()}
        assert len(accessions) == 1
        accession = accessions.pop()
        assert name.fullmatch(accession)
        assert {path.name for path in folder.iterdir()} == {f"{accession}_{part}.nii.gz" for part in PARTS}


def test_every_visit_is_found_complete(coarse_root):
    accessions = scan_collection(coarse_root)
    assert len(accessions) == 2
    assert not any(accession.missing(PARTS) for accession in accessions)


def test_orientation_differs_between_files(coarse_root):
    codes = {"".join(nib.aff2axcodes(nib.load(path).affine)) for path in coarse_root.rglob("*.nii.gz")}
    assert len(codes) > 1
    assert codes <= set(ORIENTATIONS)


def test_images_are_int16_and_masks_uint8_with_mm_as_unit(coarse_root):
    for path in coarse_root.rglob("*.nii.gz"):
        image = nib.load(path)
        assert image.get_data_dtype() == (np.int16 if "_img" in path.name else np.uint8)
        assert image.header.get_xyzt_units()[0] == "mm"


def test_same_seed_gives_the_same_bytes_whatever_the_workers(coarse_root, coarse_config, tmp_path):
    write_phantoms(tmp_path / "again", patients=2, seed=5, workers=2, config=coarse_config)
    assert contents(tmp_path / "again") == contents(coarse_root)


def test_a_patient_does_not_depend_on_the_number_of_patients(coarse_root, coarse_config, tmp_path):
    (folder,) = write_phantoms(tmp_path, patients=1, seed=5, config=coarse_config)
    everything = contents(coarse_root)
    assert contents(tmp_path) == {
        name: data for name, data in everything.items() if name.startswith(folder.name)
    }


def test_another_seed_gives_other_patients(coarse_root, coarse_config, tmp_path):
    write_phantoms(tmp_path, patients=1, seed=6, config=coarse_config)
    other, here = contents(tmp_path), contents(coarse_root)
    assert not other.keys() & here.keys()
    assert not set(other.values()) & set(here.values())


def test_an_interrupted_patient_is_completed(coarse_root, coarse_config, tmp_path):
    name = draw_ids(patient_rng(5, 0))[0]
    shutil.copytree(coarse_root / name, tmp_path / "broken" / name)
    first, second, *_ = sorted((tmp_path / "broken" / name).iterdir())
    first.rename(first.with_name(f"{PARTIAL_PREFIX}{first.name}"))
    second.write_bytes(b"cut short")
    write_phantoms(tmp_path / "broken", patients=1, seed=5, config=coarse_config)
    everything = contents(coarse_root)
    assert contents(tmp_path / "broken") == {k: v for k, v in everything.items() if k.startswith(name)}


def test_patients_are_logged_for_debugging_only(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(dataset, "_write_patient", lambda root, index, **_: root / f"patient{index}")
    with caplog.at_level(logging.DEBUG, logger="sgnet_nnunet"):
        write_phantoms(tmp_path, patients=2, seed=0)
    assert [record.levelno for record in caplog.records] == [logging.DEBUG] * 2
    assert "patient1" in caplog.records[1].getMessage()


def test_folders_come_back_in_order_and_are_reported(coarse_root, coarse_config):
    seen: list[str] = []
    before = contents(coarse_root)
    folders = write_phantoms(coarse_root, patients=2, seed=5, on_done=seen.append, config=coarse_config)
    assert [folder.name for folder in folders] == seen
    assert all(folder.is_dir() for folder in folders)
    assert contents(coarse_root) == before


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "real_patient").mkdir()
    with pytest.raises(InputFileError, match="real_patient"):
        write_phantoms(tmp_path, patients=1, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["real_patient"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(InputFileError, match="cannot be made"):
        write_phantoms(tmp_path / "out", patients=1, seed=0)


@pytest.mark.parametrize("wrong", [{"patients": 0}, {"seed": -1}, {"workers": 0}])
def test_numbers_too_small_are_refused(tmp_path, wrong):
    with pytest.raises(SGNetError, match=next(iter(wrong))):
        write_phantoms(tmp_path, **({"patients": 1, "seed": 0} | wrong))


def test_importing_the_package_loads_no_heavy_library():
    code = "import sys, sgnet_nnunet.phantom; print({'scipy', 'nilearn', 'torch'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "set()"


def brain_of(volume):
    return ndimage.binary_fill_holes(volume.data > 0)


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


def test_brain_takes_as_much_of_the_field_of_view_as_in_real_scans(patient):
    for part in ("t1ce_img", "flair_img"):
        data, spacing = patient[part].data, np.array(patient[part].grid.spacing)
        (box,) = ndimage.find_objects((data > 0).astype(np.uint8))
        assert 0.33 < data[box].size / data.size < 0.40
        width, depth, _ = data.shape * spacing
        assert width == pytest.approx(depth, abs=2 * spacing[0])


def test_other_voxels_are_as_bright_on_flair_as_the_tumour(patient):
    data, whole = patient["flair_img"].data, patient["whole_seg"].data > 0
    away = (data > 0) & ~ndimage.binary_dilation(whole, iterations=3)
    as_bright = (data >= np.median(data[whole])) & away
    assert as_bright.sum() * patient["flair_img"].grid.voxel_mm3 > 1000


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
