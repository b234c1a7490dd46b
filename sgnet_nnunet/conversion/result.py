"""What a conversion did."""

from dataclasses import dataclass
from pathlib import Path

from sgnet_nnunet.conversion.report import ReportRow, Status

EXIT_WITH_FAILURES = 3
"""Exit status if some accessions failed and the others were converted."""


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion did.

    Attributes:
        dataset_folder: nnU-Net's raw data set.
        report: A row for each accession, sorted by patient and accession; also in
            `conversion_report.csv` in that folder.
        note: What the user should know about the splits; empty if nothing.
    """

    dataset_folder: Path
    report: tuple[ReportRow, ...]
    note: str = ""

    @property
    def used(self) -> int:
        """Number of accessions in the data set."""
        return self._count("used")

    @property
    def left_out(self) -> int:
        """Number of accessions that lack a modality."""
        return self._count("left out")

    @property
    def failed(self) -> int:
        """Number of accessions with a bad file."""
        return self._count("failed")

    @property
    def exit_status(self) -> int:
        """0, or 3 if an accession failed."""
        return EXIT_WITH_FAILURES if self.failed else 0

    def _count(self, status: Status) -> int:
        return sum(row.status == status for row in self.report)
