"""Atomic writes of files and folders, reads within limits, JSON files and checksums."""

import errno
import gzip
import hashlib
import json
import math
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from sgnet_nnunet.errors import InputFileError, SGNetError, disk_full, printable

_Cell = TypeVar("_Cell")

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
"""What makes a cell a formula: https://owasp.org/www-community/attacks/CSV_Injection."""

PARTIAL_PREFIX = ".partial-"
GZIP_MAGIC = b"\x1f\x8b"

MOST_TEXT = 64 << 20  # bytes of a JSON file or a table; a split of 100,000 cases takes less than a tenth
_MOST_PADDING = 1 << 20  # bytes of a file after the last that its header announces
_MOST_DEFLATE = 1032  # bytes that one byte of deflate can expand to: https://www.zlib.net/zlib_tech.html
_BYTES_A_VOXEL = 8  # that checking and converting takes beside the stored voxels: two copies in 32 bits


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path next to `path` to write to; move it onto `path` if the block succeeds.

    The yielded name keeps the suffix, since writers choose their format by it. A process killed
    inside the block leaves only a file starting with `PARTIAL_PREFIX`, which no reader picks up
    and the next write of the same file replaces. A link of either name is replaced, not followed.

    Raises:
        SGNetError: If a folder has the name, or the disk is full.
    """
    partial = path.with_name(f"{PARTIAL_PREFIX}{path.name}")
    _refuse_folder(path)
    _refuse_folder(partial)
    partial.unlink(missing_ok=True)
    try:
        with _naming_full_disk(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def make_folder(folder: Path, names: Iterable[str] = ()) -> None:
    """Make a folder for files of these names, unless it is there; an SGNetError says why that cannot be."""
    probe = folder / f"{PARTIAL_PREFIX}{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        problem = f"cannot be made, or not be written to ({error.strerror})"
        raise InputFileError(folder, problem, "name another folder") from error
    for name in names:
        _refuse_folder(folder / name)


def check_output_files(folder: Path, names: Iterable[str]) -> None:
    """Check, before hours of work, that files can be written to a folder, which may have to be made.

    Raises:
        InputFileError: If the folder cannot be made or written to, or one of the names is a folder's.
    """
    _check_writable((folder, *Path(os.path.realpath(folder)).parents))
    for name in names:
        _refuse_folder(folder / name)


def _check_writable(folders: Iterable[Path]) -> None:
    """Raise an InputFileError if the first of the folders that is there cannot be written to."""
    first = next(path for path in folders if os.path.lexists(path))
    if not first.is_dir():
        raise InputFileError(first, "is no folder", "give a folder to write to")
    if not os.access(first, os.W_OK):
        raise InputFileError(first, "cannot be written", "check the permissions, or give another -o")


def _refuse_folder(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        remedy = "move it elsewhere, or give another -o"
        raise InputFileError(path, "is a folder, where a file is to be written", remedy)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill; move it to `folder`, which must be new or empty, if the block succeeds.

    Raises:
        SGNetError: If the disk is full.
    """
    partial = folder.with_name(f"{PARTIAL_PREFIX}{folder.name}")
    if partial.is_symlink():
        partial.unlink()
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(folder.parent)
    try:
        with _naming_full_disk(folder):
            partial.mkdir()
            yield partial
            partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


CONTENTS = ".sgnet_report.json"
"""Hidden file that lists what is in a folder of output, so that the next run replaces nothing else."""


@contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder next to `folder` to write to; it takes its place if all goes well.

    Otherwise, nothing is left behind and what was in `folder` stays.

    Raises:
        SGNetError: If `folder` holds anything but output of ours, or cannot be written.
    """
    folder = Path(os.path.realpath(folder))
    check_output_folder(folder)
    try:
        with atomic_folder(folder) as partial_folder:
            yield partial_folder
            write_json(partial_folder / CONTENTS, sorted(path.name for path in partial_folder.iterdir()))
            # Checked again: the output took minutes, and the folder may have changed.
            check_output_folder(folder)
            if folder.exists():
                shutil.rmtree(folder)
    except OSError as error:
        raise SGNetError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); free space, check "
            "the permissions, or give another -o"
        ) from error


def check_output_folder(folder: Path) -> None:
    """Check that a folder can be replaced by output: it does not exist, is empty, or is earlier output.

    Raises:
        InputFileError: If it is something else, holds a file that no output put there, or is not writable.
    """
    _check_writable(Path(os.path.realpath(folder)).parents)
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise InputFileError(folder, "is no folder", "give a folder to write to")
    contents = folder / CONTENTS
    try:
        ours = {CONTENTS, *json.loads(read_bytes(contents))} if contents.exists() else set()
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputFileError(contents, "is damaged", "delete the folder or give another -o") from error
    if foreign := sorted(path.name for path in folder.iterdir() if path.name not in ours):
        raise InputFileError(
            folder / foreign[0], "was not written by an earlier run", "move it elsewhere or give another -o"
        )


@contextmanager
def _naming_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if full := disk_full(error, str(path).replace(PARTIAL_PREFIX, "")):
            raise full from error
        raise


def inside(folder: Path, name: Path | str) -> Path:
    """Return the path `name` in a folder; neither it nor a link on the way may lead out of the folder.

    Raises:
        SGNetError: If it leads out of the folder, or to the folder itself.
    """
    path = folder / name
    place, root = (Path(os.path.realpath(each)) for each in (path, folder))  # resolve() fails on loops
    if root not in place.parents:
        raise SGNetError(f"{path}: leads out of {folder}, to {place}; delete it, or name another folder")
    return path


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, in UTF-8; bytes of names that are not UTF-8 are escaped."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def csv_cell(value: _Cell) -> _Cell | str:
    """Return a cell of a table such that no spreadsheet takes text for a formula; a number stays one.

    Text is `printable`; an apostrophe is put before =, +, -, @ and their wide forms at its start.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def write_json(path: Path, content: Any, *, indent: int = 2) -> None:  # noqa: ANN401 - what JSON can hold
    """Write `content` as JSON, atomically; a number that is NaN or infinite is a ValueError."""
    write_text(path, json.dumps(content, indent=indent, allow_nan=False) + "\n")


def checksum_of(path: Path) -> str:
    """Return the SHA-256 checksum of a file, in hexadecimal digits."""
    checksum = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return checksum.hexdigest()


def open_file(path: Path) -> IO[bytes]:
    """Open a regular file for reading; anything else (pipes, devices) is an OSError."""
    # Without O_NONBLOCK, opening a pipe waits for its other end.
    flag = getattr(os, "O_NONBLOCK", 0)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | flag))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def read_bytes(path: Path, *, most: int = MOST_TEXT) -> bytes:
    """Return the content of a regular file; an OSError if it is larger than `most` bytes."""
    with open_file(path) as file:
        if os.fstat(file.fileno()).st_size > most:
            raise OSError(errno.EFBIG, f"larger than {most / 1e6:.0f} MB", str(path))
        return file.read(most)


def free_memory() -> int:
    """Return the bytes of memory that are free, within this process's limit of addresses (ulimit -v)."""
    import psutil  # noqa: PLC0415 - milliseconds of every command's start

    free, process = psutil.virtual_memory().available, psutil.Process()
    limit = process.rlimit(psutil.RLIMIT_AS)[0] if hasattr(process, "rlimit") else -1
    return free if limit < 0 else max(0, min(free, limit - process.memory_info().vms))


def check_memory(path: Path, size: int, *, voxels: int = 0) -> None:
    """Raise an InputFileError if a file announces more bytes, `size`, than memory has room for."""
    if (needed := size + voxels * _BYTES_A_VOXEL) > (free := free_memory()):
        problem = f"needs {needed / 1e9:.3g} GB of memory by its header, {free / 1e9:.3g} GB are free"
        raise InputFileError(path, problem, "check its header, crop it, or close other programs")


@contextmanager
def open_archive(path: Path) -> Iterator[IO[bytes]]:
    """Yield a zip file (`.npz`, a checkpoint), opened for reading; refuse it as `check_memory` does."""
    with open_file(path) as file:
        with zipfile.ZipFile(file) as archive:
            check_memory(path, sum(entry.file_size for entry in archive.infolist()))
        file.seek(0)
        yield file


@contextmanager
def open_stream(path: Path) -> Iterator[tuple[gzip.GzipFile, int]]:
    """Yield what a regular file holds, decompressed if it is gzip, and how many bytes that can be at most."""
    with open_file(path) as file:
        size, is_gzip = os.fstat(file.fileno()).st_size, file.read(2) == GZIP_MAGIC
        file.seek(0)
        if is_gzip:
            with gzip.GzipFile(fileobj=file) as stream:
                yield stream, size * _MOST_DEFLATE
        else:
            yield cast(gzip.GzipFile, file), size


def read_announced(stream: gzip.GzipFile, size: int) -> bytearray:
    """Return the first `size` bytes of a stream; EOFError if it is shorter, ValueError if much longer.

    All of it is read, so that gzip's checksum is verified.
    """
    content, found = bytearray(size), 0
    while found < size and (number := stream.readinto(memoryview(content)[found:])):
        found += number
    if found < size:
        raise EOFError(f"truncated: {size} bytes announced, {found} in the file")
    if len(stream.read(_MOST_PADDING + 1)) > _MOST_PADDING:
        raise ValueError(f"more than 1 MB follows the {size} bytes that its header announces")
    return content


_LOCAL = {
    ".mha": (re.compile(rb"^ElementDataFile\s*=\s*LOCAL\s*?\n", re.MULTILINE), b"CompressedData = True"),
    ".nrrd": (re.compile(rb"\r?\n\r?\n"), b"encoding: gz"),
}
"""What ends the header of a format if voxels follow, and what in it says that they are compressed."""


def check_voxels(path: Path) -> None:
    """Refuse a file of which ITK would read wrong voxels, or more than memory has room for.

    That is a ValueError, EOFError, RuntimeError or zlib.error, or the InputFileError of `check_memory`. ITK
    ignores the checksums of MetaImage and NRRD; GIPL has neither a checksum nor an orientation.
    """
    import SimpleITK  # noqa: PLC0415 - half a second, for formats that few use

    if path.suffix == ".gipl":
        raise ValueError("GIPL has neither checksum nor orientation; convert it to .nii.gz")
    content = read_bytes(path, most=free_memory())
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    if not (voxels := math.prod(reader.GetSize())):
        raise ValueError("it has no voxels")
    # As if each were a complex number in double precision.
    most = voxels * reader.GetNumberOfComponents() * 16
    check_memory(path, most)
    if path.suffix in _LOCAL:
        end, is_compressed = _LOCAL[path.suffix]
        found = end.search(content)
        header = content[: found.end()] if found else b""
        if not header or re.search(rb"(?im)^data ?file:", header):  # NRRD's field
            raise ValueError("its voxels are in another file; convert it to .nii.gz")
        engine = zlib.decompressobj(wbits=47)  # zlib's or gzip's stream
        if is_compressed in header and not (engine.decompress(content[len(header) :], most) and engine.eof):
            raise EOFError("its compressed voxels are truncated, or more than its header announces")
        if b"kinds: complex" in header:
            raise ValueError("complex voxels")


def parse_json(content: bytes) -> object:
    """Return what JSON holds.

    Raises:
        ValueError: If it is no JSON, or a text in it is not Unicode: half of a surrogate pair.
        RecursionError: If it is nested too deeply.
    """
    parsed = json.loads(content)
    json.dumps(parsed, ensure_ascii=False).encode()
    return parsed


def read_json(path: Path, *, remedy: str = "name the right folder, or copy it again") -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        InputFileError: If the file cannot be read or holds no JSON object; `remedy` says what to do.
    """
    try:
        content = parse_json(read_bytes(path))
    except OSError as error:
        raise InputFileError(path, f"cannot be read ({error.strerror})", remedy) from error
    except (ValueError, RecursionError) as error:
        raise InputFileError(path, f"is not JSON ({error})", remedy) from error
    if not isinstance(content, dict):
        raise InputFileError(path, "holds no JSON object", remedy)
    return content
