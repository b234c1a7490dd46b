"""The hidden files say what was done, and nothing else is ever deleted."""

import os
from pathlib import Path

import pytest

from sgnet_nnunet.dataset.accession import Findings
from sgnet_nnunet.dataset.convert import ConversionOptions
from sgnet_nnunet.dataset.records import (
    HIDDEN_FOLDER,
    CaseRecord,
    claim_folder,
    delete_case,
    delete_partial_files,
    is_current,
    read_record,
    recorded_cases,
    refuse_foreign_folder,
    write_record,
)
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.files import checksum_of

SOURCES = {"t1ce_img": "abc"}
IMAGE, LABELS = "imagesTr/P_A_0000.nii.gz", "labelsTr/P_A.nii.gz"
FINDINGS = Findings(("one", "two"), 0.1 + 0.2, 0.75, {"core_seg": 1 / 3})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("imagesTr", "labelsTr", f"{HIDDEN_FOLDER}/cases"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / IMAGE).write_bytes(b"image")
    (tmp_path / LABELS).write_bytes(b"labels")
    return tmp_path


@pytest.fixture
def record(folder: Path) -> CaseRecord:
    record = CaseRecord(SOURCES, {name: checksum_of(folder / name) for name in (IMAGE, LABELS)}, FINDINGS)
    write_record(folder, "P_A", record)
    return record


@pytest.mark.parametrize("findings", [None, Findings(), FINDINGS])
def test_record_comes_back_to_the_last_digit(folder: Path, findings: Findings | None):
    record = CaseRecord(SOURCES, {IMAGE: "", LABELS: ""}, findings)
    write_record(folder, "P_A", record)
    assert read_record(folder, "P_A") == record
    assert recorded_cases(folder) == {"P_A"}


def test_case_without_a_record_is_unknown(folder: Path):
    assert read_record(folder, "P_A") is None
    assert recorded_cases(folder) == set()
    delete_case(folder, "P_A")
    assert (folder / IMAGE).exists()


def test_case_is_current_as_long_as_sources_and_files_are_the_same(folder: Path, record: CaseRecord):
    assert is_current(folder, record, SOURCES, [IMAGE, LABELS])
    assert not is_current(folder, record, {"t1ce_img": "abd"}, [IMAGE, LABELS])
    assert not is_current(folder, record, SOURCES, ["imagesTs/P_A_0000.nii.gz", LABELS])


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"other"), os.unlink])
def test_case_with_a_damaged_file_is_not_current(folder: Path, record: CaseRecord, damage):
    damage(folder / LABELS)
    assert not is_current(folder, record, SOURCES, [IMAGE, LABELS])


def test_case_being_written_is_not_current(folder: Path):
    assert not is_current(folder, CaseRecord(SOURCES, {IMAGE: "", LABELS: ""}), SOURCES, [IMAGE, LABELS])


def test_discarding_a_case_deletes_its_own_files_only(folder: Path, record: CaseRecord):
    (folder / "labelsTr/P_A_2.nii.gz").write_bytes(b"mine")
    (folder / IMAGE).unlink()  # as after a kill in the middle of discarding
    delete_case(folder, "P_A")
    assert [path.name for path in sorted((folder / "labelsTr").iterdir())] == ["P_A_2.nii.gz"]
    assert recorded_cases(folder) == set()


def test_half_written_files_are_swept_and_not_taken_for_cases(folder: Path, record: CaseRecord):
    halves = [
        folder / "imagesTr/.partial-P_B_0000.nii.gz",
        folder / HIDDEN_FOLDER / "cases/.partial-P_B.json",
        folder / ".partial-dataset.json",
    ]
    for half in halves:
        half.touch()
    assert recorded_cases(folder) == {"P_A"}
    delete_partial_files(folder)
    assert not any(half.exists() for half in halves)
    assert (folder / IMAGE).exists()


def test_folder_is_claimed_for_one_set_of_options(tmp_path: Path):
    (tmp_path / HIDDEN_FOLDER).mkdir()
    claim_folder(tmp_path, ConversionOptions(workers=1).provenance)
    claim_folder(tmp_path, ConversionOptions(workers=2, strict=True).provenance)
    with pytest.raises(SGNetError, match=r"other options: target whole \(now core\), split cv \(now paper\)"):
        claim_folder(tmp_path, ConversionOptions(target="core", split="paper").provenance)


def test_file_that_no_record_names_is_refused(folder: Path, record: CaseRecord):
    claim_folder(folder, ConversionOptions().provenance)
    claim_folder(folder, ConversionOptions().provenance)
    (folder / "imagesTr/mine.nii.gz").touch()
    with pytest.raises(SGNetError, match=r"imagesTr/mine\.nii\.gz: not made by this conversion; move it"):
        claim_folder(folder, ConversionOptions().provenance)


def test_only_a_new_an_empty_and_a_claimed_folder_are_ours(tmp_path: Path):
    refuse_foreign_folder(tmp_path / "new")
    refuse_foreign_folder(tmp_path)
    (tmp_path / HIDDEN_FOLDER).mkdir()
    refuse_foreign_folder(tmp_path)
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(SGNetError, match="holds another data set; use another -d"):
        refuse_foreign_folder(tmp_path)
    claim_folder(tmp_path, ConversionOptions().provenance)
    refuse_foreign_folder(tmp_path)


@pytest.mark.usefixtures("record")
def test_damaged_claim_or_record_is_named_with_the_remedy(folder: Path):
    claim_folder(folder, ConversionOptions().provenance)
    for path in (folder / HIDDEN_FOLDER).rglob("*.json"):
        path.write_text("{")
    with pytest.raises(SGNetError, match=r"options\.json: is not JSON .*; delete the data set's folder"):
        claim_folder(folder, ConversionOptions().provenance)
    with pytest.raises(SGNetError, match=r"P_A\.json: is not JSON .*; delete the data set's folder"):
        read_record(folder, "P_A")
