"""The figures of a comparison, as the tables that everything else is made from."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.lesion_metrics import LesionRow, lesion_rows
from sgnet_nnunet.evaluation.mask_metrics import Metric
from sgnet_nnunet.evaluation.pairs import MaskPair, read_label_map, read_pairs
from sgnet_nnunet.evaluation.registry import CASE_METRICS, PRESETS, measure
from sgnet_nnunet.evaluation.results import PredictedCase, Results, Target
from sgnet_nnunet.parallel import run_jobs

KEYS = ("model", "fold", "case", "patient", "label")
"""The first columns of both tables; `label` is the name of a label or region."""

CASE_COLUMNS = (*KEYS, "empty", "missing")
"""Columns of `per_case` before those of the metrics.

`empty` says which mask has no voxel: `prediction`, `reference`, `both` or "". `missing` is true where
there was no prediction and an empty mask was scored in its place.
"""

LESION_COLUMNS = (
    *KEYS,
    "status",
    "dice",
    "hd95_mm",
    "volume_mm3",
    "diameter_mm",
    "x_mm",
    "y_mm",
    "z_mm",
)
"""Columns of `per_lesion`: those of `evaluation.lesion_rows.LesionRow`, its centroid in world mm (RAS+)."""

HEADLINE_METRICS = (
    "dice",
    "precision",
    "recall",
    "hd95_directed_mm",
    "nsd_1mm",
    "lesion_sensitivity",
    "lesion_precision",
    "lesion_f1",
    "false_positives",
)
"""The metrics that tables show first and that models are tested on; `evaluation.catalogue` has them all."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured.

    Attributes:
        results: Where the masks came from.
        per_case: A row for each model, case and label: `CASE_COLUMNS`, then a column for each metric.
        per_lesion: A row for each lesion of a reference and each false positive: `LESION_COLUMNS`.
    """

    results: Results
    per_case: pd.DataFrame
    per_lesion: pd.DataFrame


def describe_empty(per_case: pd.DataFrame) -> list[str]:
    """Return a line for each model and label with an empty mask, and one for missing predictions.

    Args:
        per_case: The table of `comparison.figures.Figures`.
    """
    lines = []
    for model, rows in per_case.groupby("model", sort=False):
        cases = rows["case"].nunique()
        if missing := rows.loc[rows["missing"], "case"].nunique():
            lines.append(f"{model}: {count_of(missing, 'prediction')} of {cases} missing, scored as empty")
        for label, of_label in rows.groupby("label", sort=False):
            number = of_label.loc[~of_label["missing"], "empty"].value_counts()
            for state, words in (
                ("prediction", "empty, scored worst"),
                ("reference", "not empty where the reference is, scored worst"),
                ("both", "empty like the reference, left out of the means"),
            ):
                if count := int(number.get(state, 0)):
                    lines.append(f"{model}, {label}: {count_of(count, 'prediction')} {words}")
    return lines


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class MeasuredCase:
    """The rows of one model's answer to one case.

    Attributes:
        per_case: A row for each target, as in `Figures.per_case`.
        per_lesion: A row for each lesion of each target, as in `Figures.per_lesion`.
    """

    per_case: tuple[Row, ...]
    per_lesion: tuple[Row, ...]


def metrics_with(presets: Iterable[str]) -> tuple[Metric, ...]:
    """Return the metrics of every case and those of the named presets.

    Raises:
        SGNetError: If there is no such preset.
    """
    metrics = CASE_METRICS
    for preset in dict.fromkeys(presets):
        if preset not in PRESETS:
            raise SGNetError(f"there is no preset {preset!r}; name {' or '.join(PRESETS)}")
        metrics += PRESETS[preset]
    return metrics


def measure_case(
    case: PredictedCase,
    targets: Sequence[Target],
    pairs: Sequence[MaskPair],
    metrics: Sequence[Metric] = CASE_METRICS,
) -> MeasuredCase:
    """Measure one model's answer to one case.

    Args:
        case: The case.
        targets: The labels or regions.
        pairs: The masks of each, as `results.read_pair.read_pairs` returns them.
        metrics: What to measure.
    """
    per_case: list[Row] = []
    per_lesion: list[Row] = []
    for target, pair in zip(targets, pairs, strict=True):
        keys: Row = {
            "model": case.model,
            "fold": case.fold,
            "case": case.name,
            "patient": case.patient,
            "label": target.name,
        }
        state = {"empty": pair.empty or "", "missing": case.prediction is None}
        per_case.append(keys | state | measure(pair, metrics))
        per_lesion += [keys | _lesion(row) for row in lesion_rows(pair)]
    return MeasuredCase(per_case=tuple(per_case), per_lesion=tuple(per_lesion))


def _lesion(row: LesionRow) -> Row:
    x, y, z = row.centroid_mm
    return {
        "status": row.status,
        "dice": row.dice,
        "hd95_mm": row.hd95_mm,
        "volume_mm3": row.volume_mm3,
        "diameter_mm": row.diameter_mm,
        "x_mm": x,
        "y_mm": y,
        "z_mm": z,
    }


TEXT_OF_LESION = (*KEYS, "status")


@dataclass(frozen=True, kw_only=True)
class _Job:
    """Every model's answer to one case, so that its reference is read once."""

    cases: tuple[PredictedCase, ...]
    results: Results
    presets: tuple[str, ...]


def measure_results(
    results: Results,
    *,
    presets: Sequence[str] = (),
    workers: int = 1,
    on_start: Callable[[int], object] | None = None,
    on_done: Callable[[int], object] | None = None,
) -> Figures:
    """Measure every model's answer to every case.

    The rows come in the order of `results.cases`, whatever worker is done first.

    Args:
        results: Where the masks are.
        presets: Names of BraTS presets whose scores to add.
        workers: Number of processes; each needs less than 1 GB for images of 240 x 240 x 155 voxels.
        on_start: Called once with the number of predictions.
        on_done: Called with the number of predictions that have been measured since the last call.

    Raises:
        SGNetError: If a mask cannot be used, a preset does not exist, or a worker died.
    """
    metrics_with(presets)
    jobs = _jobs(results, tuple(presets))
    if on_start:
        on_start(len(results.cases))
    measured: dict[PredictedCase, MeasuredCase] = {}
    for job, outcome in run_jobs(_measure, jobs, workers=workers):
        measured.update(zip(job.cases, outcome, strict=True))
        if on_done:
            on_done(len(job.cases))
    ordered = [measured[case] for case in results.cases]
    return Figures(
        results=results,
        per_case=_table([row for case in ordered for row in case.per_case], CASE_COLUMNS),
        per_lesion=_lesion_table([row for case in ordered for row in case.per_lesion]),
    )


def _jobs(results: Results, presets: tuple[str, ...]) -> list[_Job]:
    by_reference: dict[object, list[PredictedCase]] = {}
    for case in results.cases:
        by_reference.setdefault(case.reference, []).append(case)
    # What a job carries to its worker is pickled each time: the cases of the others stay here.
    shared = Results(
        dataset=results.dataset,
        targets=results.targets,
        known_values=results.known_values,
        ignored_value=results.ignored_value,
        models=results.models,
        cases=(),
    )
    return [_Job(cases=tuple(cases), results=shared, presets=presets) for cases in by_reference.values()]


def _measure(job: _Job) -> tuple[MeasuredCase, ...]:
    reference = read_label_map(job.cases[0].reference, known=job.results.known_values)
    metrics = metrics_with(job.presets)
    return tuple(
        measure_case(case, job.results.targets, read_pairs(case, job.results, reference=reference), metrics)
        for case in job.cases
    )


def _table(rows: list[Row], columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(columns))


def _lesion_table(rows: list[Row]) -> pd.DataFrame:
    table = _table(rows, LESION_COLUMNS)
    # Without a lesion there is nothing to tell pandas which columns are numbers.
    return table.astype({name: float for name in LESION_COLUMNS if name not in TEXT_OF_LESION})
