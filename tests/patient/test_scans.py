"""The scans of one patient: formats, cross-checks and refusals."""

from pathlib import Path

import numpy as np
import pytest
from dicom_series import FLAIR, T1, T1CE, Patient, smooth_volume, write_classic, write_enhanced, zip_folder
from heads import draw_brain, real_scans, write_by_itk
from nibabel.orientations import io_orientation

from sgnet_nnunet.dataset.resampling import resample_image
from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.patient.scans import check_contrasts, read_patient, read_scan


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[Volume, Volume]:
    first = smooth_volume(rng, shape=(9, 8, 10))
    return first, Volume(smooth_volume(rng, shape=(9, 8, 10)).data, first.affine)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ", ".nrrd", ".mha"])
def test_a_file_keeps_its_axes_its_place_and_its_values(tmp_path: Path, pair, suffix: str):
    volume = pair[0].oriented("PIR")
    path = tmp_path / f"scan{suffix}"
    if suffix.lower().startswith(".nii"):
        write_volume(tmp_path / f"scan{suffix.lower()}", volume)
        (tmp_path / f"scan{suffix.lower()}").rename(path)
    else:
        write_by_itk(path, volume)
    scan = read_scan(path)
    assert np.array_equal(scan.volume.data, volume.data)
    assert scan.volume.data.dtype == np.float32
    assert np.allclose(scan.volume.affine, volume.affine, atol=1e-4)
    assert np.array_equal(io_orientation(scan.volume.affine), io_orientation(volume.affine))
    assert (scan.path, scan.sources, scan.series) == (path, (path,), None)


def test_a_folder_a_zip_file_and_two_folders_give_the_same_scans(tmp_path: Path, pair):
    patient = Patient()
    write_classic(tmp_path / "study" / "t1ce", pair[0], T1CE, patient=patient)
    write_enhanced(tmp_path / "study" / "flair" / "one", pair[1], FLAIR, patient=patient)
    archive = zip_folder(tmp_path / "study", tmp_path / "study.zip")
    study = tmp_path / "study"
    for t1ce, flair in ((study, study), (archive, archive), (study / "t1ce", study / "flair")):
        scans = read_patient(t1ce=t1ce, flair=flair, training_spacing=(1.0, 1.0, 1.2))
        assert np.array_equal(scans.t1ce.volume.data, pair[0].data)
        assert np.array_equal(scans.flair.volume.data, pair[1].data)
        assert scans.warnings == ()
        assert scans.t1ce.sources == ((archive,) if t1ce == archive else scans.t1ce.series.files)
    assert all(path.is_file() for path in read_scan(study, series="5").sources)


def test_t1ce_alone_is_read(tmp_path: Path, pair):
    write_classic(tmp_path, pair[0], T1CE)
    assert read_patient(t1ce=tmp_path, flair=None).flair is None


def test_a_t1_without_word_of_contrast_is_taken_with_a_warning(tmp_path: Path, pair):
    patient = Patient()
    write_classic(tmp_path, pair[0], T1, patient=patient)
    write_classic(tmp_path, pair[1], FLAIR, patient=patient)
    scans = read_patient(t1ce=tmp_path, flair=tmp_path)
    assert scans.t1ce.series.description == T1["SeriesDescription"]
    assert any("contrast agent" in warning for warning in scans.warnings)


def refused(expected: str, **scans) -> None:
    with pytest.raises(InputFileError, match=expected) as caught:
        read_patient(**scans)
    assert caught.value.exit_status == 2
    text = str(caught.value)
    assert "\n" not in text
    assert not any(secret in text for secret in ("Doe", "Jane", "Roe", "004711", "000815", "1950", "1960"))


@pytest.mark.parametrize(
    "other",
    [{"id": "MRN-000815"}, {"name": "Roe^Jane"}, {"birth_date": "19600102"}],
    ids=["id", "name", "birth date"],
)
def test_scans_of_two_patients_are_refused_without_their_names(tmp_path: Path, pair, other: dict[str, str]):
    write_classic(tmp_path / "t1ce", pair[0], T1CE)
    write_classic(tmp_path / "flair", pair[1], FLAIR, patient=Patient(**other))
    refused("different patients", t1ce=tmp_path / "t1ce", flair=tmp_path / "flair")


def test_another_spelling_or_a_missing_name_is_no_other_patient(tmp_path: Path, pair):
    write_classic(tmp_path / "t1ce", pair[0], T1CE)
    write_classic(tmp_path / "flair", pair[1], FLAIR, patient=Patient(name="DOE^JANE^^^", birth_date=""))
    scans = read_patient(t1ce=tmp_path / "t1ce", flair=tmp_path / "flair")
    assert len(scans.warnings) == 2  # two studies, and two frames of reference
    assert "2024" not in " ".join(scans.warnings)


def test_studies_on_two_days_are_noted_with_their_distance(tmp_path: Path, pair):
    write_classic(tmp_path / "t1ce", pair[0], T1CE)
    write_classic(tmp_path / "flair", pair[1], FLAIR | {"StudyDate": "20240303"})
    warnings = read_patient(t1ce=tmp_path / "t1ce", flair=tmp_path / "flair").warnings
    assert any("29 days apart" in warning for warning in warnings)


def test_swapped_series_are_refused_by_their_tags_unless_the_user_insists(tmp_path: Path, pair):
    patient = Patient()
    write_classic(tmp_path / "t1ce", pair[0], T1CE, patient=patient)
    write_classic(tmp_path / "flair", pair[1], FLAIR, patient=patient)
    swapped = {"t1ce": tmp_path / "flair", "flair": tmp_path / "t1ce"}
    refused("is given as T1ce, but is FLAIR", **swapped)
    refused("is given as T1ce, but is FLAIR", t1ce=tmp_path / "flair", flair=None)
    scans = read_patient(**swapped, t1ce_series="3", flair_series="5")
    assert len(scans.warnings) == 2


def test_one_series_or_one_image_cannot_be_both_channels(tmp_path: Path, pair):
    write_classic(tmp_path / "study", pair[0], {**T1CE, "SeriesDescription": "x", "ContrastBolusAgent": ""})
    refused("taken for T1ce and for FLAIR", t1ce=tmp_path / "study", flair=tmp_path / "study")
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, pair[0])
    refused("same voxels", t1ce=tmp_path / "a.nii.gz", flair=tmp_path / "b.nii.gz")


def test_grids_that_do_not_overlap_are_refused(tmp_path: Path, pair):
    far = pair[1].affine.copy()
    far[0, 3] += 500
    write_volume(tmp_path / "t1ce.nii.gz", pair[0])
    write_volume(tmp_path / "flair.nii.gz", Volume(pair[1].data, far))
    refused("does not overlap", t1ce=tmp_path / "t1ce.nii.gz", flair=tmp_path / "flair.nii.gz")


def test_a_spacing_far_outside_the_training_is_refused_with_its_ratio(tmp_path: Path, pair):
    write_volume(tmp_path / "scan.nii.gz", pair[0])  # 1 x 1.2 x 2.5 mm
    refused("25 times", t1ce=tmp_path / "scan.nii.gz", flair=None, training_spacing=(0.1, 0.1, 0.1))
    refused("0.1 times", t1ce=tmp_path / "scan.nii.gz", flair=None, training_spacing=(10.0, 20.0, 10.0))
    for training, number in (((1.0, 1.0, 1.0), 0), ((0.5, 2.5, 0.6), 0), ((0.5, 0.5, 0.5), 1)):
        scans = read_patient(t1ce=tmp_path / "scan.nii.gz", flair=None, training_spacing=training)
        assert len(scans.warnings) == number


def test_what_is_no_scan_is_refused(tmp_path: Path, pair):
    (tmp_path / "scan.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    write_volume(tmp_path / "4d.nii.gz", Volume(np.stack([pair[0].data] * 2, axis=-1), np.eye(4)))
    write_volume(tmp_path / "blank.nii.gz", Volume(np.zeros((4, 4, 4), np.float32), np.eye(4)))
    write_by_itk(tmp_path / "blank.nrrd", Volume(np.zeros((4, 4, 4), np.float32), np.eye(4)))
    write_volume(tmp_path / "scan.nii.gz", pair[0])
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "scan.nii.gz").read_bytes()[:-40])
    bad = {
        "absent": "does not exist",
        "scan.txt": "no format",
        "empty": "no DICOM image",
        "4d.nii.gz": "4D",
        "blank.nii.gz": "blank",
        "blank.nrrd": "blank",
        "cut.nii.gz": "cannot be read",
    }
    for name, expected in bad.items():
        refused(expected, t1ce=tmp_path / name, flair=None)
    refused("no DICOM", t1ce=tmp_path / "scan.nii.gz", flair=None, t1ce_series="3")


def test_swapped_files_are_refused_by_their_brightness():
    for seed in range(3):
        scans = draw_brain(np.random.default_rng(seed))
        t1ce, flair = scans["t1ce"], scans["flair"]
        brain = t1ce.data > 0
        check_contrasts(t1ce, flair.data.astype(np.float32), brain, Path("flair.nii.gz"))
        with pytest.raises(InputFileError, match="exchange T1ce and FLAIR"):
            check_contrasts(flair, t1ce.data.astype(np.float32), brain, Path("flair.nii.gz"))


def test_brightness_says_nothing_about_noise_or_few_voxels(rng: np.random.Generator):
    shape = (60, 70, 60)
    for size in (shape, (5, 5, 5)):
        noise = [rng.normal(1000, 50, size).astype(np.float32) for _ in range(2)]
        brain = np.zeros(size, dtype=bool)
        brain[2:-2, 2:-2, 2:-2] = True
        check_contrasts(Volume(noise[0], np.eye(4) * [2, 2, 2, 1]), noise[1], brain, Path("flair.nii.gz"))


@pytest.mark.slow
def test_real_pairs_are_called_swapped_only_if_they_are():
    paths = sorted(real_scans().glob("*/*/*t1ce_img*"))
    assert paths
    for path in paths:
        t1ce = read_scan(path).volume
        flair = read_scan(path.with_name(path.name.replace("t1ce", "flair"))).volume
        brain = t1ce.data != 0
        check_contrasts(t1ce, resample_image(flair, t1ce.grid), brain, path)
        with pytest.raises(InputFileError, match="exchange"):
            check_contrasts(flair, t1ce.data, brain, path)
