"""A file is there whole or as it was before."""

from pathlib import Path

import pytest

from sgnet_nnunet.files import atomic_path, write_text


def test_text_replaces_what_was_there_in_utf_8(tmp_path: Path):
    path = tmp_path / "a.txt"
    for text in ("old", "Ödem\n"):
        write_text(path, text)
    assert path.read_bytes() == "Ödem\n".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_failure_in_the_middle_leaves_the_old_file_alone(tmp_path: Path):
    path = tmp_path / "a.nii.gz"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as partial:
            assert partial.name.endswith(".nii.gz")
            partial.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
