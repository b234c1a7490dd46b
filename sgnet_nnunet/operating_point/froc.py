"""The FROC curve: lesion sensitivity against false positives per case, over thresholds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.operating_point.counts import Counts, Grid, count
from sgnet_nnunet.operating_point.levels import CaseLevels, levels_of
from sgnet_nnunet.operating_point.saved import read_case, read_model
from sgnet_nnunet.parallel import run_jobs
from sgnet_nnunet.results.case import PredictedCase


@dataclass(frozen=True, eq=False)
class Froc:
    """A free-response ROC curve, its points in the order of rising thresholds.

    Lesions are pooled over all cases; `operating_point.levels` says which are found and which false.

    Attributes:
        thresholds: Thresholds on the foreground probability, shape (points,).
        sensitivity: Share of the reference's lesions that are found, shape (points,).
        false_positives_per_case: False positives per case, shape (points,).
        smallest_lesion_mm3: Predicted lesions of a smaller volume in mm3 were removed.
    """

    thresholds: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    false_positives_per_case: NDArray[np.float64]
    smallest_lesion_mm3: float = 0.0


def froc_of(
    cases: Sequence[PredictedCase], *, model_folder: Path, grid: Grid | None = None, workers: int = 1
) -> Froc | None:
    """Return one model's curve over its cases, nothing removed.

    It is None if a case has no probabilities, or if the data set has an ignore label.

    Args:
        cases: All cases of one model.
        model_folder: nnU-Net's folder of its training, TRAINER__PLANS__CONFIGURATION.
        grid: Its thresholds are the points of the curve; those of `sgnet tune` by default.
        workers: Processes; each holds one case's probabilities.

    Raises:
        InputFileError: As `operating_point.saved.read_case`.
    """
    grid = grid or Grid()
    if not cases or any(case.probabilities is None for case in cases):
        return None
    if read_model(model_folder).label_manager.has_ignore_label:
        return None
    levels = cut_cases(cases, model_folder=model_folder, thresholds=grid.thresholds, workers=workers)
    return froc_at(count(levels, (0.0,)), Grid(thresholds=grid.thresholds, volumes_mm3=(0.0,)), volume=0)


def froc_at(counts: Counts, grid: Grid, *, volume: int) -> Froc:
    """Return the curve at one of the grid's smallest volumes, given by its index."""
    tally = counts.pooled
    return Froc(
        np.array(grid.thresholds),
        tally.sensitivity[:, volume],
        tally.false_positives_per_case[:, volume],
        grid.volumes_mm3[volume],
    )


def cut_cases(
    cases: Sequence[PredictedCase],
    *,
    model_folder: Path,
    thresholds: Sequence[float],
    workers: int = 1,
    on_done: Callable[[PredictedCase], object] = lambda _: None,
) -> list[CaseLevels]:
    """Read each case and cut it at every threshold; the results are in the order of the cases.

    Args:
        cases: Cases of one model.
        model_folder: nnU-Net's folder of its training.
        thresholds: Thresholds on the foreground probability.
        workers: Processes; each holds one case's probabilities.
        on_done: Called with each case as it is finished.

    Raises:
        InputFileError: As `operating_point.saved.read_case`.
        SGNetError: If the data set has an ignore label: nobody knows what lies below it.
    """
    if read_model(model_folder).label_manager.has_ignore_label:
        raise SGNetError(
            f"{model_folder}: the data set has an ignore label, and a lesion found there is neither true "
            "nor false; tune on cases without"
        )
    cut = partial(_cut_case, model_folder=model_folder, thresholds=tuple(thresholds))
    levels: dict[PredictedCase, CaseLevels] = {}
    for case, outcome in run_jobs(cut, cases, workers=workers):
        levels[case] = outcome
        on_done(case)
    return [levels[case] for case in cases]


def _cut_case(case: PredictedCase, *, model_folder: Path, thresholds: tuple[float, ...]) -> CaseLevels:
    model = read_model(model_folder)
    saved = read_case(case, model)
    return levels_of(
        saved.probabilities,
        saved.reference,
        thresholds=thresholds,
        label_manager=model.label_manager,
        spacing=saved.spacing,
    )
