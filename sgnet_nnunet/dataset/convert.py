"""Convert the TCIA collection into a raw data set of nnU-Net, resumable at any point.

Each accession is a job that runs in a worker process; `dataset.json`, the splits and
`conversion_report.csv` are written at the end.
"""

import csv
import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from sgnet_nnunet import __version__
from sgnet_nnunet.dataset import records
from sgnet_nnunet.dataset.accession import TARGETS, Findings, Registration, TargetName, make_case, read_scans
from sgnet_nnunet.dataset.collection import Accession, scan_collection
from sgnet_nnunet.dataset.records import FILE_ENDING, HIDDEN_FOLDER, IMAGE_FOLDERS, CaseRecord
from sgnet_nnunet.dataset.splits import Subset, grouped_splits, paper_splits, paper_subsets
from sgnet_nnunet.errors import InputFileError, SGNetError, disk_full
from sgnet_nnunet.files import checksum_of, csv_cell, write_json, write_text
from sgnet_nnunet.nifti import write_volume
from sgnet_nnunet.nnunet import SPLITS, changed_folds, nnunet_folder
from sgnet_nnunet.parallel import run_jobs

logger = logging.getLogger(__name__)

REPORT_NAME = "conversion_report.csv"

EXIT_WITH_FAILURES = 3
"""Exit status if some accessions failed and the others were converted."""

LARGEST_DATASET_ID = 999
"""nnU-Net writes ids with three digits."""

Split = Literal["cv", "paper"]
Status = Literal["used", "left out", "failed"]


@dataclass(frozen=True)
class ConversionOptions:
    """Options of `convert`, which describes them.

    Raises:
        SGNetError: The id, the name or the number of workers is out of range.
    """

    dataset_id: int = 501
    name: str = "BrainMetsLung"
    target: TargetName = "whole"
    register: Registration = "none"
    split: Split = "cv"
    strict: bool = False
    workers: int = min(4, os.cpu_count() or 1)

    def __post_init__(self) -> None:
        if not 1 <= self.dataset_id <= LARGEST_DATASET_ID:
            raise SGNetError(f"data set id {self.dataset_id} is not between 1 and {LARGEST_DATASET_ID}")
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise SGNetError(f"data set name {self.name!r} may only hold letters, digits, - and _")
        if self.workers < 1:
            raise SGNetError(f"{self.workers} workers; give 1 or more")

    @property
    def folder_name(self) -> str:
        """Name of the data set's folder, for example `Dataset501_BrainMetsLung`."""
        return f"Dataset{self.dataset_id:03d}_{self.name}"

    @property
    def provenance(self) -> dict[str, Any]:
        """The options that change the data set's files."""
        return {
            "format": records.FORMAT,
            "target": self.target,
            "register": self.register,
            "split": self.split,
        }


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """One accession.

    Attributes:
        case: Name of the nnU-Net case.
        status: `used`; `left out`, if a modality is missing; or `failed`, if a file is bad.
        split: Where a used one went: `train`, `val` or `test` of the paper's split, else the number
            of the fold that validates on it; empty if there is no split.
        reason: Why it was not used, or what was unusual.
        mi_before: Mutual information of T1ce and FLAIR in nats before registration, if there was one.
        mi_after: The same after registration.
        whole_mm3: Volume of the whole tumour on the T1ce grid, if the target has it; `core_mm3` of its core.
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
    for row in rows:
        cells = asdict(row).items()
        writer.writerow({name: f"{it:.4f}" if isinstance(it, float) else csv_cell(it) for name, it in cells})
    return text.getvalue()


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion did.

    Attributes:
        dataset_folder: nnU-Net's raw data set.
        report: A row for each accession, sorted by patient and accession, as in `conversion_report.csv`.
        note: What the user should know about the splits; empty if nothing.
    """

    dataset_folder: Path
    report: tuple[ReportRow, ...]
    note: str = ""

    @property
    def used(self) -> int:
        """Number of accessions in the data set."""
        return sum(row.status == "used" for row in self.report)

    @property
    def left_out(self) -> int:
        """Number of accessions that lack a modality."""
        return sum(row.status == "left out" for row in self.report)

    @property
    def failed(self) -> int:
        """Number of accessions with a bad file."""
        return sum(row.status == "failed" for row in self.report)

    @property
    def exit_status(self) -> int:
        """0, or 3 if an accession failed."""
        return EXIT_WITH_FAILURES if self.failed else 0


def dataset_json(options: ConversionOptions, *, training_cases: int) -> dict[str, Any]:
    """Return the content of dataset.json.

    The first entries are nnU-Net's (documentation/dataset_format.md); `NibabelIOWithReorient` turns
    every case to RAS when nnU-Net reads it, so the files keep their orientation.
    """
    return {
        "channel_names": {"0": "T1ce", "1": "FLAIR"},
        **TARGETS[options.target].description,
        "numTraining": training_cases,
        "file_ending": FILE_ENDING,
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        "name": options.name,
        "description": "Brain metastases of lung cancer, T1ce and FLAIR on the T1ce grid "
        "(TCIA collection Brain-Mets-Lung-MRI-Path-Segs)",
        "reference": "https://doi.org/10.7937/k0sm-y874",
        "licence": "CC BY 4.0 or CC BY-NC 4.0: sources disagree, check at TCIA",
        "converted_by": f"sgnet_nnunet {__version__}",
        "conversion": options.provenance,
    }


@dataclass(frozen=True)
class ConversionJob:
    """One accession to convert; `for_test` into imagesTs and labelsTs instead of imagesTr and labelsTr."""

    accession: Accession
    dataset_folder: Path
    options: ConversionOptions
    for_test: bool = False

    @property
    def files(self) -> list[str]:
        """Paths of T1ce, FLAIR and labels in the data set's folder."""
        case, subset = self.accession.case, "Ts" if self.for_test else "Tr"
        return [
            f"images{subset}/{case}_0000{FILE_ENDING}",
            f"images{subset}/{case}_0001{FILE_ENDING}",
            f"labels{subset}/{case}{FILE_ENDING}",
        ]


def convert_accession(job: ConversionJob) -> Findings | InputFileError:
    """Convert one accession, unless it is already done; return the error if a source file is bad.

    An accession with a bad file leaves nothing in the data set, not even what an earlier run made of it.

    Raises:
        OSError: The data set's folder cannot be written to.
    """
    folder, case = job.dataset_folder, job.accession.case
    try:
        paths = {part: job.accession.path(part) for part in TARGETS[job.options.target].parts}
        sources = {part: _source_checksum(path) for part, path in paths.items()}
        record = records.read_record(folder, case)
        if record and record.findings and records.is_current(folder, record, sources, job.files):
            return record.findings
        records.delete_case(folder, case)
        made = make_case(read_scans(paths), TARGETS[job.options.target], job.options.register)
    except InputFileError as error:
        records.delete_case(folder, case)
        return error
    records.write_record(folder, case, CaseRecord(sources, dict.fromkeys(job.files, "")))
    for name, volume in zip(job.files, (made.t1ce, made.flair, made.labels), strict=True):
        write_volume(folder / name, volume)
    hashes = {name: checksum_of(folder / name) for name in job.files}
    records.write_record(folder, case, CaseRecord(sources, hashes, made.findings))
    return made.findings


def _source_checksum(path: Path) -> str:
    try:
        return checksum_of(path)
    except OSError as error:
        remedy = "copy or download it again, or check its permissions"
        raise InputFileError(path, f"cannot be read ({error.strerror})", remedy) from error


def convert(
    root: Path | str,
    nnunet_raw: Path | str | None = None,
    *,
    dataset_id: int = ConversionOptions.dataset_id,
    name: str = ConversionOptions.name,
    target: TargetName = ConversionOptions.target,
    register: Registration = ConversionOptions.register,
    split: Split = ConversionOptions.split,
    strict: bool = ConversionOptions.strict,
    workers: int = ConversionOptions.workers,
    on_start: Callable[[int], object] = lambda _: None,
    on_done: Callable[[str], object] = lambda _: None,
) -> ConversionResult:
    """Convert the collection below `root` into a raw data set of nnU-Net.

    Can be killed and run again: finished cases are kept, and cases whose source files are gone are deleted.

    Args:
        root: The collection, laid out as `sgnet_nnunet.dataset.collection` describes.
        nnunet_raw: nnU-Net's folder of raw data sets, made if needed; `$nnUNet_raw` by default.
        dataset_id: nnU-Net's number of the data set, 1 to 999.
        name: nnU-Net's name of the data set: letters, digits, `-` and `_`.
        target: `whole` (the whole tumour, as in the paper), `core` (the tumour core instead) or
            `regions` (both, 1 = oedema, 2 = core).
        register: `rigid` moves FLAIR, and the whole tumour drawn on it, onto T1ce by mutual
            information; `none` trusts the affines.
        split: `cv` for five folds grouped by patient, `paper` for 70/10/20 % of the sorted patients.
        strict: Stop at the first bad file instead of continuing with the others.
        workers: Processes that convert accessions in parallel; each needs 1 to 2 GB.
        on_start: Called once with the number of accessions to convert.
        on_done: Called with each case's name as it is finished, also if it failed or was already done.

    Raises:
        SGNetError: An option is out of range, nothing could be used, or the folder is not usable.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> from sgnet_nnunet.nifti import Volume
        >>> folder, tiny = Path(tempfile.mkdtemp()), Volume(np.eye(8, dtype=np.uint8)[None], np.eye(4))
        >>> for patient in ("A", "B"):
        ...     (folder / "collection" / patient).mkdir(parents=True)
        ...     for part in ("t1ce_img", "flair_img", "whole_seg"):
        ...         write_volume(folder / "collection" / patient / f"1_{part}.nii.gz", tiny)
        >>> result = convert(folder / "collection", folder / "nnUNet_raw", workers=1)
        >>> result.dataset_folder.name, result.used
        ('Dataset501_BrainMetsLung', 2)
    """
    options = ConversionOptions(dataset_id, name, target, register, split, strict, workers)
    raw = nnunet_folder("nnUNet_raw") if nnunet_raw is None else Path(nnunet_raw)
    return _convert_collection(Path(root), raw, options, on_start=on_start, on_done=on_done)


def _convert_collection(
    root: Path,
    nnunet_raw: Path,
    options: ConversionOptions,
    *,
    on_start: Callable[[int], object],
    on_done: Callable[[str], object],
) -> ConversionResult:
    accessions = scan_collection(root)
    _check_names(accessions)
    complete = [one for one in accessions if not one.missing(TARGETS[options.target].parts)]
    subsets = paper_subsets([one.patient for one in complete]) if options.split == "paper" else {}
    with _open_folder(nnunet_raw, options) as folder:
        _check_same_collection(folder, root, accessions)
        on_start(len(complete))
        jobs = [ConversionJob(one, folder, options, subsets.get(one.patient) == "test") for one in complete]
        outcomes: dict[str, Findings | InputFileError] = {}
        for job, outcome in run_jobs(convert_accession, jobs, workers=options.workers):
            if options.strict and isinstance(outcome, InputFileError):
                raise outcome
            outcomes[job.accession.case] = outcome
            on_done(job.accession.case)
        return _finish(folder, accessions, outcomes, options, subsets)


@contextmanager
def _open_folder(nnunet_raw: Path, options: ConversionOptions) -> Iterator[Path]:
    """Yield the data set's folder, made, claimed and locked; turn write errors into one line."""
    folder = nnunet_raw / options.folder_name
    try:
        if namesakes := sorted(set(nnunet_raw.glob(f"Dataset{options.dataset_id:03d}_*")) - {folder}):
            raise SGNetError(f"{namesakes[0]}: has the id {options.dataset_id} already; use another -d")
        records.refuse_foreign_folder(folder)
        (folder / HIDDEN_FOLDER / "cases").mkdir(parents=True, exist_ok=True)
        with FileLock(folder / HIDDEN_FOLDER / "lock", timeout=0):
            records.claim_folder(folder, options.provenance)
            records.delete_partial_files(folder)
            for name in IMAGE_FOLDERS if options.split == "paper" else IMAGE_FOLDERS[:2]:
                (folder / name).mkdir(exist_ok=True)
            yield folder
    except Timeout as error:
        raise SGNetError(f"{folder}: another conversion is writing here; wait until it has ended") from error
    except OSError as error:
        path = error.filename or folder
        raise disk_full(error, path) or SGNetError(
            f"{path}: cannot be written ({error.strerror or error}); check the permissions, then run again: "
            "finished cases are kept"
        ) from error


def _check_names(accessions: Sequence[Accession]) -> None:
    by_case: dict[str, Accession] = {}
    for accession in accessions:
        other = by_case.setdefault(accession.case, accession)
        if other is not accession:
            raise SGNetError(
                f"{accession.case}: is the case of {other.patient}/{other.name} and of "
                f"{accession.patient}/{accession.name}; rename one of the two"
            )


def _check_same_collection(folder: Path, root: Path, accessions: Sequence[Accession]) -> None:
    recorded = records.recorded_cases(folder)
    if recorded and recorded.isdisjoint(one.case for one in accessions):
        raise SGNetError(
            f"{folder}: holds another collection than {root}, with no case in common; "
            "use another -d or delete the folder"
        )


def _finish(
    folder: Path,
    accessions: Sequence[Accession],
    outcomes: Mapping[str, Findings | InputFileError],
    options: ConversionOptions,
    subsets: Mapping[str, Subset],
) -> ConversionResult:
    """Write what describes the whole data set, dataset.json last: with it nnU-Net accepts the folder."""
    used = {a.case: a.patient for a in accessions if isinstance(outcomes.get(a.case), Findings)}
    _delete_stale(folder, used)
    training = [case for case, patient in used.items() if subsets.get(patient) != "test"]
    splits = paper_splits(used, subsets) if subsets else grouped_splits(used)
    split_of: dict[str, str] = {case: str(i) for i, fold in enumerate(splits.folds) for case in fold["val"]}
    if subsets:
        split_of = {case: subsets[patient] for case, patient in used.items()}
    rows = tuple(
        _row(one, outcomes.get(one.case), split_of.get(one.case, ""), options.target) for one in accessions
    )
    write_text(folder / REPORT_NAME, report_csv(rows))
    if splits.folds:
        write_json(folder / SPLITS, splits.folds)
    else:
        (folder / SPLITS).unlink(missing_ok=True)
    if not training:
        (folder / "dataset.json").unlink(missing_ok=True)
        raise _nothing_to_train_on(rows, folder / REPORT_NAME, options.target)
    write_json(folder / "dataset.json", dataset_json(options, training_cases=len(training)))
    note = "\n".join(filter(None, (splits.note, str(changed_folds(folder) or ""))))
    if note:
        logger.warning(note)
    return ConversionResult(folder, rows, note)


def _delete_stale(folder: Path, used: Mapping[str, str]) -> None:
    for stale in sorted(records.recorded_cases(folder) - set(used)):
        logger.info("%s: no longer in the collection, deleted from the data set", stale)
        records.delete_case(folder, stale)


def _nothing_to_train_on(rows: Sequence[ReportRow], report: Path, target: TargetName) -> SGNetError:
    reasons = [f"{row.patient}/{row.accession}: {row.reason}" for row in rows if row.reason]
    first = f" ({reasons[0]})" if reasons else ""
    return SGNetError(f"no accession can be trained on for the target {target}{first}; {report} says why")


def _row(
    accession: Accession, outcome: Findings | InputFileError | None, split: str, target: TargetName
) -> ReportRow:
    status: Status = "used"
    findings = Findings()
    if outcome is None:
        status, reason = "left out", f"missing: {', '.join(accession.missing(TARGETS[target].parts))}"
    elif isinstance(outcome, InputFileError):
        status, reason = "failed", f"{outcome.path.name}: {outcome.problem}; {outcome.remedy}"
    else:
        findings, reason = outcome, "; ".join(outcome.notes)
    return ReportRow(
        patient=accession.patient,
        accession=accession.name,
        case=accession.case,
        status=status,
        split=split,
        reason=reason,
        mi_before=findings.mi_before,
        mi_after=findings.mi_after,
        whole_mm3=findings.lesion_mm3.get("whole_seg"),
        core_mm3=findings.lesion_mm3.get("core_seg"),
    )
