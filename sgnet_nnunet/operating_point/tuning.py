"""Tuning: the point for future cases, and what it is honestly worth."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.operating_point.choose import Objective, choose
from sgnet_nnunet.operating_point.counts import Grid, Tally, count, count_default
from sgnet_nnunet.operating_point.crossfit import cross_fit
from sgnet_nnunet.operating_point.froc import Froc, cut_cases, froc_at
from sgnet_nnunet.operating_point.gain import Gain, gain_of
from sgnet_nnunet.operating_point.point import OperatingPoint
from sgnet_nnunet.operating_point.saved import probabilities_path, read_model
from sgnet_nnunet.results.case import PredictedCase


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuning:
    """A model's operating point and how it was found.

    Attributes:
        model: The data set's name and the model folder's.
        folds: Folds whose validation cases were used.
        patients: Number of patients.
        objective: What the point was chosen for.
        grid: The points to choose from.
        point: The point chosen on all cases.
        default: All lesions in nnU-Net's own segmentation.
        cross_fitted: All lesions, each case's at a point that was chosen without it: what to expect.
        resubstitution: All lesions at the chosen point, which has seen them: too good.
        gain: The cross-fitted figures less the default's.
        fold_points: The point that was chosen for each group of cases on the others.
        frocs: The FROC curve with nothing removed, and with what the point removes if that is anything.
    """

    model: str
    folds: tuple[str, ...]
    patients: int
    objective: Objective
    grid: Grid
    point: OperatingPoint
    default: Tally
    cross_fitted: Tally
    resubstitution: Tally
    gain: Gain
    fold_points: dict[str, OperatingPoint]
    frocs: tuple[Froc, ...]


def tune(
    cases: Sequence[PredictedCase],
    *,
    model_folder: Path,
    objective: Objective | None = None,
    grid: Grid | None = None,
    workers: int = 1,
    on_done: Callable[[PredictedCase], object] = lambda _: None,
) -> Tuning:
    """Choose a model's operating point from its fold predictions.

    Args:
        cases: Validation cases of one or more folds, predicted with `--npz`.
        model_folder: nnU-Net's folder of the training, TRAINER__PLANS__CONFIGURATION.
        objective: What to choose for; the highest lesion F1 by default.
        grid: The points to choose from.
        workers: Processes; each holds one case's probabilities.
        on_done: Called with each case as it is read.

    Raises:
        InputFileError: As `operating_point.saved.read_case`.
        SGNetError: If there is no lesion to find, no other patient to choose on, or no point with the
            wanted sensitivity.
    """
    objective, grid = objective or Objective(), grid or Grid()
    model = read_model(model_folder)
    for case in cases:
        _check_honest(case)
        probabilities_path(case, model)
    levels = cut_cases(
        cases, model_folder=model_folder, thresholds=grid.thresholds, workers=workers, on_done=on_done
    )
    counts = count(levels, grid.volumes_mm3)
    if not counts.lesions.sum():
        raise SGNetError(
            f"{model.name}: no reference has a lesion, so there is nothing to find; name other folds"
        )
    objective.check_reachable(counts.pooled)
    index = choose(counts.pooled, objective, grid)
    default = count_default(levels)
    fit = cross_fit(cases, counts, objective=objective, grid=grid)
    fitted = counts.at(fit.points)
    return Tuning(
        model=model.name,
        folds=tuple(dict.fromkeys(case.fold for case in cases)),
        patients=len({case.patient for case in cases}),
        objective=objective,
        grid=grid,
        point=grid.point(index),
        default=default.pooled,
        cross_fitted=fitted.pooled,
        resubstitution=counts.at(np.tile(index, (len(cases), 1))).pooled,
        gain=gain_of(fitted, default, patients=[case.patient for case in cases]),
        fold_points={group: grid.point(chosen) for group, chosen in fit.chosen.items()},
        frocs=tuple(froc_at(counts, grid, volume=volume) for volume in sorted({0, index[1]})),
    )


def _check_honest(case: PredictedCase) -> None:
    if case.fold == "all":
        raise SGNetError(
            f"{case.model}: fold all is validated on the cases it was trained on, where every network looks "
            "better than it is; train folds 0 to 4 and name those"
        )
