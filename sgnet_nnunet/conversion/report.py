"""conversion_report.csv: what became of each accession."""

import csv
import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Literal

Status = Literal["used", "left out", "failed"]


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """One accession.

    Attributes:
        patient: The patient's name.
        accession: The accession's name.
        case: Name of the nnU-Net case.
        status: `used`; `left out`, for want of a modality; or `failed`, for a bad file.
        split: Where a used one went: `train`, `val` or `test` of the paper's split, else the number
            of the fold that validates on it; empty if there is no split.
        reason: Why it was not used, or what was unusual.
        mi_before: Mutual information of T1ce and FLAIR in nats before registration, if there was one.
        mi_after: The same after registration.
        whole_mm3: Volume of the whole tumour on the T1ce grid, if the target has it.
        core_mm3: Volume of the tumour core on the T1ce grid, if the target has it.
    """

    patient: str
    accession: str
    case: str
    status: Status
    split: str = ""
    reason: str = ""
    mi_before: float | None = None
    mi_after: float | None = None
    whole_mm3: float | None = None
    core_mm3: float | None = None


def report_csv(rows: Iterable[ReportRow]) -> str:
    """Return the report as CSV, a line a row under a line of names; unknown values are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(ReportRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in asdict(row).items()} for row in rows)
    return text.getvalue()


def _cell(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return value or ""
