"""The hidden files say what was done, and nothing else is ever deleted."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import checksum_of, write_json

SOURCES = {"t1ce_img": "abc"}
IMAGE, LABELS = "imagesTr/P_A_0000.nii.gz", "labelsTr/P_A.nii.gz"
FINDINGS = Findings(("one", "two"), 0.1 + 0.2, 0.75, {"core_seg": 1 / 3})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Dataset501"
    for name in ("imagesTr", "labelsTr", f"{HIDDEN_FOLDER}/cases"):
        (folder / name).mkdir(parents=True)
    (folder / IMAGE).write_bytes(b"image")
    (folder / LABELS).write_bytes(b"labels")
    return folder


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


HIDDEN = (".DS_Store", "._P_B_0000.nii.gz", "._P_B.json", ".partial-P_B.nii.gz", "..nii.gz", ".json")


def test_hidden_files_are_no_records_and_no_foreign_cases(folder: Path, record: CaseRecord):
    claim_folder(folder, ConversionOptions().provenance)
    for place in (folder, folder / "imagesTr", folder / "labelsTr", folder / HIDDEN_FOLDER / "cases"):
        for name in HIDDEN:
            (place / name).touch()
    assert recorded_cases(folder) == {"P_A"}
    claim_folder(folder, ConversionOptions().provenance)


def test_folder_with_hidden_files_alone_holds_no_data_set(tmp_path: Path):
    for name in HIDDEN:
        (tmp_path / name).touch()
    refuse_foreign_folder(tmp_path)


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


NAMES = [
    *(
        "../victim.txt",
        "../../victim.txt",
        "imagesTr/../../victim.txt",
        "victim.txt",
        "dataset.json",
        "",
        ".",
    ),
    *("imagesTr/P_B_0000.nii.gz", "imagesTr/P_A.nii.gz/../../../victim.txt", "imagesTr/P_A_0000.nii.gz\n"),
]


@pytest.fixture
def victims(folder: Path) -> list[Path]:
    """Return files that no record of the case P_A may have deleted, and their contents."""
    paths = [folder.parent / "victim.txt", folder / "victim.txt", folder / "imagesTr/P_B_0000.nii.gz"]
    for path in (*paths, folder / "dataset.json"):
        path.write_text("precious")
    return paths


@pytest.mark.parametrize("name", [*NAMES, "absolute"])
def test_planted_record_has_nothing_deleted_that_is_not_of_its_case(folder: Path, victims, name: str):
    name = str(victims[0]) if name == "absolute" else name
    write_record(folder, "P_A", CaseRecord(SOURCES, {LABELS: "", name: ""}, FINDINGS))
    before = {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()}
    with pytest.raises(
        InputFileError, match=r"P_A\.json: lists the file .*, which is not of this case; delete"
    ):
        delete_case(folder, "P_A")
    assert {path: path.read_bytes() for path in folder.parent.rglob("*") if path.is_file()} == before


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.text(st.sampled_from("./~AP_0nigzTrs*?[]\n\\"), max_size=30).map(lambda tail: f"imagesTr/{tail}")
)
def test_drawn_names_are_refused_or_of_the_case(folder: Path, name: str):
    write_record(folder, "P_A", CaseRecord(SOURCES, {name: ""}))
    try:
        record = read_record(folder, "P_A")
    except InputFileError:
        return
    assert record
    assert [Path(each).name[:3] for each in record.files] == ["P_A"]
    assert (folder / name).parent == folder / "imagesTr"


@pytest.mark.parametrize(
    "content",
    [{"sources": 5}, {"files": [1], "sources": {}, "findings": None}, {"findings": 3}, {"files": {"a": 1}}],
)
def test_record_of_another_shape_is_named(folder: Path, content: dict):
    write_json(folder / HIDDEN_FOLDER / "cases/P_A.json", {"files": {}, "sources": {}} | content)
    with pytest.raises(InputFileError, match=r"P_A\.json: \$\.(sources|files|findings).*: expected"):
        read_record(folder, "P_A")


@pytest.mark.parametrize("name", ["imagesTr", "labelsTs", HIDDEN_FOLDER, f"{HIDDEN_FOLDER}/cases", "lock"])
def test_links_out_of_the_data_set_are_refused_before_anything_is_written(tmp_path: Path, name: str):
    outside, folder = tmp_path / "outside", tmp_path / "Dataset501"
    outside.mkdir()
    path = folder / (f"{HIDDEN_FOLDER}/lock" if name == "lock" else name)
    path.parent.mkdir(parents=True)
    (folder / HIDDEN_FOLDER).mkdir(exist_ok=True) if name != HIDDEN_FOLDER else None
    if name in {"imagesTr", "labelsTs"}:
        claim_folder(folder, ConversionOptions().provenance)
    path.symlink_to(outside / "victim" if name == "lock" else outside)
    with pytest.raises(SGNetError, match=f"{path.name}: leads out of"):
        refuse_foreign_folder(folder)
    assert list(outside.iterdir()) == []


def test_unfinished_links_and_folders_are_not_followed(folder: Path, victims):
    (folder / "imagesTr/.partial-a").symlink_to(victims[0])
    (folder / "imagesTr/.partial-b").symlink_to(folder.parent)
    delete_partial_files(folder)
    assert victims[0].read_text() == "precious"
    assert not list(folder.rglob(".partial-*"))
