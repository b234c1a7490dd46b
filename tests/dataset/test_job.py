"""A worker makes a case once, whole or not at all."""

import errno
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from sgnet_nnunet.dataset import convert as job_module
from sgnet_nnunet.dataset.accession import Findings
from sgnet_nnunet.dataset.collection import scan_collection
from sgnet_nnunet.dataset.convert import CaseJob, run_job
from sgnet_nnunet.dataset.records import HIDDEN_FOLDER, IMAGE_FOLDERS, read_record, recorded_cases
from sgnet_nnunet.errors import InputFileError

TRAINING_FILES = ["imagesTr/P_A_0000.nii.gz", "imagesTr/P_A_0001.nii.gz", "labelsTr/P_A.nii.gz"]


@pytest.fixture
def job(collection, tmp_path: Path) -> CaseJob:
    collection.add("P", "A")
    folder = tmp_path / "Dataset501_Test"
    for name in (*IMAGE_FOLDERS, f"{HIDDEN_FOLDER}/cases"):
        (folder / name).mkdir(parents=True)
    (accession,) = scan_collection(collection.root)
    return CaseJob(
        accession=accession, dataset_folder=folder, for_test=False, target="whole", register="none"
    )


def images(job: CaseJob) -> list[str]:
    """Names of all files in nnU-Net's folders."""
    folder = job.dataset_folder
    return sorted(
        str(path.relative_to(folder)) for name in IMAGE_FOLDERS for path in (folder / name).iterdir()
    )


def written(job: CaseJob) -> dict[str, int]:
    """When each file was written."""
    return {name: (job.dataset_folder / name).stat().st_mtime_ns for name in job.files}


def test_files_are_named_and_made_as_nnunet_wants_them(job: CaseJob, collection):
    assert isinstance(run_job(job), Findings)
    assert images(job) == job.files == TRAINING_FILES
    t1ce, flair, labels = (nib.load(job.dataset_folder / name) for name in job.files)
    source = nib.load(collection.path("P", "A", "t1ce_img"))
    np.testing.assert_array_equal(t1ce.dataobj, source.dataobj)
    for image in (t1ce, flair, labels):
        assert image.shape == source.shape
        np.testing.assert_array_equal(image.affine, source.affine)
        assert image.header.get_xyzt_units()[0] == "mm"
    assert labels.get_data_dtype() == np.uint8
    assert np.unique(labels.dataobj).tolist() == [0, 1]


def test_finished_case_is_not_made_again(job: CaseJob, monkeypatch: pytest.MonkeyPatch):
    first, times = run_job(job), written(job)
    monkeypatch.setattr(job_module, "make_case", lambda *_: pytest.fail("made again"))
    assert run_job(job) == first
    assert written(job) == times


@pytest.mark.parametrize("name", TRAINING_FILES)
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"x"), Path.unlink])
def test_damaged_file_of_a_case_is_mended(job: CaseJob, contents: Callable, name: str, damage: Callable):
    run_job(job)
    whole = contents(job.dataset_folder)
    damage(job.dataset_folder / name)
    run_job(job)
    assert contents(job.dataset_folder) == whole


def test_case_with_a_changed_source_is_made_again(job: CaseJob, collection):
    run_job(job)
    source = nib.load(collection.path("P", "A", "t1ce_img"))
    changed = np.asarray(source.dataobj) + np.int16(1)
    collection.write("P", "A", "t1ce_img", changed, source.affine)
    run_job(job)
    np.testing.assert_array_equal(nib.load(job.dataset_folder / TRAINING_FILES[0]).dataobj, changed)


def test_mask_that_the_target_does_not_need_may_change(job: CaseJob, collection):
    run_job(job)
    times = written(job)
    collection.path("P", "A", "core_seg").write_bytes(b"broken")
    assert isinstance(run_job(job), Findings)
    assert written(job) == times


def test_case_moves_when_it_becomes_a_test_case(job: CaseJob):
    run_job(job)
    run_job(replace(job, for_test=True))
    assert images(job) == ["imagesTs/P_A_0000.nii.gz", "imagesTs/P_A_0001.nii.gz", "labelsTs/P_A.nii.gz"]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"broken"), Path.unlink])
def test_source_that_went_bad_takes_its_case_along(job: CaseJob, collection, damage: Callable):
    run_job(job)
    damage(collection.path("P", "A", "flair_img"))
    error = run_job(job)
    assert isinstance(error, InputFileError)
    assert error.path.name == "A_flair_img.nii.gz"
    assert images(job) == []
    assert recorded_cases(job.dataset_folder) == set()


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_full_disk_leaves_no_half_case_and_the_next_run_finishes(
    job: CaseJob, contents: Callable, monkeypatch: pytest.MonkeyPatch, nth: int
):
    write, calls = nib.save, []

    def disk_full(image: nib.Nifti1Image, path: Path) -> None:
        calls.append(path)
        if len(calls) == nth:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(image, path)

    with monkeypatch.context() as patch:
        patch.setattr(nib, "save", disk_full)
        with pytest.raises(OSError, match="No space left"):
            run_job(job)
    assert images(job) == TRAINING_FILES[: nth - 1]
    assert read_record(job.dataset_folder, "P_A").findings is None
    run_job(job)
    finished = contents(job.dataset_folder)
    for name in job.files:
        (job.dataset_folder / name).unlink()
    (job.dataset_folder / HIDDEN_FOLDER / "cases/P_A.json").unlink()
    run_job(job)
    assert contents(job.dataset_folder) == finished
