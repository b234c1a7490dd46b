"""Measuring predicted masks: the tables of cases and of lesions that everything else is made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.lesion_metrics import LesionRow, lesion_rows
from sgnet_nnunet.evaluation.pairs import read_label_map, read_pairs
from sgnet_nnunet.evaluation.registry import case_metrics, measure
from sgnet_nnunet.evaluation.results import PredictedCase, Results, results_of_folders
from sgnet_nnunet.parallel import run_jobs

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("model", "fold", "case", "patient", "label")
"""The first columns of both tables; `label` is the name of a label or region."""

CASE_COLUMNS = (*KEYS, "empty", "missing")
"""Columns of the table of cases before those of the metrics.

`empty` says which mask has no voxel: `prediction`, `reference`, `both` or "". `missing` is true where
there was no prediction and an empty mask was scored in its place.
"""

LESION_COLUMNS = (*KEYS, *(field.name for field in fields(LesionRow)))
"""Columns of the table of lesions."""

Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured.

    Attributes:
        results: Where the masks came from.
        per_case: A row for each model, case and label: `CASE_COLUMNS`, then a column for each metric.
        per_lesion: A row for each lesion of a reference and each false positive: `LESION_COLUMNS`.
    """

    results: Results
    per_case: "pd.DataFrame"
    per_lesion: "pd.DataFrame"


def evaluate(
    predictions: Results | Path | str | Mapping[str, Path | str],
    references: Path | str | None = None,
    *,
    labels: Path | None = None,
    patients: Path | None = None,
    allow_missing: bool = False,
    presets: Sequence[str] = (),
    workers: int = 1,
) -> "pd.DataFrame":
    """Measure predicted masks against reference masks.

    The predictions are folders of masks named like the references; or those that nnU-Net's models made of
    their validation cases: `evaluate(results_of_models("501", ["SGNetTrainer"], ["0"]))`.

    >>> import tempfile
    >>> import numpy as np
    >>> from sgnet_nnunet.nifti import Volume, write_volume
    >>> folder = Path(tempfile.mkdtemp())
    >>> mask = np.zeros((4, 4, 4), dtype=np.uint8)
    >>> mask[1:3, 1:3, 1:3] = 1
    >>> for name in ("reference", "prediction"):
    ...     (folder / name).mkdir()
    ...     write_volume(folder / name / "case1.nii.gz", Volume(mask, np.eye(4)))
    >>> evaluate(folder / "prediction", folder / "reference")[["model", "case", "dice", "lesion_f1"]]
            model   case  dice  lesion_f1
    0  prediction  case1   1.0        1.0

    Args:
        predictions: Folder of predicted masks, a mapping of such folders by the models' names, or `Results`,
            which have the references, labels and patients already.
        references: Folder of reference masks.
        labels: nnU-Net's `dataset.json`; see `results_of_folders` for what is taken without it.
        patients: CSV with the columns `case` and `patient`.
        allow_missing: Score missing predictions as empty masks.
        presets: Names of BraTS presets whose metrics to add.
        workers: Number of processes.

    Returns:
        A row for each model, case and label, in this order: `CASE_COLUMNS`, then a column for each metric.

    Raises:
        SGNetError: If a folder or a mask cannot be used; the message says which and what to do.
    """
    if not isinstance(predictions, Results):
        if references is None:
            raise SGNetError("there are no references; give the folder of reference masks")
        predictions = results_of_folders(
            predictions, references, labels=labels, patients=patients, allow_missing=allow_missing
        )
    return measure_results(predictions, presets=presets, workers=workers).per_case


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Every model's prediction of one case, so that its reference is read once."""

    cases: tuple[PredictedCase, ...]
    results: Results
    presets: tuple[str, ...]


_Measured = tuple[list[Row], list[Row]]


def measure_results(
    results: Results,
    *,
    presets: Sequence[str] = (),
    workers: int = 1,
    on_start: Callable[[int], object] | None = None,
    on_done: Callable[[int], object] | None = None,
) -> Figures:
    """Measure every model's prediction of every case.

    The rows come in the order of `results.cases`, whatever worker is done first.

    Args:
        results: Where the masks are.
        presets: Names of BraTS presets whose metrics to add.
        workers: Number of processes; each needs less than 1 GB for images of 240 x 240 x 155 voxels.
        on_start: Called once with the number of predictions.
        on_done: Called with the number of predictions that have been measured since the last call.

    Raises:
        SGNetError: If a mask cannot be used, a preset does not exist, or a worker process was killed.
    """
    import pandas as pd  # noqa: PLC0415 - half a second

    names = [metric.name for metric in case_metrics(presets)]
    by_reference: dict[Path, list[PredictedCase]] = {}
    for case in results.cases:
        by_reference.setdefault(case.reference, []).append(case)
    # What a job carries to its worker is pickled each time: the cases of the others stay here.
    shared = replace(results, cases=())
    jobs = [
        _Job(cases=tuple(cases), results=shared, presets=tuple(presets)) for cases in by_reference.values()
    ]
    if on_start:
        on_start(len(results.cases))
    measured: dict[PredictedCase, _Measured] = {}
    for job, outcome in run_jobs(_measure_job, jobs, workers=workers):
        measured.update(zip(job.cases, outcome, strict=True))
        if on_done:
            on_done(len(job.cases))
    ordered = [measured[case] for case in results.cases]
    per_lesion = pd.DataFrame([row for _, rows in ordered for row in rows], columns=list(LESION_COLUMNS))
    # Without a lesion there is nothing to tell pandas which columns are numbers.
    return Figures(
        results=results,
        per_case=pd.DataFrame([row for rows, _ in ordered for row in rows], columns=[*CASE_COLUMNS, *names]),
        per_lesion=per_lesion.astype(dict.fromkeys(LESION_COLUMNS[len(KEYS) + 1 :], float)),
    )


def _measure_job(job: _Job) -> list[_Measured]:
    reference = read_label_map(job.cases[0].reference, known=job.results.known_values)
    metrics = case_metrics(job.presets)
    measured: list[_Measured] = []
    for case in job.cases:
        pairs = read_pairs(case, job.results, reference=reference)
        cases: list[Row] = []
        lesions: list[Row] = []
        for target, pair in zip(job.results.targets, pairs, strict=True):
            keys = dict(zip(KEYS, (case.model, case.fold, case.name, case.patient, target.name), strict=True))
            state = {"empty": pair.empty or "", "missing": case.prediction is None}
            cases.append({**keys, **state, **measure(pair, metrics)})
            lesions += [{**keys, **vars(row)} for row in lesion_rows(pair)]
        measured.append((cases, lesions))
    return measured


EMPTY_MASKS = {
    "prediction": "only the prediction is empty (scored worst)",
    "reference": "only the reference is empty (scored worst)",
    "both": "both masks are empty (left out of the means)",
}


def describe_empty(per_case: "pd.DataFrame") -> list[str]:
    """Return a line for each model, label and kind of empty masks, and one for missing predictions.

    Args:
        per_case: A table of cases.
    """
    lines = []
    for model, rows in per_case.groupby("model", sort=False):
        cases = rows["case"].nunique()
        if missing := rows.loc[rows["missing"], "case"].nunique():
            lines.append(f"{model}: {missing} of {cases} predictions are missing (scored as empty)")
        for label, of_label in rows[~rows["missing"]].groupby("label", sort=False):
            for state, meaning in EMPTY_MASKS.items():
                if number := int((of_label["empty"] == state).sum()):
                    lines.append(f"{model}, {label}: in {number} of {cases} cases {meaning}")
    return lines


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
