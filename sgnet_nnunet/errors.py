"""The errors a user can cause and fix; the command line prints each as one line."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_BYTES = 1 << 16


def printable(text: str) -> str:
    r"""Return text of a file or a name in one line, what is not printable escaped as in Python.

    That is control and format characters (escape sequences, changes of direction), and bytes of a name
    that are not UTF-8.

    >>> print(printable("a\x1b[31m\n\udcffb"))
    a\x1b[31m\n\udcffb
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class SGNetError(Exception):
    """Something the user can fix. The message says what is wrong and what to do."""

    exit_status = 2
    """The status the command line ends with."""


class InputFileError(SGNetError):
    """A file cannot be used: what is wrong with it, with the value found, and what the user can do."""

    def __init__(self, path: Path | str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}; {remedy}")
        self.path = Path(path)
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[Path, str, str]]:
        """Rebuild from the three parts, so that the error crosses process borders."""
        return type(self), (self.path, self.problem, self.remedy)


def disk_full(error: BaseException, path: Path | str) -> SGNetError | None:
    """Return the error to raise if `error`, met while `path` was written, comes of a full disk; else None.

    For an error without the system's number, as ITK's, the space that is left decides.
    """
    folder = next(each for each in Path(path).absolute().parents if each.exists())
    free = shutil.disk_usage(folder).free
    if getattr(error, "errno", None) not in _DISK_FULL and (
        isinstance(error, SGNetError) or free > _FULL_BYTES
    ):
        return None
    mount = next(each for each in (folder, *folder.parents) if os.path.ismount(each))
    return SGNetError(
        f"{path}: cannot be written, the disk of {mount} is full ({free / 1e6:.1f} MB free); free space, "
        "then run the command again"
    )


def describe(error: BaseException) -> str:
    """Return an unexpected error as one line, with the file that it concerns, if that is known."""
    path = getattr(error, "filename2", None) or getattr(error, "filename", None) or path_in_hand(error)
    if getattr(error, "errno", None) in _DISK_FULL:
        return str(disk_full(error, path)) if path else "standard output: cannot be written, its disk is full"
    if isinstance(error, MemoryError):
        error = MemoryError("close other programs, or use fewer workers")
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    problem = " ".join(f"{type(error).__name__}: {text}".split())
    return f"{path}: {problem}" if path else problem


def path_in_hand(error: BaseException) -> Path | None:
    """Return the path that the innermost function of this package was at work on as the error was raised.

    A worker process notes it, as `path_in_hand`, since frames do not cross process borders.
    """
    if error.__cause__ and (path := path_in_hand(error.__cause__)):
        return path
    found: Path | None = getattr(error, "path_in_hand", None)
    trace: TracebackType | None = error.__traceback__
    while trace:
        frame, trace = trace.tb_frame, trace.tb_next
        module = frame.f_globals.get("__name__", "")
        if module.startswith("rich."):
            return None  # printing
        if module.startswith("sgnet_nnunet."):
            paths = [value for value in frame.f_locals.values() if isinstance(value, Path)]
            found = next((path for path in paths if path.is_file()), paths[0] if paths else found)
    return found


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Name the extra of this package (of `setup.py`) to install if an import in the block fails.

    Raises:
        SGNetError: If a third party's package is not installed, or is broken.

    >>> with needs_extra("phantom"):
    ...     import absent
    Traceback (most recent call last):
    ...
    sgnet_nnunet.errors.SGNetError: absent is not installed; run: pip install 'sgnet-nnunet[phantom]'
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or str(error)).partition(".")[0]
        if package == __package__:
            raise
        absent = isinstance(error, ModuleNotFoundError)
        problem = "is not installed" if absent else f"cannot be imported ({error})"
        raise SGNetError(f"{package} {problem}; run: pip install 'sgnet-nnunet[{extra}]'") from error
