"""Splits into training, validation and test cases, by patient."""

import csv
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Literal

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import csv_cell, read_bytes

Subset = Literal["train", "val", "test"]
Fold = Mapping[Literal["train", "val"], list[str]]

FOLDS = 5
"""nnU-Net's number of folds."""

SEED = 12345
"""nnU-Net's seed of the split."""

TRAIN_TENTHS, VAL_TENTHS = 7, 1
"""The paper's 70/10/20 %: 64, 9 and 19 of 92 patients."""

FEWEST_PATIENTS_FOR_PAPER = 10
"""With fewer, 10 % rounds to zero patients."""


@dataclass(frozen=True)
class Splits:
    """Content of splits_final.json, no folds if no split is possible; `note` is for the user, or empty."""

    folds: tuple[Fold, ...]
    note: str = ""


def paper_subsets(patients: Collection[str]) -> dict[str, Subset]:
    """Assign patients to the paper's subsets: sorted, not shuffled, first 70 %, next 10 %, rest.

    Raises:
        SGNetError: There are fewer than ten patients.
    """
    ordered = sorted(set(patients))
    if len(ordered) < FEWEST_PATIENTS_FOR_PAPER:
        raise SGNetError(
            f"the paper's split needs {FEWEST_PATIENTS_FOR_PAPER} patients or more, {len(ordered)} found; "
            "use the split cv"
        )
    train = len(ordered) * TRAIN_TENTHS // 10
    val = len(ordered) * VAL_TENTHS // 10
    return {
        patient: "train" if index < train else "val" if index < train + val else "test"
        for index, patient in enumerate(ordered)
    }


def paper_splits(cases: Mapping[str, str], subsets: Mapping[str, Subset]) -> Splits:
    """Return the paper's one fold of `cases` (patient of each), by the subset of each patient."""
    train, val = ([patient for patient in subsets if subsets[patient] == name] for name in ("train", "val"))
    fold = _fold(cases, train, val)
    if fold["train"] and fold["val"]:
        return Splits((fold,))
    return Splits((), "no case to train or to validate on: no splits_final.json; fix the failed accessions")


def grouped_splits(cases: Mapping[str, str]) -> Splits:
    """Return nnU-Net's shuffled folds of `cases` (patient of each), made over patients instead of cases.

    Fewer than five patients give as many folds as patients. One patient gives none: a patient
    cannot be validated on what was trained on, and nnU-Net needs no split for its fold `all`.
    """
    # scikit-learn, behind it, takes a second to import.
    from nnunetv2.utilities.crossval_split import generate_crossval_split  # noqa: PLC0415

    patients = sorted(set(cases.values()))
    if len(patients) < 2:  # noqa: PLR2004
        return Splits((), "one patient cannot be split: no splits_final.json; train with fold 'all'")
    count = min(FOLDS, len(patients))
    folds = generate_crossval_split(patients, seed=SEED, n_splits=count)
    note = "" if count == FOLDS else f"{count} patients give {count} folds, not {FOLDS}"
    return Splits(tuple(_fold(cases, fold["train"], fold["val"]) for fold in folds), note)


def _fold(cases: Mapping[str, str], train: Collection[str], val: Collection[str]) -> Fold:
    """Return the cases of the patients of one fold."""
    return {
        "train": sorted(case for case, patient in cases.items() if patient in train),
        "val": sorted(case for case, patient in cases.items() if patient in val),
    }


CONVERTED_NAME = re.compile(r"^(?P<patient>YG_[^_]+)_YG_[^_]+$")
"""Cases of the lung-metastasis collection, as `sgnet convert` names them: patient, then accession."""


def patients_of(
    cases: Iterable[str], *, table: Path | None = None, conversion_report: Path | None = None
) -> dict[str, str]:
    """Return the patient of each case.

    The user's `table`, a CSV with the columns `case` and `patient`, decides if there is one, else the
    report of `sgnet convert`, if it is there, else the case's name. Any other case is its own patient.

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
    return {name: recorded.get(csv_cell(name)) or CONVERTED_NAME.sub(r"\g<patient>", name) for name in names}


def _read(path: Path) -> Mapping[str, str]:
    remedy = "give a CSV with the columns case and patient"
    try:
        text = read_bytes(path).decode("utf-8-sig")
        reader = csv.DictReader(StringIO(text, newline=""), strict=True)
        columns, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        detail = getattr(error, "strerror", None) or error
        raise InputFileError(path, f"cannot be read ({detail})", remedy) from error
    if not {"case", "patient"} <= set(columns):
        raise InputFileError(path, "lacks the column case or patient", remedy)
    patients: dict[str, str] = {}
    for row in rows:
        case, patient = (row["case"] or "").strip(), (row["patient"] or "").strip()
        if not case or not patient:
            raise InputFileError(path, "has a row without a case or a patient", "fill it in")
        if patients.setdefault(case, patient) != patient:
            problem = f"gives {case} to {patients[case]} and to {patient}"
            raise InputFileError(path, problem, "keep one of the two")
    return patients
