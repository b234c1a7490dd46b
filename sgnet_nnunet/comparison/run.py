"""All cases measured, side by side in several processes, into two tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from sgnet_nnunet.comparison.figures import CASE_COLUMNS, KEYS, LESION_COLUMNS, Figures
from sgnet_nnunet.comparison.measure import MeasuredCase, Row, measure_case, metrics_with
from sgnet_nnunet.parallel import run_jobs
from sgnet_nnunet.results.case import PredictedCase, Results
from sgnet_nnunet.results.read_pair import read_label_map, read_pairs

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
