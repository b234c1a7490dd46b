"""Atomic writes and JSON files."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import (
    atomic_folder,
    atomic_path,
    checksum_of,
    inside,
    make_folder,
    read_json,
    write_json,
    write_text,
)


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


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "outside/victim.txt"
    path.parent.mkdir()
    path.write_text("precious")
    return path


def test_planted_links_are_replaced_and_not_followed(tmp_path: Path, victim: Path):
    folder = tmp_path / "inside"
    folder.mkdir()
    for name in (".partial-a.txt", "a.txt"):
        (folder / name).symlink_to(victim)
    write_text(folder / "a.txt", "new")
    assert (folder / "a.txt").read_text() == "new"
    (folder / ".partial-report").symlink_to(victim.parent)
    with atomic_folder(folder / "report") as partial:
        (partial / "victim.txt").write_text("new")
    assert [victim.read_text(), *victim.parent.iterdir()] == ["precious", victim]
    assert not any(path.is_symlink() for path in folder.rglob("*"))


PARTS = st.sampled_from(
    ["..", ".", "a", "in", "out", "up", "self", "victim.txt", "", "~", "*", "é\n", "/", "//"]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(PARTS, max_size=6), absolute=st.booleans())
def test_no_drawn_name_leads_out_of_a_folder(tmp_path: Path, parts: list[str], absolute: bool):
    folder = tmp_path / "folder"
    if not folder.exists():
        (folder / "in").mkdir(parents=True)
        (tmp_path / "out").mkdir()
        links = {"out": "../out", "up": "..", "self": ".", "in/out": "../../out/new"}
        for name, target in links.items():
            (folder / name).symlink_to(target)
    name = "/".join(parts)
    name = f"{folder}/{name}" if absolute else name
    try:
        path = inside(folder, name)
    except SGNetError:
        assert not parts or not set(parts) <= {"a", "in", "victim.txt", "~", "*", "é\n"}
    else:
        assert folder in Path(os.path.realpath(path)).parents


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), OSError(errno.EDQUOT, "Quota")])
@pytest.mark.parametrize("atomic", [atomic_path, atomic_folder])
def test_full_disk_is_named_with_the_file_that_was_to_be_written(tmp_path: Path, atomic, error):
    def write() -> None:
        with atomic(tmp_path / "a.txt"):
            raise error

    with pytest.raises(SGNetError, match=r"/a\.txt: cannot be written, the disk of /.* is full") as raised:
        write()
    assert not isinstance(raised.value, InputFileError)
    assert list(tmp_path.iterdir()) == []


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


PLACES = {
    "file": lambda path: path.write_text("x"),
    "pipe": os.mkfifo,
    "link to a file": lambda path: path.symlink_to(__file__),
    "loop of links": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/null"),
    "folder of the system": lambda path: path.symlink_to("/proc/self"),
}
"""What can be where a folder for results is to be, by name."""


@pytest.mark.parametrize("inner", ["", "a/b", "x" * 300])
@pytest.mark.parametrize("place", PLACES)
def test_folder_that_cannot_be_written_to_is_named(tmp_path, place, inner):
    PLACES[place](tmp_path / "results")
    before = sorted(tmp_path.iterdir())
    for make in (make_folder, lambda path: atomic_folder(path / "report").__enter__()):
        with pytest.raises(SGNetError, match=r"results.*cannot be (made|written)"):
            make(tmp_path / "results" / inner)
    assert sorted(tmp_path.iterdir()) == before


def test_folder_of_a_loop_of_links_is_named_when_it_is_made(tmp_path):
    (tmp_path / "results").symlink_to("results")
    with pytest.raises(SGNetError, match=r"results: cannot be made"):
        make_folder(inside(tmp_path / "results", "a").parent)


def test_folder_for_results_is_made_and_left_empty(tmp_path):
    for _ in range(2):
        make_folder(tmp_path / "a/b")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a/b"]
