"""Atomic writes of files and folders, JSON files and checksums."""

import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sgnet_nnunet.errors import InputFileError

PARTIAL_PREFIX = ".partial-"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path next to `path` to write to; move it onto `path` if the block succeeds.

    The yielded name keeps the suffix, since writers choose their format by it. A process killed
    inside the block leaves only a file starting with `PARTIAL_PREFIX`, which no reader picks up
    and the next write of the same file replaces.
    """
    partial = path.with_name(f"{PARTIAL_PREFIX}{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill; move it to `folder`, which must be new or empty, if the block succeeds."""
    partial = folder.with_name(f"{PARTIAL_PREFIX}{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any, *, indent: int = 2) -> None:  # noqa: ANN401 - what JSON can hold
    """Write `content` as JSON, atomically; a number that is NaN or infinite is a ValueError."""
    write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def checksum_of(path: Path) -> str:
    """Return the SHA-256 checksum of a file, in hexadecimal digits."""
    checksum = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()


_COMPRESSED = {
    ".mha": (b"ElementDataFile = LOCAL\n", b"CompressedData = True"),
    ".nrrd": (b"\n\n", b"encoding: gz"),
}
"""What ends the header of a format, and what in it says that the voxels are compressed."""


def check_voxels(path: Path) -> None:
    """Raise a ValueError or zlib.error for a file of which ITK would read wrong voxels without an error.

    It ignores the checksums of MetaImage and NRRD; GIPL has neither a checksum nor an orientation.
    """
    if path.suffix == ".gipl":
        raise ValueError("GIPL has neither checksum nor orientation; convert it to .nii.gz")
    if path.suffix in _COMPRESSED:
        end, is_compressed = _COMPRESSED[path.suffix]
        header, _, voxels = path.read_bytes().partition(end)
        if voxels and is_compressed in header:
            zlib.decompress(voxels, wbits=47)  # zlib's or gzip's stream
        if b"kinds: complex" in header:
            raise ValueError("complex voxels")


def read_json(path: Path, *, remedy: str = "name the right folder, or copy it again") -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        InputFileError: If the file cannot be read or holds no JSON object; `remedy` says what to do.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror})", remedy) from error
    except ValueError as error:
        raise InputFileError(path, f"is not JSON ({error})", remedy) from error
    if not isinstance(content, dict):
        raise InputFileError(path, "holds no JSON object", remedy)
    return content
