"""Finding the accessions of the collection."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgnet_nnunet.dataset.collection import part_path, scan_collection
from sgnet_nnunet.errors import InputFileError, SGNetError


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_files_are_paired_by_accession_and_sorted(tmp_path: Path):
    touch(
        tmp_path,
        "YG_B/YG_2_t1ce_img.nii.gz",
        "YG_B/YG_1_flair_img.nii",
        "YG_B/YG_1_t1ce_img.nii.gz",
        "YG_A/YG_9_whole_seg.nii.gz",
    )
    accessions = scan_collection(tmp_path)
    assert [accession.case for accession in accessions] == ["YG_A_YG_9", "YG_B_YG_1", "YG_B_YG_2"]
    assert accessions[1].path("flair_img") == tmp_path / "YG_B" / "YG_1_flair_img.nii"
    assert accessions[1].path("t1ce_img") == part_path(tmp_path, "YG_B", "YG_1", "t1ce_img")
    assert accessions[1].missing(("t1ce_img", "core_seg", "flair_img")) == ("core_seg",)


HIDDEN = st.builds(
    "{}{}".format,
    st.sampled_from((".", "..", "._", ".partial-", ".~")),
    st.sampled_from(
        ("YG_1_t1ce_img.nii.gz", "YG_1_t1ce_img.nii", "YG_2_core_seg.nii.gz", "DS_Store", "YG_A")
    ),
)


@settings(deadline=None, max_examples=50)
@given(in_root=st.lists(HIDDEN, unique=True), in_patient=st.lists(HIDDEN, unique=True))
def test_no_hidden_file_or_folder_is_an_accession(tmp_path_factory, in_root, in_patient):
    root = tmp_path_factory.mktemp("collection")
    touch(root, "YG_A/YG_1_t1ce_img.nii.gz", "YG_A/YG_1_flair_img.nii.gz")
    expected = scan_collection(root)
    touch(root, *(f"YG_A/{name}" for name in in_patient))
    touch(root, *(f"{name}/YG_1_t1ce_img.nii.gz" for name in in_root))
    assert scan_collection(root) == expected


def test_tables_slides_and_hidden_files_are_passed_over(tmp_path: Path):
    touch(
        tmp_path,
        "Clinical_Data.xlsx",
        "Histology/slide.svs",
        "YG_A/notes.txt",
        "YG_A/._YG_1_t1ce_img.nii.gz",
        "YG_A/YG_1_t1ce_img.nii.gz.part",
        ".trash/YG_3_t1ce_img.nii.gz",
        "YG_A/YG_1_t1ce_img.nii.gz",
    )
    assert [accession.case for accession in scan_collection(tmp_path)] == ["YG_A_YG_1"]


def test_compressed_and_plain_copy_of_one_file_are_refused_when_asked_for(tmp_path: Path):
    touch(tmp_path, "YG_A/YG_1_t1ce_img.nii", "YG_A/YG_1_t1ce_img.nii.gz", "YG_A/YG_1_flair_img.nii")
    (accession,) = scan_collection(tmp_path)
    assert accession.path("flair_img").name == "YG_1_flair_img.nii"
    with pytest.raises(InputFileError, match=r"YG_1_t1ce_img\.nii: .*\.nii\.gz is next to it; keep one"):
        accession.path("t1ce_img")


def test_missing_root_is_named(tmp_path: Path):
    with pytest.raises(SGNetError, match=r"nowhere: cannot be listed .*; give the folder"):
        scan_collection(tmp_path / "nowhere")


def test_root_without_accessions_is_named(tmp_path: Path):
    with pytest.raises(SGNetError, match="no accession found; give the folder"):
        scan_collection(tmp_path)
