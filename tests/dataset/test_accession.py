"""One accession, from four volumes to a case on the T1ce grid."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from sgnet_nnunet.dataset import registration
from sgnet_nnunet.dataset.accession import TARGETS, Scans, make_case, read_scans
from sgnet_nnunet.dataset.collection import PARTS, scan_collection
from sgnet_nnunet.dataset.resampling import resample_image
from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.nifti import Mask, Volume, read_image

WHOLE = np.array([1, 1, 1, 0], bool).reshape(4, 1, 1)
CORE = np.array([0, 1, 0, 1], bool).reshape(4, 1, 1)


@pytest.mark.parametrize(
    ("target", "masks"),
    [("whole", {"whole_seg"}), ("core", {"core_seg"}), ("regions", {"whole_seg", "core_seg"})],
)
def test_target_asks_for_both_images_and_its_masks_only(target: str, masks: set[str]):
    assert set(TARGETS[target].parts) == {"t1ce_img", "flair_img"} | masks


@pytest.mark.parametrize(
    ("target", "labels"), [("whole", [1, 1, 1, 0]), ("core", [0, 1, 0, 1]), ("regions", [1, 2, 1, 2])]
)
@pytest.mark.parametrize("core_first", [False, True])
def test_core_wins_where_masks_overlap_in_whatever_order_they_come(
    target: str, labels: list[int], core_first: bool
):
    masks = {"core_seg": CORE, "whole_seg": WHOLE} if core_first else {"whole_seg": WHOLE, "core_seg": CORE}
    found = TARGETS[target].label_map(masks)
    assert found.dtype == np.uint8
    assert found.ravel().tolist() == labels


@pytest.mark.parametrize("target", TARGETS)
def test_nnunet_finds_every_label_described(target: str):
    description = TARGETS[target].description
    manager = LabelManager(description["labels"], description.get("regions_class_order"))
    assert manager.has_regions == (target == "regions")
    assert manager.all_labels == [0, *sorted(TARGETS[target].masks.values())]


def test_nnunet_turns_both_regions_back_into_the_label_map():
    description = TARGETS["regions"].description
    manager = LabelManager(description["labels"], description["regions_class_order"])
    whole = WHOLE | CORE  # of nnU-Net's nested regions, the whole tumour holds the core
    logits = np.where(np.stack([whole, CORE]), 5.0, -5.0).astype(np.float32)
    labels = manager.convert_logits_to_segmentation(logits)
    np.testing.assert_array_equal(
        labels, TARGETS["regions"].label_map({"whole_seg": WHOLE, "core_seg": CORE})
    )


@pytest.fixture
def scans(collection) -> Scans:
    collection.add("P", "A")
    return read_scans({part: collection.path("P", "A", part) for part in PARTS})


def test_images_and_labels_lie_on_the_t1ce_grid_which_is_untouched(scans: Scans):
    case = make_case(scans, TARGETS["regions"], "none")
    assert case.t1ce.data.tobytes() == scans.t1ce.data.tobytes()
    for volume in (case.flair, case.labels):
        assert volume.data.shape == scans.t1ce.data.shape
        np.testing.assert_array_equal(volume.affine, scans.t1ce.affine)
    assert case.flair.data.dtype == scans.flair.data.dtype


def test_core_is_written_over_whole_and_alone_without_it(scans: Scans):
    regions = make_case(scans, TARGETS["regions"], "none").labels.data
    core = scans.masks["core_seg"].volume.data
    np.testing.assert_array_equal(regions == 2, core)
    assert (regions == 1).any()
    only_core = replace(scans, masks={"core_seg": scans.masks["core_seg"]})
    np.testing.assert_array_equal(make_case(only_core, TARGETS["core"], "none").labels.data, core)


def test_volumes_of_the_lesions_are_found_in_mm3(scans: Scans):
    findings = make_case(scans, TARGETS["regions"], "none").findings
    core = scans.masks["core_seg"]
    assert findings.lesion_mm3["core_seg"] == pytest.approx(core.volume_mm3)
    assert findings.lesion_mm3["whole_seg"] == pytest.approx(scans.masks["whole_seg"].volume_mm3, rel=0.15)


def test_lesion_cut_off_by_the_t1ce_grid_is_noted(scans: Scans):
    cut = replace(scans, t1ce=Volume(scans.t1ce.data[:, :9], scans.t1ce.affine))
    notes = make_case(cut, TARGETS["regions"], "none").findings.notes
    assert any(note.startswith("A_whole_seg.nii.gz: ") and "mm3 became" in note for note in notes)


def test_flair_that_is_empty_on_the_t1ce_grid_is_refused(scans: Scans):
    data = np.zeros_like(scans.flair.data)
    data[0, 0, 0] = 9
    far = scans.flair.affine.copy()
    far[:3, 3] -= 15
    with pytest.raises(InputFileError, match=r"A_flair_img.*is 0 all over the T1ce grid"):
        make_case(replace(scans, flair=Volume(data, far)), TARGETS["core"], "none")


def test_mask_that_misses_the_t1ce_grid_is_refused(scans: Scans):
    mask = scans.masks["whole_seg"]
    data = np.zeros_like(mask.volume.data)
    data[0, 0, 0] = True
    cut = Volume(scans.t1ce.data[5:15, 5:13, 3:9], scans.t1ce.affine @ shift((5, 5, 3)))
    missed = {"whole_seg": replace(mask, volume=Volume(data, mask.volume.affine))}
    with pytest.raises(InputFileError, match=r"A_whole_seg.*no voxel of the mask falls on the T1ce grid"):
        make_case(replace(scans, t1ce=cut, masks=missed), TARGETS["whole"], "none")


def shift(voxels: tuple[int, int, int]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = voxels
    return matrix


@pytest.mark.parametrize("part", ["whole_seg", "core_seg"])
def test_mask_that_covers_every_voxel_is_refused(collection, part: str):
    collection.add("P", "A")
    paths = {name: collection.path("P", "A", name) for name in PARTS}
    collection.write("P", "A", part, np.ones((4, 4, 4), np.uint8), np.eye(4))
    with pytest.raises(InputFileError, match=f"A_{part}.*mask covers every voxel"):
        read_scans(paths)


@pytest.mark.parametrize(
    ("part", "beside"),
    [("flair_img", "A_t1ce_img"), ("whole_seg", "A_flair_img"), ("core_seg", "A_t1ce_img")],
)
def test_grid_that_does_not_overlap_is_refused(collection, part: str, beside: str):
    collection.add("P", "A")
    paths = {name: collection.path("P", "A", name) for name in PARTS}
    data = np.zeros((4, 4, 4), np.uint8)
    data[1] = 1
    far = np.eye(4)
    far[:3, 3] = 500
    collection.write("P", "A", part, data, far)
    with pytest.raises(InputFileError, match=f"A_{part}.*its grid does not overlap that of {beside}"):
        read_scans(paths)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("without", [True, False])
def test_file_without_orientation_next_to_others_is_refused(collection, part: str, without: bool):
    collection.add("P", "A")
    paths = {name: collection.path("P", "A", name) for name in PARTS}
    for name, path in paths.items():
        if (name == part) is without:
            nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), None), path)
    with pytest.raises(InputFileError, match="qform_code and sform_code are 0") as caught:
        read_scans(paths)
    assert (caught.value.path == paths[part]) is without


def test_registration_moves_flair_and_its_mask_but_not_the_core(
    scans: Scans, monkeypatch: pytest.MonkeyPatch
):
    moved = shift((0, 0, 0))
    moved[:3, 3] = 4.0, 0.0, 0.0  # two FLAIR voxels along x
    found = registration.RigidTransform(moved, 0.5, 0.75)
    monkeypatch.setattr(registration, "register_rigid", lambda *_: found)
    plain = make_case(scans, TARGETS["regions"], "none")
    rigid = make_case(scans, TARGETS["regions"], "rigid")
    # T1ce runs along -x at 1 mm: what lay at world x now lies at x - 4, four voxels further.
    np.testing.assert_array_equal(rigid.flair.data[8:], plain.flair.data[4:-4])
    whole = {"whole_seg": scans.masks["whole_seg"]}
    plain_whole = make_case(replace(scans, masks=whole), TARGETS["whole"], "none").labels.data
    rigid_whole = make_case(replace(scans, masks=whole), TARGETS["whole"], "rigid").labels.data
    np.testing.assert_array_equal(rigid_whole[8:], plain_whole[4:-4])
    np.testing.assert_array_equal(rigid.labels.data == 2, plain.labels.data == 2)
    assert (rigid.findings.mi_before, rigid.findings.mi_after) == (0.5, 0.75)
    assert plain.findings.mi_before is None


def test_note_of_the_registration_reaches_the_findings(scans: Scans, monkeypatch: pytest.MonkeyPatch):
    found = registration.RigidTransform(np.eye(4), 0.5, 0.5, "not registered: reason")
    monkeypatch.setattr(registration, "register_rigid", lambda *_: found)
    assert "not registered: reason" in make_case(scans, TARGETS["whole"], "rigid").findings.notes


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


@pytest.mark.slow
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
