"""Real scans on two grids and in two positions come together."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from sgnet_nnunet.dataset.accession import Scans, make_case, read_scans
from sgnet_nnunet.dataset.collection import scan_collection
from sgnet_nnunet.dataset.options import TARGETS
from sgnet_nnunet.dataset.resampling import resample_image
from sgnet_nnunet.nifti import Mask, Volume, read_image


def test_thick_flair_on_the_t1ce_grid_agrees_with_simpleitk(real_data: Path):
    folder = real_data / "real_native_grids"
    t1ce, flair = (folder / f"TCGA-FG-6692_{name}.nii.gz" for name in ("t1ce", "flair"))
    moving, fixed = sitk.ReadImage(str(flair), sitk.sitkFloat32), sitk.ReadImage(str(t1ce))
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear)).T
    native = read_image(flair)
    image = Volume(native.data.astype(np.float32), native.affine)
    differs = np.abs(resample_image(image, read_image(t1ce).grid) - expected) > 1e-3 * native.data.max()
    assert expected.any()
    assert differs.mean() < 1e-3  # where the field of view ends, rounding decides


@pytest.fixture
def cut_out(real_data: Path) -> Scans:
    """The first patient, T1ce cut to a box around the lesion for speed."""
    accession = scan_collection(real_data / "real_tcia_layout")[0]
    scans = read_scans({part: accession.path(part) for part in TARGETS["whole"].parts})
    lesion = np.argwhere(scans.masks["whole_seg"].volume.data)
    start = np.maximum(lesion.min(axis=0) - 15, 0)
    box = tuple(slice(*ends) for ends in zip(start, lesion.max(axis=0) + 15, strict=True))
    affine = scans.t1ce.affine.copy()
    affine[:3, 3] = (affine @ [*start, 1])[:3]
    return Scans(scans.paths, Volume(scans.t1ce.data[box], affine), scans.flair, scans.masks)


def test_registration_brings_a_shifted_flair_and_its_mask_back(cut_out: Scans):
    mask = cut_out.masks["whole_seg"].volume
    true = make_case(cut_out, TARGETS["whole"], "none").labels.data > 0
    shifted = mask.affine.copy()
    shifted[:3, 3] += 5.0, -4.0, 3.0
    moved = Scans(
        cut_out.paths,
        cut_out.t1ce,
        Volume(cut_out.flair.data, shifted),
        {"whole_seg": Mask(Volume(mask.data, shifted))},
    )

    def overlap(register: str) -> float:
        found = make_case(moved, TARGETS["whole"], register).labels.data > 0
        return 2 * (found & true).sum() / (found.sum() + true.sum())

    assert overlap("none") < 0.9
    assert overlap("rigid") > 0.97
