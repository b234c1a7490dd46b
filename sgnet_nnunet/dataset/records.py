"""Records that make a conversion resumable, in a hidden folder of the data set.

`.sgnet_conversion/options.json` holds the options that the data set was made with. Next to it,
`cases/<case>.json` lists a case's files before the first is written, and their hashes after
the last. A file in nnU-Net's folders that no record lists is foreign and is never touched. A damaged
record is an InputFileError.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sgnet_nnunet.dataset.accession import Findings
from sgnet_nnunet.dataset.collection import Part
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import PARTIAL_PREFIX, checksum_of, inside, read_json, write_json
from sgnet_nnunet.schemas import check

HIDDEN_FOLDER = ".sgnet_conversion"
IMAGE_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")

FILE_ENDING = ".nii.gz"

FORMAT = 2
"""To be raised when the same sources and options give other voxels or other records than before."""

_REMEDY = "delete the data set's folder and convert again"


@dataclass(frozen=True)
class CaseRecord:
    """What is known about one case.

    Attributes:
        sources: SHA-256 of each file it was made of.
        files: SHA-256 of each file of the case, by its path in the data set's folder; empty strings
            while they are being written.
        findings: For the report; None while the files are being written.
    """

    sources: Mapping[Part, str]
    files: Mapping[str, str]
    findings: Findings | None = None


def refuse_foreign_folder(folder: Path) -> None:
    """Raise SGNetError, before anything is written, if a folder holds another data set or links out of it."""
    others = folder.exists() and any(folder.glob("[!.]*"))
    if others and not _options_path(folder).exists():
        raise SGNetError(f"{folder}: holds another data set; use another -d or delete the folder")
    hidden = Path(HIDDEN_FOLDER)
    for name in (*IMAGE_FOLDERS, hidden, hidden / "cases", hidden / "lock"):
        inside(folder, name)


def claim_folder(folder: Path, requested: Mapping[str, Any]) -> None:
    """Record the options in the data set's folder, or check that they are those recorded.

    Raises:
        SGNetError: It holds a data set made with other options, foreign files, or a damaged record.
    """
    path = _options_path(folder)
    if not path.exists():
        write_json(path, requested)
        return
    held = read_json(path, remedy=_REMEDY)
    if other := [key for key in requested if held.get(key) != requested[key]]:
        listed = ", ".join(f"{key} {held.get(key)} (now {requested[key]})" for key in other)
        raise SGNetError(
            f"{folder}: holds a data set converted with other options: {listed}; "
            "use another -d or delete the folder"
        )
    records = (read_record(folder, case) for case in recorded_cases(folder))
    if foreign := sorted(_files(folder).difference(*(record.files for record in records if record))):
        raise SGNetError(f"{folder / foreign[0]}: not made by this conversion; move it elsewhere")


def read_record(folder: Path, case: str) -> CaseRecord | None:
    """Return the record of a case, None if there is none."""
    path = _record_path(folder, case)
    if not path.exists():
        return None
    record = check(path, read_json(path, remedy=_REMEDY), CaseRecord, remedy=_REMEDY)
    own = re.compile(rf"(images|labels)T[rs]/{re.escape(case)}(_\d{{4}})?{re.escape(FILE_ENDING)}")
    for name in record.files:
        # Its files are deleted if the sources have changed.
        if not own.fullmatch(str(name)):
            raise InputFileError(path, f"lists the file {name!r}, which is not of this case", _REMEDY)
        inside(folder, name)
    return record


def write_record(folder: Path, case: str, record: CaseRecord) -> None:
    """Write the record of a case, atomically."""
    write_json(_record_path(folder, case), asdict(record))


def is_current(folder: Path, record: CaseRecord, sources: Mapping[Part, str], files: list[str]) -> bool:
    """Return whether a case was finished from the same sources and its files are still what was written."""
    return record.sources == sources and record.files == {
        name: checksum_of(folder / name) for name in files if (folder / name).exists()
    }


def delete_case(folder: Path, case: str) -> None:
    """Delete the files of a case, then its record."""
    if record := read_record(folder, case):
        for name in record.files:
            (folder / name).unlink(missing_ok=True)
        _record_path(folder, case).unlink()


def recorded_cases(folder: Path) -> set[str]:
    """Return the names of all cases that have a record."""
    cases = folder / HIDDEN_FOLDER / "cases"
    return {path.stem for path in cases.glob("[!.]*.json")}


def delete_partial_files(folder: Path) -> None:
    """Delete the unfinished files of a killed conversion; nnU-Net would take them for cases."""
    for path in folder.rglob(f"{PARTIAL_PREFIX}*"):
        if path.is_symlink() or not path.is_dir():
            path.unlink()


def _files(folder: Path) -> set[str]:
    """Return the images and labels, hidden files left out, as paths in the data set's folder."""
    return {
        path.relative_to(folder).as_posix()
        for name in IMAGE_FOLDERS
        for path in (folder / name).glob(f"[!.]*{FILE_ENDING}")
    }


def _options_path(folder: Path) -> Path:
    return folder / HIDDEN_FOLDER / "options.json"


def _record_path(folder: Path, case: str) -> Path:
    return folder / HIDDEN_FOLDER / "cases" / f"{case}.json"
