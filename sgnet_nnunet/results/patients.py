"""Which patient a case is of: scans of one patient are not independent."""

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from sgnet_nnunet.errors import InputFileError

CONVERTED_NAME = re.compile(r"(?P<patient>YG_[^_]+)_YG_[^_]+")
"""Cases of the lung-metastasis collection, as `sgnet convert` names them: patient, then accession."""


def patients_of(
    cases: Iterable[str], *, table: Path | None = None, conversion_report: Path | None = None
) -> dict[str, str]:
    """Return the patient of each case.

    The user's table decides if there is one, else the report of `sgnet convert`, else the case's
    name; a case of which nothing is known is a patient of its own.

    Args:
        cases: Names of the cases.
        table: CSV with the columns `case` and `patient`; it must have every case.
        conversion_report: `conversion_report.csv` of the data set, used if it is there.

    Raises:
        InputFileError: If a table cannot be used, or the user's lacks a case.
    """
    names = list(dict.fromkeys(cases))
    if table is not None:
        known = _read(table)
        if absent := [name for name in names if name not in known]:
            raise InputFileError(table, f"has no row for the case {absent[0]}", "add it")
        return {name: known[name] for name in names}
    recorded = _read(conversion_report) if conversion_report and conversion_report.is_file() else {}
    return {name: recorded.get(name) or _patient_by_name(name) for name in names}


def _patient_by_name(case: str) -> str:
    match = CONVERTED_NAME.fullmatch(case)
    return match["patient"] if match else case


def _read(path: Path) -> Mapping[str, str]:
    remedy = "give a CSV with the columns case and patient"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputFileError(path, f"cannot be read ({error})", remedy) from error
    if not {"case", "patient"} <= set(columns):
        raise InputFileError(path, "lacks the column case or patient", remedy)
    patients: dict[str, str] = {}
    for row in rows:
        case, patient = (row["case"] or "").strip(), (row["patient"] or "").strip()
        if not case or not patient:
            raise InputFileError(path, "has a row without a case or a patient", "fill it in")
        if patients.setdefault(case, patient) != patient:
            raise InputFileError(
                path, f"gives {case} to {patients[case]} and to {patient}", "keep one of the two"
            )
    return patients
