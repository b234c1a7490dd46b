"""One bad accession: reported in one line with its file, problem and remedy, while the others go on."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def garble(path: Path) -> None:
    path.write_bytes(b"this is no image")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def dangle(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def add_plain_copy(path: Path) -> None:
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), path.with_suffix(""))


def rewrite(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Return a function that changes the voxels of a file."""

    def damage(path: Path) -> None:
        image = nib.load(path)
        data = change(np.asarray(image.dataobj).astype(np.float32))
        nib.save(nib.Nifti1Image(data, image.affine), path)

    return damage


def first_voxel(value: float) -> Callable[[Path], None]:
    def change(data: np.ndarray) -> np.ndarray:
        data[0, 0, 0] = value
        return data

    return rewrite(change)


def move_affine(change: Callable[[np.ndarray], None]) -> Callable[[Path], None]:
    """Return a function that changes the affine of a file in place."""

    def damage(path: Path) -> None:
        image = nib.load(path)
        affine = image.affine.copy()
        change(affine)
        changed = nib.Nifti1Image(np.asarray(image.dataobj), None)
        changed.header.set_sform(affine, code=1)
        changed.to_filename(path)

    return damage


def lose_orientation(path: Path) -> None:
    nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), None), path)


def turn_qform(path: Path) -> None:
    image = nib.load(path)
    image.set_qform(image.affine[:, [1, 0, 2, 3]] * [1, -1, 1, 1], code=1)
    image.to_filename(path)


def flatten(affine: np.ndarray) -> None:
    affine[:3, 2] = 0


def move_away(affine: np.ndarray) -> None:
    affine[0, 3] += 1000


T1CE, FLAIR, WHOLE = "A01_t1ce_img.nii.gz", "A01_flair_img.nii.gz", "A01_whole_seg.nii.gz"
BAD_FILES = {
    "both .nii and .nii.gz": (
        T1CE,
        add_plain_copy,
        "A01_t1ce_img.nii.gz is next to it; keep one of the two",
    ),
    "truncated gzip": (T1CE, truncate, "cannot be read (Compressed file ended"),
    "no image": (FLAIR, garble, "cannot be read ("),
    "folder": (FLAIR, replace_by_folder, "cannot be read (Is a directory); copy or download it again"),
    "dangling link": (WHOLE, dangle, "cannot be read (No such file or directory); copy or download it again"),
    "NaN": (FLAIR, first_voxel(np.nan), "1 of 720 voxels are NaN or infinite; replace them"),
    "infinity": (T1CE, first_voxel(-np.inf), "1 of 4320 voxels are NaN or infinite; replace them"),
    "NaN in mask": (WHOLE, first_voxel(np.nan), "1 of 720 voxels are NaN or infinite; replace them"),
    "4D": (
        FLAIR,
        rewrite(lambda data: np.stack([data, data], axis=-1)),
        "is 4D (12 x 10 x 6 x 2), 3D is needed; save",
    ),
    "no orientation": (
        FLAIR,
        lose_orientation,
        "has no orientation (qform_code and sform_code are 0), but A01_t1ce_img.nii.gz has one; fix",
    ),
    "qform and sform apart": (
        WHOLE,
        turn_qform,
        "has a qform and a sform that are up to",
    ),
    "no voxels": (FLAIR, rewrite(lambda data: data[:0]), "has no voxels (0 x 10 x 6); copy or download"),
    "blank": (T1CE, rewrite(np.zeros_like), "is blank: every voxel is 0.0; copy or download it again"),
    "singular affine": (T1CE, move_affine(flatten), "has a singular affine (voxels without volume); fix"),
    "empty mask": (
        WHOLE,
        rewrite(np.zeros_like),
        "mask is empty; draw the lesion or leave the accession out",
    ),
    "fractional mask": (WHOLE, first_voxel(0.4), "mask holds fractional values such as 0.4; threshold it"),
    "negative mask": (
        WHOLE,
        first_voxel(-2),
        "mask holds negative values such as -2; set the background to 0",
    ),
    "mask elsewhere": (
        WHOLE,
        move_affine(move_away),
        "its grid does not overlap that of A01_flair_img.nii.gz; fix its affine",
    ),
    "FLAIR elsewhere": (
        FLAIR,
        move_affine(move_away),
        "its grid does not overlap that of A01_t1ce_img.nii.gz",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_fails_its_accession_in_one_line_and_no_other(
    collection, convert, accepted_by_nnunet: Callable, kind: str
):
    file, damage, problem = BAD_FILES[kind]
    collection.add_patients(3)
    damage(collection.root / "P01" / file)
    result = convert()
    assert [row.status for row in result.report] == ["used", "failed", "used"]
    reason = result.report[1].reason
    assert reason.startswith(f"{file.removesuffix('.gz') if kind.startswith('both') else file}: {problem}")
    assert ";" in reason
    assert "\n" not in reason
    assert result.exit_status == 3
    assert accepted_by_nnunet(result.dataset_folder)
    assert sorted(path.name for path in (result.dataset_folder / "labelsTr").iterdir()) == [
        "P00_A00.nii.gz",
        "P02_A02.nii.gz",
    ]


@pytest.mark.parametrize("part", ["t1ce_img", "flair_img", "whole_seg"])
def test_missing_modality_leaves_its_accession_out(collection, convert, part: str):
    collection.add_patients(3)
    collection.path("P01", "A01", part).unlink()
    result = convert()
    assert [row.status for row in result.report] == ["used", "left out", "used"]
    assert result.report[1].reason == f"missing: {part}"
    assert result.exit_status == 0


def test_mask_values_above_1_are_used_with_a_note(collection, convert):
    collection.add_patients(2)
    plain = convert(dataset_id=1)
    rewrite(lambda data: data * 255)(collection.root / "P01" / WHOLE)
    noted = convert(dataset_id=2)
    assert noted.report[1].status == "used"
    assert noted.report[1].reason == "A01_whole_seg.nii.gz: values above 1 (255) count as foreground"
    labels = [result.dataset_folder / "labelsTr/P01_A01.nii.gz" for result in (plain, noted)]
    assert labels[0].read_bytes() == labels[1].read_bytes()


def test_accession_without_any_orientation_is_used_with_a_note(collection, convert):
    collection.add_patients(2)
    for path in (collection.root / "P01").iterdir():
        lose_orientation(path)
    result = convert()
    assert [row.status for row in result.report] == ["used", "used"]
    assert result.report[1].reason == (
        "qform_code and sform_code are 0 in every file: left and right may be exchanged"
    )
    assert not result.report[0].reason
