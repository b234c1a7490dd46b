"""The errors a user can cause and mend; the command line prints each as one line."""

from pathlib import Path


class SGNetError(Exception):
    """Something the user can mend. The message says what is wrong and what to do.

    Attributes:
        exit_status: The status the command line ends with.
    """

    exit_status = 2


class InputFileError(SGNetError):
    """A file cannot be used.

    Args:
        path: The file at fault.
        problem: What is wrong with it, with the value found.
        remedy: What the user can do about it.
    """

    def __init__(self, path: Path | str, problem: str, remedy: str) -> None:
        super().__init__(f"{path}: {problem}; {remedy}")
        self.path = Path(path)
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type, tuple[Path, str, str]]:
        """Rebuild from the three parts, so that the error crosses process borders."""
        return type(self), (self.path, self.problem, self.remedy)
