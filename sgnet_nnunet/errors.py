"""The errors a user can cause and fix; the command line prints each as one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
