"""Tuning of a model's operating point on its validation cases, predicted as `sgnet predict` does."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.calibration import (
    FEWEST,
    Reliability,
    cross_fitted,
    fit_calibration,
    reliability_of,
)
from sgnet_nnunet.evaluation.froc import (
    MIN_TRUE_SHARE,
    RATES,
    Candidates,
    Counted,
    Froc,
    LesionCounts,
    SearchGrid,
    count_lesions,
    froc_at,
    has_ignore_label,
    read_reference,
)
from sgnet_nnunet.evaluation.rejection import (
    Components,
    Rejection,
    RejectorSettings,
    find_components,
    fit_rejection,
)
from sgnet_nnunet.evaluation.results import PredictedCase, results_of_models
from sgnet_nnunet.evaluation.statistics import Estimate, Resampling, estimate
from sgnet_nnunet.files import checksum_of, read_json, write_json
from sgnet_nnunet.inference.component_rejector import Scene
from sgnet_nnunet.inference.operating_point import (
    COPY,
    DEFAULT_THRESHOLD,
    FILE_NAME,
    FORMAT,
    VERSION,
    VERSION_OF_REJECTOR,
    OperatingPoint,
    Provenance,
    combine_checksums,
    foreground_probability,
    is_kept,
)
from sgnet_nnunet.inference.plan import read_description
from sgnet_nnunet.inference.predictor import Logits, PredictionOptions, Predictor
from sgnet_nnunet.nnunet import KEPT_BY_ZIP, SPLITS, ModelName, find_dataset, trained_folds

logger = logging.getLogger(__name__)

GROUPS_OF_ONE_FOLD = 5
SEED = 0


def choose(counts: LesionCounts, grid: SearchGrid, *, sensitivity: float | None = None) -> tuple[int, int]:
    """Return the index of the best (threshold, rule).

    It has the highest lesion F1 or, if a sensitivity is given, the fewest false positives among the points
    that reach it; where none does, the most sensitive ones are the best. Among equal points the one nearest
    to nnU-Net's own is taken: first by the threshold's distance from 0.5, then by the volume, then by the
    mean probability, so that as few lesions as possible are removed.
    """
    volumes, probabilities = np.array(grid.rules).T
    threshold, volume = np.meshgrid(grid.thresholds, volumes, indexing="ij")
    probability = np.broadcast_to(probabilities, volume.shape)
    losses: tuple[NDArray[np.float64], ...] = (-counts.f1,)
    if sensitivity is not None:
        short = np.maximum(sensitivity - counts.sensitivity, 0)
        losses = (-counts.sensitivity, counts.false_positives_per_case, short)
    # lexsort's last key is its first criterion.
    keys = (probability, volume, np.abs(threshold - DEFAULT_THRESHOLD), *losses)
    best = int(np.lexsort([key.ravel() for key in keys])[0])
    return best // len(grid.rules), best % len(grid.rules)


def cross_validate(
    cases: Sequence[PredictedCase],
    counts: LesionCounts,
    grid: SearchGrid,
    *,
    sensitivity: float | None = None,
) -> tuple[LesionCounts, dict[str, tuple[int, int]]]:
    """Choose a point for each group of cases on the cases of all other groups and patients.

    The groups are the folds; a single fold is divided into five groups of its patients.

    Returns:
        Each case's lesions at the point of its group, and the index of each group's point by its name.

    Raises:
        SGNetError: If without a group no patient, or no lesion, is left.
    """
    groups, patients = groups_of(cases)
    chosen: dict[str, tuple[int, int]] = {}
    for group in dict.fromkeys(groups.tolist()):
        # A patient may have scans in several folds: nnU-Net's own splits do not look at patients.
        others = counts.of(~np.isin(patients, patients[groups == group]))
        if not others.total_lesions:
            problem = f"no operating point can be chosen without {group}: no other patient has a lesion"
            raise SGNetError(f"{problem}; give more folds or cases")
        chosen[group] = choose(others, grid, sensitivity=sensitivity)
    return counts.at(np.array([chosen[group] for group in groups.tolist()])), chosen


def groups_of(cases: Sequence[PredictedCase]) -> tuple[NDArray[np.str_], NDArray[np.str_]]:
    """Return each case's group (its fold; of a single fold, one of five of its patients), and its patient."""
    patients = np.array([case.patient for case in cases])
    groups = np.array([f"fold {case.fold}" for case in cases])
    if len(set(groups)) == 1:
        _, patient = np.unique(patients, return_inverse=True)
        groups = np.array([f"group {number % GROUPS_OF_ONE_FOLD}" for number in patient])
    return groups, patients


def improvement_of(
    tuned: LesionCounts, default: LesionCounts, *, patients: Sequence[str]
) -> dict[str, Estimate]:
    """Return each of the `RATES` at tuned points minus that of nnU-Net's own segmentation.

    The intervals are bootstrapped over patients: a resampled patient brings all of their scans. The points
    stay as they were chosen, so the intervals do not include how much the choice itself varies. The counts
    have shape (cases,).
    """
    _, patient = np.unique(patients, return_inverse=True)
    counts = (tuned.found, tuned.false_positives, default.found, default.false_positives)
    columns = (default.lesions, np.ones_like(default.lesions), *counts)
    sums = [np.bincount(patient, weights=column).astype(np.float64) for column in columns]

    def difference(name: str, *sums: NDArray[np.float64]) -> NDArray[np.float64]:
        lesions, cases, found, false, default_found, default_false = sums
        rate = RATES[name]
        return rate(lesions, cases, found, false) - rate(lesions, cases, default_found, default_false)

    resampling = Resampling(seed=SEED)
    return {name: estimate(partial(difference, name), sums, resampling=resampling) for name in RATES}


@dataclass(frozen=True, eq=False, kw_only=True)
class Tuning:
    """A model's operating point and how it was found.

    Attributes:
        provenance: The networks and settings that the point was tuned for.
        sensitivity: Lesion sensitivity that was requested; None for the highest lesion F1.
        point: The point chosen on all cases.
        default: Lesions in nnU-Net's own segmentation.
        cross_validated: Lesions of each case at a point that was chosen without it: what to expect.
        resubstitution: Lesions at the chosen point, on the cases it was chosen on: optimistically biased.
        improvement: The cross-validated rates minus those of the default, with 95 % intervals over patients.
        fold_points: The point that was chosen for each group of cases on the others.
        frocs: The FROC curve with nothing removed, and with what the point removes if it does.
        reliability: Of lesions that a group's point keeps, their confidences calibrated on other groups;
            `uncalibrated` for their mean probabilities. None with too few lesions.
        rejection: How the rejector was found, if one was asked for. The cross-validated lesions are then
            those that rejectors of the other groups keep; the FROC curves are without one.
    """

    provenance: Provenance
    patients: int
    sensitivity: float | None
    grid: SearchGrid
    point: OperatingPoint
    default: LesionCounts
    cross_validated: LesionCounts
    resubstitution: LesionCounts
    improvement: dict[str, Estimate]
    fold_points: dict[str, OperatingPoint]
    frocs: tuple[Froc, ...]
    reliability: Reliability | None = None
    uncalibrated: Reliability | None = None
    rejection: Rejection | None = None

    @property
    def objective(self) -> str:
        """What the point was chosen for, in words."""
        if self.sensitivity is None:
            return "highest lesion F1"
        return f"fewest false positives at a lesion sensitivity of {self.sensitivity:g}"


def tune(
    dataset: str | int,
    *,
    model: str = "SGNetTrainer",
    folds: Sequence[str] = (),
    sensitivity: float | None = None,
    rejector: RejectorSettings | None = None,
    options: PredictionOptions | None = None,
    patients: Path | None = None,
    grid: SearchGrid | None = None,
    threads: int = 1,
    on_start: Callable[[int], object] = lambda _: None,
    on_done: Callable[[PredictedCase], object] = lambda _: None,
) -> Tuning:
    """Choose a model's operating point on its validation cases.

    Each fold's network predicts the cases that it was validated on, with the engine and settings of
    `sgnet predict`. The point is meant for predictions that average the networks of all these folds.

    Args:
        dataset: Number or name of the data set.
        model: The model, `TRAINER[__PLANS[__CONFIGURATION]]`.
        folds: Numbers of the folds; all that are trained by default.
        sensitivity: Lesion sensitivity to reach with the fewest false positives; None for the highest F1.
        rejector: How to fit a component rejector; None for none.
        options: How to predict; its folds and `export_threads` are ignored.
        patients: CSV with the columns `case` and `patient`; the report of `sgnet convert` by default.
        grid: The points to choose from.
        threads: Cases whose lesions are counted at the same time, while others are read and predicted.
        on_start: Called with the number of cases.
        on_done: Called with each case.

    Raises:
        InputFileError: If weights, an image or a reference is missing or cannot be used.
        SGNetError: If the data set has no lesion or an ignore label, if no other patient is left to
            choose a point on, or no point reaches the sensitivity.

    Example:
        >>> from sgnet_nnunet import tune  # doctest: +SKIP
        >>> tune(501, model="SGNetTrainer", folds=["0", "1"]).point  # doctest: +SKIP
    """
    options, grid = options or PredictionOptions(), grid or SearchGrid()
    if sensitivity is not None and not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity must be above 0 and at most 1; got {sensitivity}")
    folders = find_dataset(str(dataset))
    folder = folders.model(ModelName.parse(model))
    # Without weights anywhere, those of fold 0 will be missed.
    folds = tuple(folds) or trained_folds(folder, options.checkpoint) or ("0",)
    cases = results_of_models(folders.name, [model], folds, patients=patients, allow_missing=True).cases
    _check(cases, folder, options)
    on_start(len(cases))
    (at_grid, default, found), components, provenance = _predict(
        cases, folder, options=options, grid=grid, rejector=rejector, threads=threads, on_done=on_done
    )
    tuning = choose_operating_point(
        cases, at_grid, default, provenance, grid=grid, sensitivity=sensitivity, candidates=found
    )
    if rejector is None:
        return tuning
    return with_rejector(tuning, cases, Components.join(components), most_lost=rejector.most_lost)


def choose_operating_point(
    cases: Sequence[PredictedCase],
    counts: LesionCounts,
    default: LesionCounts,
    provenance: Provenance,
    *,
    grid: SearchGrid,
    sensitivity: float | None = None,
    candidates: Candidates | None = None,
) -> Tuning:
    """Choose the operating point of validation cases that have been predicted; see `tune`.

    Their lesions are counted at each point of the grid, and in nnU-Net's own segmentation, in the cases'
    order; the provenance is that of predictions with all their folds. Without candidates nothing is
    calibrated.
    """
    if not counts.total_lesions:
        raise SGNetError(f"{provenance.model}: no reference has a lesion; give other folds")
    best = float(counts.sensitivity.max())
    if sensitivity is not None and best < sensitivity:
        raise SGNetError(
            f"no operating point reaches a lesion sensitivity of {sensitivity:g}: the highest is "
            f"{best:.3f}, {counts.found.sum(axis=0).max()} of {counts.total_lesions} lesions; "
            "give a lower --sensitivity, or train longer"
        )
    index = choose(counts, grid, sensitivity=sensitivity)
    validated, by_group = cross_validate(cases, counts, grid, sensitivity=sensitivity)
    groups, patients = groups_of(cases)
    calibration, reliability, uncalibrated = None, None, None
    if candidates is not None:
        everywhere = np.broadcast_to(index, (len(cases), 2))
        calibration = fit_calibration(_at(candidates, grid, everywhere))
        kept = _at(candidates, grid, np.array([by_group[group] for group in groups.tolist()]))
        reliability = reliability_of(cross_fitted(kept, groups, patients), kept.is_true)
        uncalibrated = reliability_of(kept.mean_probability, kept.is_true)
    return Tuning(
        provenance=provenance,
        patients=len(set(patients.tolist())),
        sensitivity=sensitivity,
        grid=grid,
        point=replace(grid.point(index), calibration=calibration),
        default=default,
        cross_validated=validated,
        resubstitution=counts.at(np.array(index)),
        improvement=improvement_of(validated, default, patients=patients.tolist()),
        fold_points={group: grid.point(chosen) for group, chosen in by_group.items()},
        frocs=tuple(froc_at(counts, grid, rule=rule) for rule in sorted({0, index[1]})),
        reliability=reliability,
        uncalibrated=uncalibrated,
    )


def _at(candidates: Candidates, grid: SearchGrid, points: NDArray[np.intp]) -> Candidates:
    """Return the lesions that are kept at each case's own (threshold, rule), indices of shape (cases, 2)."""
    threshold, rule = points[candidates.case].T
    volume, probability = np.array(grid.rules)[rule].T
    kept = is_kept(candidates.volume_mm3, candidates.mean_probability, volume, probability)
    return candidates.of(kept & (candidates.threshold == threshold))


def with_rejector(
    tuning: Tuning, cases: Sequence[PredictedCase], components: Components, *, most_lost: float = 0.0
) -> Tuning:
    """Return a tuning with a rejector of what its points keep, and its rates with the rejectors cross-fitted.

    The components are those of the cases at the thresholds of the tuning's grid; for `most_lost` see
    `fit_rejection`. With too few lesions the tuning is returned as it is, with a warning.
    """
    groups, patients = groups_of(cases)
    found, thresholds = components.candidates, np.array(tuning.grid.thresholds)

    def kept_at(point: OperatingPoint) -> NDArray[np.bool_]:
        minima = (point.min_lesion_volume_mm3, point.min_mean_probability)
        kept = is_kept(found.volume_mm3, found.mean_probability, *minima)
        return np.asarray(kept & (thresholds[found.threshold] == point.threshold))

    rejection = fit_rejection(
        components,
        at_point=kept_at(tuning.point),
        at_points={group: kept_at(point) for group, point in tuning.fold_points.items()},
        groups=groups,
        patients=patients,
        most_lost=most_lost,
    )
    if rejection is None:
        needed = f"{FEWEST} true lesions and {FEWEST} false positives without each fold"
        logger.warning("no rejector was fitted: it needs %s at the operating point", needed)
        return tuning
    calibration, after = fit_calibration(rejection.kept.candidates), rejection.after.candidates
    validated = rejection.after.counts(tuning.default.lesions)
    return replace(
        tuning,
        point=replace(tuning.point, calibration=calibration, rejector=rejection.rejector),
        cross_validated=validated,
        resubstitution=rejection.kept.counts(tuning.default.lesions),
        improvement=improvement_of(validated, tuning.default, patients=patients.tolist()),
        reliability=reliability_of(cross_fitted(after, groups, patients), after.is_true),
        uncalibrated=reliability_of(after.mean_probability, after.is_true),
        rejection=rejection,
    )


def _check(cases: Sequence[PredictedCase], folder: Path, options: PredictionOptions) -> None:
    """Check what can be checked before minutes of prediction."""
    from sgnet_nnunet.inference.trained_model import training_cases  # noqa: PLC0415 - PyTorch

    for fold in {case.fold: None for case in cases}:
        weights = folder / f"fold_{fold}" / options.checkpoint
        if fold == "all":
            raise SGNetError(
                f"{folder.name}: fold all is validated on its own training cases, where every network is "
                "optimistically biased; train folds 0 to 4 and tune on those"
            )
        if not weights.is_file():
            command = ModelName.parse(folder.name).train_command(folder.parent.name, fold)
            raise InputFileError(weights, "there is no such file", f"run {command}")
        trained_on = training_cases(weights, trust=options.trust)
        if seen := sorted(trained_on & {case.name for case in cases if case.fold == fold}):
            problem = f"was trained on {seen[0]}, a validation case of the present {SPLITS}"
            raise InputFileError(weights, problem, "restore the former file, or train the fold again")
    description = read_description(folder)
    if has_ignore_label(description):
        raise SGNetError(
            f"{folder.name}: the data set has an ignore label, and a lesion found there is neither true nor "
            "false; tune on a data set without one"
        )
    channels, ending = len(description.channels), description.file_ending
    for case in cases:
        found = [path.name for path in case.images]
        if found != (wanted := [f"{case.name}_{channel:04d}{ending}" for channel in range(channels)]):
            problem = f"has the images {found} in imagesTr of nnUNet_raw, not {wanted}"
            remedy = "set nnUNet_raw to the folder of the training images"
            raise InputFileError(case.reference, problem, remedy)


def _predict(
    cases: Sequence[PredictedCase],
    folder: Path,
    *,
    options: PredictionOptions,
    grid: SearchGrid,
    rejector: RejectorSettings | None,
    threads: int,
    on_done: Callable[[PredictedCase], object],
) -> tuple[Counted, list[Components], Provenance]:
    """Predict each case with the network of the fold that it validates, and count its lesions.

    Returns:
        What was counted in all cases, in their order; their components, for a rejector; and the
        provenance of predictions with all folds.
    """
    model = read_description(folder)
    counts: dict[PredictedCase, Counted] = {}
    components: dict[PredictedCase, Components] = {}

    def count(
        predictor: Predictor,
        case: PredictedCase,
        logits: Logits,
        properties: list[dict[str, Any]],
        *scenes: Scene,
    ) -> None:
        probabilities = predictor.mean_probabilities(logits, properties)
        reference, spacing = read_reference(case.reference, probabilities.shape[1:], model, properties[0])
        counts[case] = count_lesions(
            probabilities, reference, grid=grid, labels=model.labels, spacing=spacing
        )
        for scene in scenes:
            components[case] = find_components(
                foreground_probability(probabilities, model.labels),
                reference,
                thresholds=grid.thresholds,
                scene=rejector.scene(scene) if rejector else scene,
                spacing=spacing,
            )

    by_fold = sorted(cases, key=lambda case: case.fold)
    folds = tuple(dict.fromkeys(case.fold for case in by_fold))
    done = iter(by_fold)
    for fold, of_fold in groupby(by_fold, key=lambda case: case.fold):
        settings = replace(options, folds=(fold,), export_threads=threads)
        predictor = Predictor.open([folder], options=settings, operating_point="none")
        images = {case: case.images for case in of_fold}
        predictor.predict_cases(
            images,
            partial(count, predictor),
            with_scenes=rejector is not None,
            on_done=lambda: on_done(next(done)),
        )
    checksums = [checksum_of(folder / f"fold_{fold}" / options.checkpoint) for fold in folds]
    weights = combine_checksums(checksums)
    provenance = replace(predictor.models[0].find_provenance(), folds=folds, weights_sha256=weights)
    at_grid, default, candidates = zip(*(counts[case] for case in cases), strict=True)
    joined = Counted(LesionCounts.join(at_grid), LesionCounts.join(default), Candidates.join(candidates))
    return joined, [components[case] for case in cases if rejector], provenance


def write_tuning(path: Path, tuning: Tuning) -> None:
    """Write a tuning as JSON, and a model's own also to where nnU-Net's zip keeps it; NaN becomes null."""
    frocs = [
        {name: np.asarray(value).tolist() for name, value in vars(froc).items()} for froc in tuning.frocs
    ]
    content = {
        "format": FORMAT,
        "version": VERSION if tuning.point.rejector is None else VERSION_OF_REJECTOR,
        "tuned_for": asdict(tuning.provenance),
        "point": tuning.point.as_json(),
        "objective": tuning.objective,
        "requested_sensitivity": tuning.sensitivity,
        "cases": tuning.default.cases,
        "patients": tuning.patients,
        "lesions": tuning.default.total_lesions,
        "min_true_share": MIN_TRUE_SHARE,
        **{name: _rates(getattr(tuning, name)) for name in ("default", "cross_validated", "resubstitution")},
        "improvement": {name: _difference(each) for name, each in tuning.improvement.items()},
        "points_chosen_without": {group: point.as_json() for group, point in tuning.fold_points.items()},
        "grid": asdict(tuning.grid),
        "froc": frocs,
        "reliability": _as_json(tuning.reliability),
        "uncalibrated": _as_json(tuning.uncalibrated),
    }
    if tuning.rejection is not None:
        content["rejection"] = tuning.rejection.report(tuning.default.cases)
    write_json(path, content)
    for fold in path.parent.glob("fold_*") if path.name == FILE_NAME else ():
        kept = fold / KEPT_BY_ZIP
        write_json(kept, (read_json(kept) if kept.is_file() else {}) | {COPY: content})


def _as_json(reliability: Reliability | None) -> dict[str, Any] | None:
    if reliability is None:
        return None
    return {name: np.asarray(value).tolist() for name, value in vars(reliability).items()}


def _rates(counts: LesionCounts) -> dict[str, float]:
    found = int(counts.found.sum())
    return {
        **{name: float(getattr(counts, name)) for name in RATES},
        "found": found,
        "missed": counts.total_lesions - found,
        "false_positives": int(counts.false_positives.sum()),
    }


def _difference(gain: Estimate) -> dict[str, float | None]:
    values = {"value": gain.value, "low": gain.interval.low, "high": gain.interval.high}
    return {name: value if isfinite(value) else None for name, value in values.items()}
