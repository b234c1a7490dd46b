"""Many patients, one row of a table each: segmented one by one, and only where something has changed."""

import csv
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Literal

from sgnet_nnunet.errors import InputFileError, printable
from sgnet_nnunet.files import atomic_path, csv_cell, inside, make_folder, read_bytes, read_json
from sgnet_nnunet.inference.predictor import Predictor
from sgnet_nnunet.patient.lesion_table import LesionRecord, read_lesions_json
from sgnet_nnunet.patient.outputs import LESIONS_JSON, RUN
from sgnet_nnunet.patient.pipeline import PatientFiles, SegmentOptions, run_identity, segment_patient

logger = logging.getLogger(__name__)

NEEDED = ("patient", "t1ce")
OPTIONAL = ("flair", "brain_mask", "t1ce_series", "flair_series")
SUMMARY = "summary.csv"

_REMEDY = f"give the columns {', '.join((*NEEDED, *OPTIONAL))}, the last four of which may be left out"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one row; the numbers are of the lesions that are kept.

    `problem` says in one line why it failed, without the paths of its files.
    """

    patient: str
    status: Literal["segmented", "unchanged", "failed"]
    lesions: int = 0
    removed: int = 0
    volume_mm3: float = 0.0
    largest_axial_diameter_mm: float = 0.0
    seconds: float = 0.0
    problem: str = ""


def read_patients(table: Path) -> dict[str, PatientFiles]:
    """Return the files of each patient in a CSV; relative paths are relative to the table's folder.

    Raises:
        InputFileError: If the table cannot be read, lacks a column, or names a patient twice, or so that
            no folder can be named.
    """
    try:
        rows = list(csv.DictReader(StringIO(read_bytes(table).decode("utf-8-sig")), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        detail = getattr(error, "strerror", None) or str(error)
        raise InputFileError(table, f"cannot be read as CSV in UTF-8 ({detail})", _REMEDY) from error
    if not rows:
        raise InputFileError(table, "has no row", _REMEDY)
    patients: dict[str, PatientFiles] = {}
    for number, row in enumerate(rows, start=1):
        cells = {name: (row.get(name) or "").strip() for name in (*NEEDED, *OPTIONAL)}
        patient = cells.pop("patient")
        _check_row(table, number, patient, cells["t1ce"], patients)
        paths = {name: table.parent / cells[name] for name in ("t1ce", "flair", "brain_mask") if cells[name]}
        series = {name: cells[name] or None for name in ("t1ce_series", "flair_series")}
        patients[patient] = PatientFiles(**paths, **series)  # type: ignore[arg-type]
    return patients


def _check_row(table: Path, number: int, patient: str, t1ce: str, others: Iterable[str]) -> None:
    """Raise an InputFileError if a row lacks something, or its patient cannot be the name of a new folder."""
    if not patient or not t1ce:
        missing = "t1ce" if patient else "patient"
        raise InputFileError(table, f"has no {missing} in row {number}", _REMEDY)
    if not patient.isprintable() or set(patient) & set('/\\:*?"<>|') or not patient.strip("."):
        problem = f"names the patient {printable(patient)!r} in row {number}, which is no name of a folder"
        raise InputFileError(table, problem, "use letters, digits, - and _")
    if patient.casefold() in map(str.casefold, others):
        raise InputFileError(table, f"names the patient {patient} twice", "give each row its own name")


def segment_table(
    patients: dict[str, PatientFiles],
    output: Path,
    *,
    predictor: Predictor,
    options: SegmentOptions,
    on_done: Callable[[Outcome], object] = lambda _: None,
) -> list[Outcome]:
    """Segment patients into folders of their names, and write `summary.csv` next to these.

    A patient whose files, model and settings are as in the folder's `run.json` is left as it is. One that
    fails costs no other: its outcome says why.
    """
    make_folder(output, [SUMMARY])
    outcomes = []
    for patient, files in patients.items():
        outcome = _segment_row(patient, files, output, predictor, options)
        outcomes.append(outcome)
        _write_summary(output / SUMMARY, outcomes)
        on_done(outcome)
    return outcomes


def _segment_row(
    patient: str, files: PatientFiles, output: Path, predictor: Predictor, options: SegmentOptions
) -> Outcome:
    start = time.perf_counter()
    try:
        folder = inside(output, patient)
        records = _finished(folder, files, predictor, options)
        if records is not None:
            return _outcome(patient, "unchanged", records, start)
        records = segment_patient(files, folder, predictor=predictor, options=options).records
    # Whatever is wrong with one patient must not cost the others.
    except Exception as error:
        logger.debug("patient %s", patient, exc_info=error)
        return Outcome(patient=patient, status="failed", problem=files.problem(error))
    return _outcome(patient, "segmented", records, start)


def _outcome(
    patient: str, status: Literal["segmented", "unchanged"], records: Sequence[LesionRecord], start: float
) -> Outcome:
    kept = [record for record in records if record.kept]
    return Outcome(
        patient=patient,
        status=status,
        lesions=len(kept),
        removed=len(records) - len(kept),
        volume_mm3=round(sum(record.volume_mm3 for record in kept), 1),
        largest_axial_diameter_mm=round(max((record.diameter_axial_mm for record in kept), default=0), 1),
        seconds=round(time.perf_counter() - start, 1),
    )


def _finished(
    folder: Path, files: PatientFiles, predictor: Predictor, options: SegmentOptions
) -> tuple[LesionRecord, ...] | None:
    """Return the lesions of an earlier run with the same files, model and settings; None if there is none."""
    if not (folder / RUN).is_file():
        return None
    try:
        run, records = read_json(folder / RUN), read_lesions_json(folder / LESIONS_JSON)
    except InputFileError:
        return None  # written again
    identity = run_identity(files, predictor, options)
    return records if all(run.get(name) == value for name, value in identity.items()) else None


def _write_summary(path: Path, outcomes: Sequence[Outcome]) -> None:
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(asdict(outcomes[0]))
        for outcome in outcomes:
            table.writerow([csv_cell(value) for value in asdict(outcome).values()])
