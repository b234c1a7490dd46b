"""One accession from its source files to nnU-Net's, as a worker does it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sgnet_nnunet.collection import Accession, Part
from sgnet_nnunet.conversion.case import Findings, make_case, read_scans
from sgnet_nnunet.conversion.options import Registration, TargetName
from sgnet_nnunet.conversion.record import (
    FILE_ENDING,
    CaseRecord,
    discard_case,
    fingerprint,
    is_current,
    read_record,
    write_record,
)
from sgnet_nnunet.conversion.targets import TARGETS
from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.io.volume import write_volume


@dataclass(frozen=True, kw_only=True)
class CaseJob:
    """One accession to convert.

    Attributes:
        accession: Its files.
        dataset_folder: Where the case goes.
        for_test: Into imagesTs and labelsTs instead of imagesTr and labelsTr.
        target: What to segment.
        register: How to align FLAIR with T1ce.
    """

    accession: Accession
    dataset_folder: Path
    for_test: bool
    target: TargetName
    register: Registration

    @property
    def files(self) -> list[str]:
        """Paths of T1ce, FLAIR and labels in the data set's folder."""
        case, subset = self.accession.case, "Ts" if self.for_test else "Tr"
        return [
            f"images{subset}/{case}_0000{FILE_ENDING}",
            f"images{subset}/{case}_0001{FILE_ENDING}",
            f"labels{subset}/{case}{FILE_ENDING}",
        ]


def run_job(job: CaseJob) -> Findings | InputFileError:
    """Convert one accession, unless it is already done; return the error if a source file is bad.

    An accession with a bad file leaves nothing in the data set, not even what an earlier run made of it.

    Raises:
        OSError: The data set's folder cannot be written to.
    """
    folder, case = job.dataset_folder, job.accession.case
    try:
        paths = {part: job.accession.path(part) for part in TARGETS[job.target].parts}
        sources = {part: _source_fingerprint(path) for part, path in paths.items()}
        record = read_record(folder, case)
        if record and record.findings and is_current(folder, record, sources, job.files):
            return record.findings
        discard_case(folder, case)
        return _convert(job, paths, sources)
    except InputFileError as error:
        discard_case(folder, case)
        return error


def _convert(job: CaseJob, paths: Mapping[Part, Path], sources: Mapping[Part, str]) -> Findings:
    folder, case = job.dataset_folder, job.accession.case
    converted = make_case(read_scans(paths), TARGETS[job.target], job.register)
    write_record(folder, case, CaseRecord(sources, dict.fromkeys(job.files, "")))
    volumes = (converted.t1ce, converted.flair, converted.labels)
    for name, volume in zip(job.files, volumes, strict=True):
        write_volume(folder / name, volume)
    hashes = {name: fingerprint(folder / name) for name in job.files}
    write_record(folder, case, CaseRecord(sources, hashes, converted.findings))
    return converted.findings


def _source_fingerprint(path: Path) -> str:
    try:
        return fingerprint(path)
    except OSError as error:
        raise InputFileError(
            path, f"cannot be read ({error.strerror})", "copy or download it again, or check its permissions"
        ) from error
