"""Whole conversions, their jobs, dataset.json and report."""

import csv
import errno
import io
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from filelock import FileLock

from sgnet_nnunet.dataset import convert as job_module
from sgnet_nnunet.dataset.accession import Findings
from sgnet_nnunet.dataset.collection import scan_collection
from sgnet_nnunet.dataset.convert import (
    ConversionJob,
    ConversionOptions,
    ReportRow,
    convert_accession,
    dataset_json,
    report_csv,
)
from sgnet_nnunet.dataset.records import HIDDEN_FOLDER, IMAGE_FOLDERS, read_record, recorded_cases
from sgnet_nnunet.errors import InputFileError, SGNetError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def load_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "conversion_report.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_folder_is_named_as_nnunet_wants_it():
    assert ConversionOptions().folder_name == "Dataset501_BrainMetsLung"
    assert ConversionOptions(dataset_id=7, name="Mets").folder_name == "Dataset007_Mets"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset_id": 0}, "data set id 0 is not between 1 and 999"),
        ({"dataset_id": 1000}, "1000"),
        ({"name": "a/b"}, "letters, digits"),
        ({"name": ""}, "letters, digits"),
        ({"workers": 0}, "give 1 or more"),
    ],
)
def test_impossible_options_are_refused(wrong: dict, message: str):
    with pytest.raises(SGNetError, match=message):
        ConversionOptions(**wrong)


def test_options_cross_process_borders():
    options = ConversionOptions(target="regions")
    assert pickle.loads(pickle.dumps(options)) == options


def test_both_visits_of_a_patient_become_cases_of_their_own_files(collection, convert):
    collection.add("P0", "VISIT1")
    collection.add("P0", "VISIT2")
    collection.add("P1", "VISIT1")
    folder = convert().dataset_folder
    assert names(folder / "labelsTr") == [
        f"{case}.nii.gz" for case in ("P0_VISIT1", "P0_VISIT2", "P1_VISIT1")
    ]
    for patient, visit in (("P0", "VISIT1"), ("P0", "VISIT2"), ("P1", "VISIT1")):
        converted = voxels(folder / f"imagesTr/{patient}_{visit}_0000.nii.gz")
        np.testing.assert_array_equal(converted, voxels(collection.path(patient, visit, "t1ce_img")))


def test_files_of_two_visits_are_never_mixed(collection, convert):
    collection.add("P0", "VISIT1", parts=("t1ce_img", "core_seg"))
    collection.add("P0", "VISIT2", parts=("flair_img", "whole_seg"))
    collection.add("P1", "VISIT1")
    result = convert()
    assert [row.reason for row in result.report] == [
        "missing: flair_img, whole_seg",
        "missing: t1ce_img",
        "",
    ]
    assert names(result.dataset_folder / "labelsTr") == ["P1_VISIT1.nii.gz"]


def test_compressed_and_plain_sources_give_the_same_cases(collection, convert, contents: Callable):
    collection.add_patients(2)
    collection.add("P02", "A02", suffix=".nii")
    folder = convert().dataset_folder
    assert len(names(folder / "imagesTr")) == 6
    first = contents(folder / "imagesTr")
    collection.add("P00", "A00", suffix=".nii")
    for path in (collection.root / "P00").glob("*.nii.gz"):
        path.unlink()
    assert contents(convert().dataset_folder / "imagesTr") == first


@pytest.mark.slow
@pytest.mark.parametrize("target", ["whole", "core", "regions"])
def test_nnunet_accepts_the_data_set(collection, convert, accepted_by_nnunet: Callable, target: str):
    collection.add_patients(3)
    result = convert(target=target)
    assert accepted_by_nnunet(result.dataset_folder)
    labels = np.unique(voxels(result.dataset_folder / "labelsTr/P00_A00.nii.gz"))
    assert labels.tolist() == ([0, 1, 2] if target == "regions" else [0, 1])


def test_target_needs_its_own_mask_only(collection, convert):
    collection.add("P0", "A", parts=("t1ce_img", "flair_img", "core_seg"))
    collection.add("P1", "A", parts=("t1ce_img", "flair_img", "whole_seg"))
    used = {
        target: [
            row.patient for row in convert(target=target, dataset_id=number).report if row.status == "used"
        ]
        for number, target in enumerate(("core", "whole"), start=1)
    }
    assert used == {"core": ["P0"], "whole": ["P1"]}
    with pytest.raises(
        SGNetError, match=r"no accession .* regions \(P0/A: missing: whole_seg\); .*report\.csv says why"
    ):
        convert(target="regions", dataset_id=3)


def test_folds_keep_both_visits_of_a_patient_together(collection, convert):
    collection.add_patients(7)
    collection.add("P03", "SECOND")
    folder = convert().dataset_folder
    folds = load_json(folder / "splits_final.json")
    assert len(folds) == 5
    fold_of = {row["case"]: row["split"] for row in rows_of(folder)}
    assert fold_of["P03_A03"] == fold_of["P03_SECOND"]
    for number, fold in enumerate(folds):
        assert fold["val"] == [case for case, of in fold_of.items() if of == str(number)]
        assert sorted(fold["train"] + fold["val"]) == sorted(fold_of)


@pytest.mark.parametrize(("patients", "folds"), [(1, None), (2, 2), (4, 4)])
def test_few_patients_are_converted_with_a_note(
    collection, convert, caplog: pytest.LogCaptureFixture, patients: int, folds: int | None
):
    collection.add_patients(patients)
    result = convert()
    assert result.used == load_json(result.dataset_folder / "dataset.json")["numTraining"] == patients
    splits = result.dataset_folder / "splits_final.json"
    assert (len(load_json(splits)) if splits.exists() else None) == folds
    assert result.note in caplog.messages
    assert f"{patients} patients" in result.note or "fold 'all'" in result.note


@pytest.mark.slow
def test_paper_split_fills_the_test_folders(collection, convert, accepted_by_nnunet: Callable):
    collection.add_patients(10)
    collection.add("P09", "SECOND")
    result = convert(split="paper")
    folder = result.dataset_folder
    assert names(folder / "labelsTs") == ["P08_A08.nii.gz", "P09_A09.nii.gz", "P09_SECOND.nii.gz"]
    assert len(names(folder / "imagesTs")) == 6
    assert len(names(folder / "labelsTr")) == load_json(folder / "dataset.json")["numTraining"] == 8
    (fold,) = load_json(folder / "splits_final.json")
    assert fold == {"train": [f"P0{n}_A0{n}" for n in range(7)], "val": ["P07_A07"]}
    assert [row["split"] for row in rows_of(folder)] == ["train"] * 7 + ["val"] + ["test"] * 3
    assert accepted_by_nnunet(folder)


@pytest.mark.parametrize("split", ["cv", "paper"])
@pytest.mark.parametrize("change", ["added", "removed", "replaced", "none"])
def test_folds_that_nnunet_still_has_from_before_are_named(
    collection, convert, raw, tmp_path, monkeypatch, caplog, split, change
):
    collection.add_patients(11)
    folder = convert(split=split).dataset_folder
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    copy = tmp_path / "nnUNet_preprocessed" / folder.name / "splits_final.json"
    copy.parent.mkdir(parents=True)
    shutil.copy(folder / "splits_final.json", copy)
    if change in {"added", "replaced"}:
        # First of all patients: all others move on in the paper's split.
        collection.add("A", "NEW")
    if change in {"removed", "replaced"}:
        shutil.rmtree(collection.root / "P01")
    result = convert(split=split)
    assert result.note.startswith(f"{copy}: has other folds") is (change != "none")
    assert (result.note in caplog.messages) is (change != "none")
    copy.unlink()
    assert not convert(split=split).note


def test_report_has_one_row_for_each_accession(collection, convert):
    collection.add_patients(2)
    collection.add("P02", "A02", parts=("t1ce_img", "core_seg"))
    collection.add("P03", "A03")
    collection.path("P03", "A03", "flair_img").write_bytes(b"broken")
    result = convert()
    rows = rows_of(result.dataset_folder)
    assert [(row["patient"], row["accession"], row["status"]) for row in rows] == [
        ("P00", "A00", "used"),
        ("P01", "A01", "used"),
        ("P02", "A02", "left out"),
        ("P03", "A03", "failed"),
    ]
    assert [row["case"] for row in rows] == [row.case for row in result.report]
    assert float(rows[0]["whole_mm3"]) > 0
    assert rows[0]["core_mm3"] == rows[0]["mi_before"] == ""
    assert (result.used, result.left_out, result.failed) == (2, 1, 1)


def test_missing_modality_ends_with_0_and_a_bad_file_with_3(collection, convert):
    collection.add_patients(2)
    collection.add("P02", "A02", parts=("t1ce_img",))
    assert convert().exit_status == 0
    collection.path("P01", "A01", "t1ce_img").write_bytes(b"broken")
    assert convert().exit_status == 3


def test_strict_stops_at_the_first_bad_file_and_keeps_what_is_done(collection, convert):
    collection.add_patients(3)
    collection.path("P01", "A01", "t1ce_img").write_bytes(b"broken")
    with pytest.raises(InputFileError, match=r"A01_t1ce_img\.nii\.gz: cannot be read .*; copy or download"):
        convert(strict=True)
    folder = next(iter(collection.root.parent.glob("nnUNet_raw/*")))
    assert names(folder / "labelsTr") == ["P00_A00.nii.gz"]
    assert not (folder / "dataset.json").exists()


@pytest.mark.slow
def test_progress_is_told_for_every_case(collection, convert):
    collection.add_patients(3)
    collection.add("P03", "A03", parts=("t1ce_img",))
    collection.path("P01", "A01", "t1ce_img").write_bytes(b"broken")
    totals, done = [], []
    convert(root=collection.root, workers=2, on_start=totals.append, on_done=done.append)
    assert totals == [3]
    assert sorted(done) == ["P00_A00", "P01_A01", "P02_A02"]


@pytest.mark.slow
def test_number_of_workers_does_not_change_a_byte(collection, convert, contents: Callable):
    collection.add_patients(3)
    folder = convert(workers=2, target="regions").dataset_folder
    parallel = contents(folder)
    folder.rename(folder.with_name("parallel"))
    assert contents(convert(workers=1, target="regions").dataset_folder) == parallel


@pytest.mark.parametrize("options", [{}, {"split": "paper"}])
def test_second_run_makes_no_case_again_and_changes_no_byte(
    collection, convert, contents: Callable, monkeypatch: pytest.MonkeyPatch, options: dict
):
    collection.add_patients(10)
    first = contents(convert(**options).dataset_folder)
    monkeypatch.setattr(job_module, "make_case", lambda *_: pytest.fail("made again"))
    assert contents(convert(**options).dataset_folder) == first


def test_interrupted_run_goes_on_where_it_stopped(
    collection, convert, contents: Callable, monkeypatch: pytest.MonkeyPatch
):
    collection.add_patients(4)
    make_case, made = job_module.make_case, []

    def interrupted(scans, *rest):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(scans.paths["t1ce_img"].name)
        return make_case(scans, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(job_module, "make_case", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert()
    monkeypatch.setattr(
        job_module,
        "make_case",
        lambda scans, *rest: made.append(scans.paths["t1ce_img"].name) or make_case(scans, *rest),
    )
    folder = convert().dataset_folder
    assert made == [f"A0{number}_t1ce_img.nii.gz" for number in range(4)]
    resumed = contents(folder)
    folder.rename(folder.with_name("resumed"))
    assert contents(convert().dataset_folder) == resumed


def test_half_written_file_of_a_killed_run_does_not_stay(collection, convert, accepted_by_nnunet: Callable):
    collection.add_patients(2)
    folder = convert().dataset_folder
    half = folder / "imagesTr/.partial-GONE_A_0000.nii.gz"
    half.write_bytes(b"half")
    convert()
    assert not half.exists()
    assert accepted_by_nnunet(folder)


def test_case_whose_source_changed_is_made_again_alone(collection, convert, contents: Callable):
    collection.add_patients(3)
    folder = convert().dataset_folder
    before = contents(folder)
    source = nib.load(collection.path("P01", "A01", "flair_img"))
    collection.write("P01", "A01", "flair_img", np.asarray(source.dataobj)[::-1], source.affine)
    convert()
    changed = {name for name, content in contents(folder).items() if content != before[name]}
    assert changed == {"imagesTr/P01_A01_0001.nii.gz", f"{HIDDEN_FOLDER}/cases/P01_A01.json"}


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["whole_seg", "everything"])
def test_case_that_left_the_collection_leaves_the_data_set(
    collection, convert, contents: Callable, accepted_by_nnunet: Callable, lost: str
):
    collection.add_patients(3)
    folder = convert().dataset_folder
    complete = contents(folder)
    for path in (collection.root / "P01").glob("*" if lost == "everything" else f"*_{lost}.nii.gz"):
        path.unlink()
    convert()
    assert names(folder / "labelsTr") == ["P00_A00.nii.gz", "P02_A02.nii.gz"]
    assert not [name for name in contents(folder) if "P01" in name]
    assert accepted_by_nnunet(folder)
    collection.add_patients(3)
    convert()
    assert contents(folder) == complete


def test_data_set_with_no_case_left_is_no_longer_one(collection, convert):
    collection.add_patients(2)
    folder = convert().dataset_folder
    for path in collection.root.glob("*/*_whole_seg.nii.gz"):
        path.unlink()
    with pytest.raises(SGNetError, match="no accession can be trained on"):
        convert()
    assert names(folder / "imagesTr") == []
    assert not (folder / "dataset.json").exists()
    assert not (folder / "splits_final.json").exists()
    assert {row["status"] for row in rows_of(folder)} == {"left out"}


@pytest.mark.parametrize("other", [{"target": "core"}, {"split": "paper"}, {"register": "rigid"}])
def test_folder_made_with_other_options_is_refused_and_left_untouched(
    collection, convert, contents: Callable, other: dict
):
    collection.add_patients(10)
    folder = convert().dataset_folder
    before = contents(folder)
    with pytest.raises(SGNetError, match=r"converted with other options: .*; use another -d or delete"):
        convert(**other)
    assert contents(folder) == before


@pytest.mark.parametrize("file", ["dataset.json", "imagesTr/P00_A00_0000.nii.gz", "notes.txt"])
def test_folder_with_another_data_set_is_refused_and_left_untouched(
    collection, convert, raw: Path, contents: Callable, file: str
):
    collection.add_patients(1)
    folder = raw / "Dataset501_BrainMetsLung"
    (folder / file).parent.mkdir(parents=True)
    (folder / file).write_text("{}")
    with pytest.raises(SGNetError, match="holds another data set; use another -d or delete the folder"):
        convert()
    assert contents(raw) == {f"Dataset501_BrainMetsLung/{file}": b"{}"}
    assert not (folder / HIDDEN_FOLDER).exists()


def test_foreign_file_in_our_folder_stops_the_run_before_it_deletes_anything(
    collection, convert, contents: Callable
):
    collection.add_patients(2)
    folder = convert().dataset_folder
    (folder / "labelsTr/mine.nii.gz").write_bytes(b"mine")
    before = contents(folder)
    collection.path("P00", "A00", "whole_seg").unlink()
    with pytest.raises(SGNetError, match=r"labelsTr/mine\.nii\.gz: not made by this conversion"):
        convert()
    assert contents(folder) == before


def test_folder_made_from_another_collection_is_refused(
    collection, convert, tmp_path: Path, contents: Callable
):
    collection.add_patients(2)
    folder = convert().dataset_folder
    before = contents(folder)
    other = type(collection)(tmp_path / "other")
    other.add("STRANGER", "A")
    with pytest.raises(SGNetError, match=r"another collection than .*other, with no case in common"):
        convert(root=other.root)
    assert contents(folder) == before


def test_id_that_another_data_set_has_is_refused(collection, convert, raw: Path):
    collection.add_patients(1)
    (raw / "Dataset501_Liver").mkdir(parents=True)
    with pytest.raises(SGNetError, match="Dataset501_Liver: has the id 501 already; use another -d"):
        convert()
    assert names(raw) == ["Dataset501_Liver"]


def test_two_conversions_of_one_folder_at_once_are_refused(collection, convert):
    collection.add_patients(2)
    folder = convert().dataset_folder
    with (
        FileLock(folder / HIDDEN_FOLDER / "lock"),
        pytest.raises(SGNetError, match="another conversion is writing here; wait until it has ended"),
    ):
        convert()
    assert convert().used == 2


def test_two_accessions_of_one_case_name_are_refused(collection, convert):
    collection.add("P_1", "A")
    collection.add("P", "1_A")
    with pytest.raises(SGNetError, match="P_1_A: is the case of P/1_A and of P_1/A; rename one"):
        convert()


@pytest.mark.parametrize("blocked", ["", "Dataset501_BrainMetsLung"])
def test_folder_that_cannot_be_made_is_named(collection, convert, raw: Path, blocked: str):
    collection.add_patients(1)
    (raw / blocked).parent.mkdir(exist_ok=True)
    (raw / blocked).touch()
    with pytest.raises(SGNetError, match=r"Dataset501_BrainMetsLung.*: cannot be written \(.*\); check"):
        convert()


def test_full_disk_ends_the_run_in_one_line_and_the_next_one_finishes(
    collection, convert, raw: Path, contents: Callable, monkeypatch: pytest.MonkeyPatch
):
    collection.add_patients(3)
    folder = raw / "Dataset501_BrainMetsLung"
    expected = contents(convert(dataset_id=502).dataset_folder)
    write = nib.save

    def disk_full(image: nib.Nifti1Image, path: Path) -> None:
        if "P01_A01_0000" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(image, path)

    with monkeypatch.context() as patch:
        patch.setattr(nib, "save", disk_full)
        with pytest.raises(
            SGNetError, match=r"/P01_A01_0000\.nii\.gz: cannot be .* is full.*; free"
        ) as caught:
            convert(workers=1)
    assert "\n" not in str(caught.value)
    assert not (folder / "dataset.json").exists()
    convert()
    assert contents(folder) == expected


TRAINING_FILES = ["imagesTr/P_A_0000.nii.gz", "imagesTr/P_A_0001.nii.gz", "labelsTr/P_A.nii.gz"]


@pytest.fixture
def job(collection, tmp_path: Path) -> ConversionJob:
    collection.add("P", "A")
    folder = tmp_path / "Dataset501_Test"
    for name in (*IMAGE_FOLDERS, f"{HIDDEN_FOLDER}/cases"):
        (folder / name).mkdir(parents=True)
    (accession,) = scan_collection(collection.root)
    return ConversionJob(accession=accession, dataset_folder=folder, options=ConversionOptions())


def images(job: ConversionJob) -> list[str]:
    """Names of all files in nnU-Net's folders."""
    folder = job.dataset_folder
    return sorted(
        str(path.relative_to(folder)) for name in IMAGE_FOLDERS for path in (folder / name).iterdir()
    )


def written(job: ConversionJob) -> dict[str, int]:
    """When each file was written."""
    return {name: (job.dataset_folder / name).stat().st_mtime_ns for name in job.files}


def test_files_are_named_and_made_as_nnunet_wants_them(job: ConversionJob, collection):
    assert isinstance(convert_accession(job), Findings)
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


def test_finished_case_is_not_made_again(job: ConversionJob, monkeypatch: pytest.MonkeyPatch):
    first, times = convert_accession(job), written(job)
    monkeypatch.setattr(job_module, "make_case", lambda *_: pytest.fail("made again"))
    assert convert_accession(job) == first
    assert written(job) == times


@pytest.mark.parametrize("name", TRAINING_FILES)
@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"x"), Path.unlink])
def test_damaged_file_of_a_case_is_mended(
    job: ConversionJob, contents: Callable, name: str, damage: Callable
):
    convert_accession(job)
    whole = contents(job.dataset_folder)
    damage(job.dataset_folder / name)
    convert_accession(job)
    assert contents(job.dataset_folder) == whole


def test_case_with_a_changed_source_is_made_again(job: ConversionJob, collection):
    convert_accession(job)
    source = nib.load(collection.path("P", "A", "t1ce_img"))
    changed = np.asarray(source.dataobj) + np.int16(1)
    collection.write("P", "A", "t1ce_img", changed, source.affine)
    convert_accession(job)
    np.testing.assert_array_equal(nib.load(job.dataset_folder / TRAINING_FILES[0]).dataobj, changed)


def test_mask_that_the_target_does_not_need_may_change(job: ConversionJob, collection):
    convert_accession(job)
    times = written(job)
    collection.path("P", "A", "core_seg").write_bytes(b"broken")
    assert isinstance(convert_accession(job), Findings)
    assert written(job) == times


def test_case_moves_when_it_becomes_a_test_case(job: ConversionJob):
    convert_accession(job)
    convert_accession(replace(job, for_test=True))
    assert images(job) == ["imagesTs/P_A_0000.nii.gz", "imagesTs/P_A_0001.nii.gz", "labelsTs/P_A.nii.gz"]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"broken"), Path.unlink])
def test_source_that_went_bad_takes_its_case_along(job: ConversionJob, collection, damage: Callable):
    convert_accession(job)
    damage(collection.path("P", "A", "flair_img"))
    error = convert_accession(job)
    assert isinstance(error, InputFileError)
    assert error.path.name == "A_flair_img.nii.gz"
    assert images(job) == []
    assert recorded_cases(job.dataset_folder) == set()


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_full_disk_leaves_no_half_case_and_the_next_run_finishes(
    job: ConversionJob, contents: Callable, monkeypatch: pytest.MonkeyPatch, nth: int
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
        with pytest.raises(SGNetError, match=r"disk of .* is full"):
            convert_accession(job)
    assert images(job) == TRAINING_FILES[: nth - 1]
    assert read_record(job.dataset_folder, "P_A").findings is None
    convert_accession(job)
    finished = contents(job.dataset_folder)
    for name in job.files:
        (job.dataset_folder / name).unlink()
    (job.dataset_folder / HIDDEN_FOLDER / "cases/P_A.json").unlink()
    convert_accession(job)
    assert contents(job.dataset_folder) == finished


@pytest.mark.parametrize("target", ["whole", "core", "regions"])
def test_what_nnunet_reads_is_there(target: str):
    description = dataset_json(ConversionOptions(target=target), training_cases=7)
    assert description["channel_names"] == {"0": "T1ce", "1": "FLAIR"}
    assert description["labels"]["background"] == 0
    assert description["numTraining"] == 7
    assert description["file_ending"] == ".nii.gz"
    assert description["overwrite_image_reader_writer"] == "NibabelIOWithReorient"
    assert ("regions_class_order" in description) == (target == "regions")
    assert json.loads(json.dumps(description)) == description


def test_origin_licence_and_options_are_on_record():
    description = dataset_json(
        ConversionOptions(name="Mets", register="rigid", split="paper"), training_cases=1
    )
    assert description["name"] == "Mets"
    assert "10.7937/k0sm-y874" in description["reference"]
    assert description["licence"].startswith("CC BY")
    assert description["converted_by"].startswith("sgnet_nnunet ")
    assert description["conversion"].items() >= {"register": "rigid", "split": "paper"}.items()


def test_how_fast_and_how_strictly_it_was_made_does_not_change_it():
    hasty = dataset_json(ConversionOptions(workers=1, strict=True), training_cases=1)
    assert hasty == dataset_json(ConversionOptions(workers=8), training_cases=1)


def test_values_with_commas_and_zeros_survive_and_unknown_ones_are_empty():
    row = ReportRow(
        patient="P",
        accession="A",
        case="P_A",
        status="failed",
        reason='a, "b"',
        mi_before=0.0,
        whole_mm3=1234.5,
    )
    text = report_csv([row])
    (read,) = csv.DictReader(io.StringIO(text))
    assert read["reason"] == 'a, "b"'
    assert (read["mi_before"], read["mi_after"], read["whole_mm3"]) == ("0.0000", "", "1234.5000")
    assert "\r" not in text


@pytest.mark.slow
@pytest.mark.parametrize("target", ["whole", "core", "regions"])
def test_masks_on_the_t1ce_grid_are_kept_to_the_voxel(
    real_data: Path, convert, accepted_by_nnunet, target: str
):
    root = real_data / "real_tcia_layout"
    result = convert(root=root, target=target)
    assert (result.used, result.exit_status) == (3, 0)
    assert accepted_by_nnunet(result.dataset_folder)
    part = "core_seg" if target == "core" else "whole_seg"
    for row in result.report:
        label = nib.load(result.dataset_folder / "labelsTr" / f"{row.case}.nii.gz")
        source = nib.load(root / row.patient / f"{row.accession}_{part}.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(label.dataobj) > 0, np.asanyarray(source.dataobj) > 0)
