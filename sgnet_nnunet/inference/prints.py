"""What nnU-Net prints, sent to the log."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

logger = logging.getLogger(__name__)


class _Log(io.TextIOBase):
    def write(self, text: str) -> int:
        if line := text.strip():
            urgent = any(word in line.lower() for word in ("warning", "error"))
            logger.log(logging.WARNING if urgent else logging.DEBUG, "nnU-Net: %s", line)
        return len(text)


@contextmanager
def prints_to_log() -> Iterator[None]:
    """Log what any thread prints meanwhile: warnings and errors as warnings, the rest for debugging."""
    with redirect_stdout(_Log()):
        yield
