"""Measurement of predicted masks: the table of cases and the table of lesions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.lesion_metrics import LesionRow, lesion_rows
from sgnet_nnunet.evaluation.pairs import MaskPair, read_label_map, read_pairs
from sgnet_nnunet.evaluation.registry import Metric, case_metrics, measure
from sgnet_nnunet.evaluation.results import PredictedCase, Results, Target, results_of_folders
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


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The measured tables and what they were measured on.

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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Measured:
    """What was measured of one label of a prediction, in few bytes: those of all cases are kept.

    Attributes:
        keys: Values of `CASE_COLUMNS`.
        metrics: Value of each metric.
        status: Status of each lesion.
        lesions: The other values of `LesionRow`, shape (lesions, values).
    """

    keys: tuple[object, ...]
    metrics: NDArray[np.float64]
    status: tuple[str, ...]
    lesions: NDArray[np.float64]


def measure_results(
    results: Results,
    *,
    presets: Sequence[str] = (),
    workers: int = 1,
    on_done: Callable[[int], object] = lambda _: None,
) -> Measurements:
    """Measure every model's prediction of every case; the rows come in the order of `results.cases`.

    Args:
        results: Where the masks are.
        presets: Names of BraTS presets whose metrics to add.
        workers: Number of processes; each needs less than 1 GB for images of 240 x 240 x 155 voxels.
        on_done: Called with the number of predictions that have been measured since the last call.

    Raises:
        SGNetError: If a mask cannot be used, a preset does not exist, or a worker process was killed.
    """
    import pandas as pd  # noqa: PLC0415 - half a second

    names = [metric.name for metric in case_metrics(presets)]
    # Every model's prediction of one case makes one job, so that its reference is read once.
    jobs: dict[Path, list[PredictedCase]] = {}
    for case in results.cases:
        jobs.setdefault(case.reference, []).append(case)
    # What a job carries to its worker is pickled each time: the cases of the others stay here.
    measure_job = partial(_measure_job, results=replace(results, cases=()), presets=tuple(presets))
    measured: dict[PredictedCase, list[_Measured]] = {}
    for cases, outcome in run_jobs(measure_job, list(jobs.values()), workers=workers):
        measured.update(zip(cases, outcome, strict=True))
        on_done(len(cases))
    ordered = [each for case in results.cases for each in measured[case]]
    number = len(KEYS) + 1  # columns of the lesions' table that are texts
    texts = [(*each.keys[: len(KEYS)], status) for each in ordered for status in each.status]
    lesions = [np.empty((0, len(LESION_COLUMNS) - number)), *(each.lesions for each in ordered)]
    metrics = np.reshape([each.metrics for each in ordered], (len(ordered), len(names)))
    return Measurements(
        results=results,
        per_case=pd.DataFrame([each.keys for each in ordered], columns=list(CASE_COLUMNS)).join(
            pd.DataFrame(metrics, columns=names)
        ),
        per_lesion=pd.DataFrame(texts, columns=list(LESION_COLUMNS[:number])).join(
            pd.DataFrame(np.concatenate(lesions), columns=list(LESION_COLUMNS[number:]))
        ),
    )


def _measure_job(
    cases: Sequence[PredictedCase], *, results: Results, presets: Sequence[str]
) -> list[list[_Measured]]:
    reference = read_label_map(cases[0].reference, known=results.known_values)
    metrics = case_metrics(presets)
    return [
        [
            _measure(case, target, pair, metrics)
            for target, pair in zip(
                results.targets, read_pairs(case, results, reference=reference), strict=True
            )
        ]
        for case in cases
    ]


def _measure(case: PredictedCase, target: Target, pair: MaskPair, metrics: Sequence[Metric]) -> _Measured:
    keys = (case.model, case.fold, case.name, case.patient, target.name)
    values = [tuple(vars(row).values()) for row in lesion_rows(pair)]
    return _Measured(
        keys=(*keys, pair.empty or "", case.prediction is None),
        metrics=np.fromiter(measure(pair, metrics).values(), np.float64, len(metrics)),
        status=tuple(status for status, *_ in values),
        lesions=np.reshape([others for _, *others in values], (len(values), -1 + len(fields(LesionRow)))),
    )


EMPTY_MASKS = {
    "prediction": "only the prediction is empty (scored worst)",
    "reference": "only the reference is empty (scored worst)",
    "both": "both masks are empty (left out of the means)",
}


def describe_empty(per_case: "pd.DataFrame") -> list[str]:
    """Return a line for each model, label and kind of empty masks, and one for missing predictions."""
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
