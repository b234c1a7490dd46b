"""The whole conversion: from the collection to a data set that nnU-Net accepts."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sgnet_nnunet.collection import Accession, scan_collection
from sgnet_nnunet.conversion.case import Findings
from sgnet_nnunet.conversion.description import dataset_json
from sgnet_nnunet.conversion.job import CaseJob, run_job
from sgnet_nnunet.conversion.options import ConversionOptions
from sgnet_nnunet.conversion.record import (
    HIDDEN_FOLDER,
    IMAGE_FOLDERS,
    claim_folder,
    discard_case,
    recorded_cases,
    refuse_foreign_folder,
    sweep_partial_files,
)
from sgnet_nnunet.conversion.report import ReportRow, Status, report_csv
from sgnet_nnunet.conversion.result import ConversionResult
from sgnet_nnunet.conversion.splits import Splits, Subset, grouped_splits, paper_splits, paper_subsets
from sgnet_nnunet.conversion.targets import TARGETS
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.io.atomic import write_text
from sgnet_nnunet.parallel import run_jobs

logger = logging.getLogger(__name__)

REPORT_NAME = "conversion_report.csv"


def convert_collection(
    root: Path,
    nnunet_raw: Path,
    options: ConversionOptions,
    *,
    on_start: Callable[[int], object] | None = None,
    on_done: Callable[[str], object] | None = None,
) -> ConversionResult:
    """Convert the collection below `root` into a data set in `nnunet_raw`.

    May be killed and run again: finished cases are kept, and the result is that of one go. Cases
    whose source files have gone are deleted, so that the data set is what `root` gives now.

    Args:
        root: The collection, laid out as `sgnet_nnunet.collection` describes.
        nnunet_raw: nnU-Net's folder of raw data sets; made if it is not there.
        options: What to make of it.
        on_start: Called once with the number of accessions to convert.
        on_done: Called with each case's name as it is finished, also if it failed or was already done.

    Returns:
        Where the data set is and what became of each accession.

    Raises:
        SGNetError: Nothing could be used, the folder holds something else, or cannot be written.
        InputFileError: With `options.strict`, for the first bad file.
    """
    accessions = scan_collection(root)
    _check_names(accessions)
    complete = [a for a in accessions if not a.missing(TARGETS[options.target].parts)]
    subsets = paper_subsets([a.patient for a in complete]) if options.split == "paper" else {}
    with _open_folder(nnunet_raw, options) as folder:
        _check_same_collection(folder, root, accessions)
        if on_start:
            on_start(len(complete))
        outcomes: dict[str, Findings | InputFileError] = {}
        jobs = [_job(accession, folder, options, subsets) for accession in complete]
        for job, outcome in run_jobs(run_job, jobs, workers=options.workers):
            if options.strict and isinstance(outcome, InputFileError):
                raise outcome
            outcomes[job.accession.case] = outcome
            if on_done:
                on_done(job.accession.case)
        return _finish(folder, accessions, outcomes, options, subsets)


@contextmanager
def _open_folder(nnunet_raw: Path, options: ConversionOptions) -> Iterator[Path]:
    """Yield the data set's folder, made, claimed and locked; turn failures to write into one line."""
    folder = nnunet_raw / options.folder_name
    try:
        if namesakes := sorted(set(nnunet_raw.glob(f"Dataset{options.dataset_id:03d}_*")) - {folder}):
            raise SGNetError(f"{namesakes[0]}: has the id {options.dataset_id} already; use another -d")
        refuse_foreign_folder(folder)
        (folder / HIDDEN_FOLDER / "cases").mkdir(parents=True, exist_ok=True)
        with FileLock(folder / HIDDEN_FOLDER / "lock", timeout=0):
            claim_folder(folder, options)
            sweep_partial_files(folder)
            for name in IMAGE_FOLDERS if options.split == "paper" else IMAGE_FOLDERS[:2]:
                (folder / name).mkdir(exist_ok=True)
            yield folder
    except Timeout as error:
        raise SGNetError(f"{folder}: another conversion is writing here; wait until it has ended") from error
    except OSError as error:
        raise SGNetError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); free space or "
            "check the permissions, then run again: what is done is kept"
        ) from error


def _check_names(accessions: Sequence[Accession]) -> None:
    by_case: dict[str, Accession] = {}
    for accession in accessions:
        other = by_case.setdefault(accession.case, accession)
        if other is not accession:
            raise SGNetError(
                f"{accession.case}: is the case of {other.patient}/{other.accession} and of "
                f"{accession.patient}/{accession.accession}; rename one of the two"
            )


def _check_same_collection(folder: Path, root: Path, accessions: Sequence[Accession]) -> None:
    recorded = recorded_cases(folder)
    if recorded and recorded.isdisjoint(accession.case for accession in accessions):
        raise SGNetError(
            f"{folder}: holds another collection than {root}, with no case in common; "
            "use another -d or delete the folder"
        )


def _job(
    accession: Accession, folder: Path, options: ConversionOptions, subsets: Mapping[str, Subset]
) -> CaseJob:
    return CaseJob(
        accession=accession,
        dataset_folder=folder,
        for_test=subsets.get(accession.patient) == "test",
        target=options.target,
        register=options.register,
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
    for stale in sorted(recorded_cases(folder) - set(used)):
        logger.info("%s: no longer in the collection, deleted from the data set", stale)
        discard_case(folder, stale)
    training = [case for case, patient in used.items() if subsets.get(patient) != "test"]
    splits = paper_splits(used, subsets) if subsets else grouped_splits(used)
    split_of_case = {
        case: subsets[patient] if subsets else _fold_of(case, splits) for case, patient in used.items()
    }
    rows = tuple(
        _row(accession, outcomes.get(accession.case), split_of_case.get(accession.case, ""), options)
        for accession in accessions
    )
    write_text(folder / REPORT_NAME, report_csv(rows))
    if splits.folds:
        write_text(folder / "splits_final.json", json.dumps(splits.folds, indent=2) + "\n")
    else:
        (folder / "splits_final.json").unlink(missing_ok=True)
    if not training:
        (folder / "dataset.json").unlink(missing_ok=True)
        raise SGNetError(
            f"no accession can be trained on for the target {options.target}; {folder / REPORT_NAME} says why"
        )
    description = dataset_json(options, training_cases=len(training))
    write_text(folder / "dataset.json", json.dumps(description, indent=2) + "\n")
    if splits.note:
        logger.warning(splits.note)
    return ConversionResult(folder, rows, splits.note)


def _fold_of(case: str, splits: Splits) -> str:
    return next((str(number) for number, fold in enumerate(splits.folds) if case in fold["val"]), "")


def _row(
    accession: Accession, outcome: Findings | InputFileError | None, split: str, options: ConversionOptions
) -> ReportRow:
    def row(status: Status, reason: str, findings: Findings = Findings()) -> ReportRow:  # noqa: B008
        return ReportRow(
            patient=accession.patient,
            accession=accession.accession,
            case=accession.case,
            status=status,
            split=split,
            reason=reason,
            mi_before=findings.mi_before,
            mi_after=findings.mi_after,
            whole_mm3=findings.lesion_mm3.get("whole_seg"),
            core_mm3=findings.lesion_mm3.get("core_seg"),
        )

    if outcome is None:
        missing = accession.missing(TARGETS[options.target].parts)
        return row("left out", f"missing: {', '.join(missing)}")
    if isinstance(outcome, InputFileError):
        return row("failed", f"{outcome.path.name}: {outcome.problem}; {outcome.remedy}")
    return row("used", "; ".join(outcome.notes), outcome)
