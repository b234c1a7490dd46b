"""A report's folder: whole or not at all."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from sgnet_nnunet.comparison.figures import Figures
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.io.atomic import PARTIAL_PREFIX, write_text

CONTENTS = ".sgnet_report.json"
"""Hidden file of a report that lists what is in it, so that the next run replaces nothing else."""


def write_tables(figures: Figures, folder: Path) -> None:
    """Write `per_case.csv` and `per_lesion.csv`; a cell is empty where a value is not a number."""
    _write_csv(figures.per_case, folder / "per_case.csv")
    _write_csv(figures.per_lesion, folder / "per_lesion.csv")


@contextmanager
def report_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `folder` to write a report to; it takes its place if all goes well.

    Otherwise, nothing is left behind and what was in `folder` stays.

    Raises:
        SGNetError: If `folder` holds anything but a report of ours, or cannot be written.
    """
    folder = folder.resolve()
    refuse_strangers(folder)
    partial = folder.with_name(f"{PARTIAL_PREFIX}{folder.name}")
    refuse_strangers(folder)
    try:
        _remove(partial)
        partial.mkdir(parents=True)
        yield partial
        names = sorted(path.name for path in partial.iterdir())
        write_text(partial / CONTENTS, json.dumps(names, indent=2) + "\n")
        # Again, for a report takes minutes.
        refuse_strangers(folder)
        _replace(folder, partial)
    except OSError as error:
        raise SGNetError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); free space, check "
            "the permissions, or give another -o"
        ) from error
    finally:
        _remove(partial)


def _replace(folder: Path, partial: Path) -> None:
    """Put a finished report in the place of the last one, which comes back if that fails."""
    if not folder.exists():
        partial.rename(folder)
        return
    previous = folder.with_name(f"{PARTIAL_PREFIX}{folder.name}-previous")
    _remove(previous)
    folder.rename(previous)
    try:
        partial.rename(folder)
    except OSError:
        previous.rename(folder)
        raise
    _remove(previous)


def refuse_strangers(folder: Path) -> None:
    """See that a folder can be replaced by a report: it is not there, is empty, or is such a report.

    Raises:
        InputFileError: If it is something else, or holds a file that no report put there.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputFileError(folder, "is a file", "give a folder to write the report to")
    listed = folder / CONTENTS
    try:
        ours = {CONTENTS, *json.loads(listed.read_text(encoding="utf-8"))} if listed.exists() else set()
    except (ValueError, TypeError) as error:
        raise InputFileError(listed, "is damaged", "delete the report or give another -o") from error
    if strangers := sorted(path.name for path in folder.iterdir() if path.name not in ours):
        raise InputFileError(
            folder / strangers[0], "was not written by a report", "move it elsewhere or give another -o"
        )


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
