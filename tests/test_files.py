"""Atomic writes and JSON files."""

from pathlib import Path

import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.files import atomic_path, checksum_of, read_json, write_json, write_text


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


def test_object_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "cannot be read"), ("{", "is not JSON"), ("[]", "holds no JSON object")]
)
def test_file_without_an_object_is_named_with_the_remedy(tmp_path, content, problem):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputFileError, match=rf"a\.json: {problem}.*; copy it$"):
        read_json(path, remedy="copy it")


def test_json_comes_back_and_nan_is_refused(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, 0.1 + 0.2]})
    assert read_json(path) == {"a": [1, 0.1 + 0.2]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path)["a"][0] == 1


def test_checksum_is_the_sha256_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert checksum_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
