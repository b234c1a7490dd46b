"""Choosing one point of the grid."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.froc import (
    SMALLEST_SHARE,
    Counts,
    Froc,
    Grid,
    Tally,
    count,
    count_default,
    cut_cases,
    froc_at,
    probabilities_path,
    read_model,
)
from sgnet_nnunet.evaluation.operating_point import (
    FORMAT,
    VERSION,
    OperatingPoint,
    Provenance,
    checksum_of,
    combine_checksums,
    describe_provenance,
    name_of_model,
)
from sgnet_nnunet.evaluation.results import PredictedCase
from sgnet_nnunet.files import write_text

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What an operating point is chosen for.

    Attributes:
        sensitivity: Lesion sensitivity to hold at the fewest false positives; None for the highest
            lesion F1.

    Raises:
        ValueError: If the sensitivity is not above 0 and at most 1.
    """

    sensitivity: float | None = None

    def __post_init__(self) -> None:
        if self.sensitivity is not None and not 0 < self.sensitivity <= 1:
            raise ValueError(f"the sensitivity must be above 0 and at most 1; got {self.sensitivity}")

    def __str__(self) -> str:
        if self.sensitivity is None:
            return "highest lesion F1"
        return f"fewest false positives at a lesion sensitivity of {self.sensitivity:g}"

    def check_reachable(self, tally: Tally) -> None:
        """Check that a point of the grid has the wanted sensitivity.

        Raises:
            SGNetError: If none has; it tells the best that is reachable.
        """
        best = float(tally.sensitivity.max())
        if self.sensitivity is not None and not best >= self.sensitivity:
            raise SGNetError(
                f"no operating point reaches a lesion sensitivity of {self.sensitivity:g}: the best is "
                f"{best:.3f}, {tally.found.max()} of {tally.lesions} lesions; ask for less or train longer"
            )


def choose(tally: Tally, objective: Objective, grid: Grid) -> tuple[int, int]:
    """Return the index of (threshold, volume) that serves an objective best.

    Points that serve it alike are told apart by how near to the default they are: first by the
    threshold's distance from 0.5, then by the volume. Where none has the wanted sensitivity, the most
    sensitive are the best.

    Args:
        tally: Lesions counted at each point, shape (thresholds, volumes).
        objective: What to choose for.
        grid: The points.
    """
    threshold, volume = np.meshgrid(grid.thresholds, grid.volumes_mm3, indexing="ij")
    keys = (volume, np.abs(threshold - DEFAULT_THRESHOLD), *_losses(tally, objective))
    # lexsort's last key is its first concern.
    best = int(np.lexsort([key.ravel() for key in keys])[0])
    return best // len(grid.volumes_mm3), best % len(grid.volumes_mm3)


def _losses(tally: Tally, objective: Objective) -> tuple[NDArray[np.float64], ...]:
    """Return what a good point has little of, the first concern last, each (thresholds, volumes)."""
    if objective.sensitivity is None:
        return (-tally.f1,)
    short = np.maximum(objective.sensitivity - tally.sensitivity, 0)
    return -tally.sensitivity, tally.false_positives_per_case, short


GROUPS_OF_ONE_FOLD = 5


@dataclass(frozen=True, eq=False)
class CrossFit:
    """What was chosen for each group of cases on the others.

    Attributes:
        groups: Name of each case's group, shape (cases,).
        chosen: Index of (threshold, volume) for each group.
    """

    groups: NDArray[np.str_]
    chosen: dict[str, tuple[int, int]]

    @property
    def points(self) -> NDArray[np.intp]:
        """Index of (threshold, volume) of each case's point, shape (cases, 2)."""
        return np.array([self.chosen[str(group)] for group in self.groups], dtype=np.intp)


def cross_fit(
    cases: Sequence[PredictedCase], counts: Counts, *, objective: Objective, grid: Grid
) -> CrossFit:
    """Choose a point for each group of cases on the cases of all other groups and patients.

    The groups are the folds; with one fold they are its patients, dealt out to five groups.

    Args:
        cases: The cases.
        counts: Their lesions, in the same order.
        objective: What to choose for.
        grid: The points to choose from.

    Raises:
        SGNetError: If a group would leave no patient, or no lesion, to choose on.
    """
    groups = _groups(cases)
    patients = np.array([case.patient for case in cases])
    chosen = {}
    for group in dict.fromkeys(map(str, groups)):
        # A patient may have scans in several folds: nnU-Net's own splits do not look at patients.
        others = ~np.isin(patients, patients[groups == group])
        if not counts.lesions[others].sum():
            raise SGNetError(
                f"nothing to choose an operating point on without {group}: no other patient has a lesion; "
                "take more folds or cases"
            )
        chosen[group] = choose(counts.of(others).pooled, objective, grid)
    return CrossFit(groups, chosen)


def _groups(cases: Sequence[PredictedCase]) -> NDArray[np.str_]:
    if len({case.fold for case in cases}) > 1:
        return np.array([f"fold {case.fold}" for case in cases])
    patients = sorted({case.patient for case in cases})
    group = {patient: i % GROUPS_OF_ONE_FOLD for i, patient in enumerate(patients)}
    return np.array([f"group {group[case.patient]}" for case in cases])


SEED = 0
RESAMPLES = 2000
CONFIDENCE = 0.95

_Sums = NDArray[np.float64]
_Figure = Callable[[_Sums, _Sums, _Sums, _Sums], _Sums]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference of two figures over all cases, with its 95 % interval over patients.

    Attributes:
        value: The difference.
        low: Lower end of the interval; NaN with a single patient.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Figures at tuned points less those by default.

    Attributes:
        f1: Lesion F1.
        sensitivity: Lesion sensitivity.
        false_positives_per_case: False positives per case; fewer are better.
    """

    f1: Difference
    sensitivity: Difference
    false_positives_per_case: Difference


def gain_of(tuned: Counts, default: Counts, *, patients: Sequence[str]) -> Gain:
    """Return what tuned points gain, with intervals over patients (percentile bootstrap).

    Patients are drawn again with all their scans, the two counts of a scan together. The points stay
    as they were chosen, so the intervals do not tell how much these would vary.

    Args:
        tuned: Lesions of each case at its point, shape (cases,).
        default: Lesions of each case by default, shape (cases,).
        patients: The patient of each case.
    """
    _, patient = np.unique(patients, return_inverse=True)
    lesions, cases, *counts = (
        np.bincount(patient, weights=column).astype(np.float64)
        for column in (
            tuned.lesions,
            np.ones_like(tuned.lesions),
            tuned.found,
            tuned.false,
            default.found,
            default.false,
        )
    )

    def difference(figure: _Figure) -> Difference:
        return _difference(figure, (lesions, cases, *counts))

    return Gain(
        f1=difference(lambda lesions, _, found, false: 2 * found / np.maximum(found + false + lesions, 1)),
        sensitivity=difference(lambda lesions, _, found, __: found / np.maximum(lesions, 1)),
        false_positives_per_case=difference(lambda _, cases, __, false: false / cases),
    )


def _difference(figure: _Figure, columns: tuple[_Sums, ...]) -> Difference:
    """Return a figure's gain; the columns, each (patients,), are added up over the patients drawn."""
    from scipy.stats import bootstrap  # noqa: PLC0415 - it takes a second to import

    def gain(*drawn: _Sums, axis: int = -1) -> _Sums:
        lesions, cases, found, false, default_found, default_false = (c.sum(axis=axis) for c in drawn)
        return figure(lesions, cases, found, false) - figure(lesions, cases, default_found, default_false)

    value = float(gain(*columns))
    if columns[0].size < 2:  # noqa: PLR2004
        return Difference(value=value, low=nan, high=nan)
    low, high = bootstrap(
        columns,
        gain,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(SEED),  # its name before SciPy 1.15, and still understood
    ).confidence_interval
    return Difference(value=value, low=float(low), high=float(high))


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuning:
    """A model's operating point and how it was found.

    Attributes:
        provenance: The networks and settings it is tuned for.
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

    provenance: Provenance
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
        provenance=_provenance(model_folder, tuple(sorted({case.fold for case in cases}))),
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


def _provenance(model_folder: Path, folds: tuple[str, ...]) -> Provenance:
    checkpoints = (model_folder / f"fold_{fold}" / "checkpoint_final.pth" for fold in folds)
    return Provenance(
        model=name_of_model(model_folder),
        engine="tiled",
        folds=folds,
        weights_sha256=combine_checksums(checksum_of(path) for path in checkpoints if path.is_file()),
        mirroring=True,
    )


def _check_honest(case: PredictedCase) -> None:
    if case.fold == "all":
        raise SGNetError(
            f"{case.model}: fold all is validated on the cases it was trained on, where every network looks "
            "better than it is; train folds 0 to 4 and name those"
        )


FIGURES = ("f1", "sensitivity", "false_positives_per_case")


def write_record(path: Path, tuning: Tuning) -> None:
    """Write a tuning as JSON, atomically. A figure that does not exist is null."""
    write_text(path, json.dumps(_content(tuning), indent=2, allow_nan=False) + "\n")


def _content(tuning: Tuning) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "tuned_for": describe_provenance(tuning.provenance),
        "cases": tuning.default.cases,
        "patients": tuning.patients,
        "lesions": tuning.default.lesions,
        "smallest_share_of_true_lesions": SMALLEST_SHARE,
        "objective": str(tuning.objective),
        "wanted_sensitivity": tuning.objective.sensitivity,
        "point": asdict(tuning.point),
        "default": _figures(tuning.default),
        "cross_fitted": _figures(tuning.cross_fitted),
        "resubstitution": _figures(tuning.resubstitution),
        "gain": {name: _record_difference(getattr(tuning.gain, name)) for name in FIGURES},
        "points_chosen_without": {group: asdict(point) for group, point in tuning.fold_points.items()},
        "grid": asdict(tuning.grid),
        "froc": [_froc(froc) for froc in tuning.frocs],
    }


def _figures(tally: Tally) -> dict[str, float]:
    return {
        **{name: float(getattr(tally, name)) for name in FIGURES},
        "found": int(tally.found),
        "missed": tally.lesions - int(tally.found),
        "false_positives": int(tally.false),
    }


def _record_difference(difference: Difference) -> dict[str, float | None]:
    return {name: value if isfinite(value) else None for name, value in asdict(difference).items()}


def _froc(froc: Froc) -> dict[str, Any]:
    return {
        "min_lesion_volume_mm3": froc.min_lesion_volume_mm3,
        "thresholds": froc.thresholds.tolist(),
        "sensitivity": froc.sensitivity.tolist(),
        "false_positives_per_case": froc.false_positives_per_case.tolist(),
    }
