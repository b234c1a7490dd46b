"""Lesions of a case at many thresholds and minimum volumes, their counts, and FROC curves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.lesion_metrics import LesionMatch, match_lesions
from sgnet_nnunet.evaluation.pairs import check_known
from sgnet_nnunet.evaluation.results import PredictedCase
from sgnet_nnunet.files import open_archive
from sgnet_nnunet.inference.operating_point import (
    DEFAULT_THRESHOLD,
    OperatingPoint,
    foreground_probability,
    is_kept,
)
from sgnet_nnunet.inference.plan import Labels, ModelDescription, read_description
from sgnet_nnunet.inference.postprocessing import classes_of
from sgnet_nnunet.lesions import Lesions, bounding_box, find_lesions
from sgnet_nnunet.nifti import grid_of, read_channel
from sgnet_nnunet.parallel import run_jobs

BELOW_DEFAULT = 0.49
"""nnU-Net's own foreground has a higher foreground probability than this: it takes the largest of all."""

MIN_TRUE_SHARE = 0.1
"""Share of a predicted lesion that must lie in the reference; below it, it is a false positive.

At nnU-Net's own threshold any common voxel suffices, as in `evaluation.lesion_metrics`. At low thresholds
predicted lesions merge. One that fills the brain would meet every reference lesion and leave no false
positive, and would be the best of all by that rule.
"""


@dataclass(frozen=True, kw_only=True)
class SearchGrid:
    """The operating points to choose from.

    Attributes:
        thresholds: Rising.
        volumes_mm3: Minimum lesion volumes in mm3, rising.
        mean_probabilities: Minimum mean probabilities of the lesions of a smaller volume, falling; 1 removes
            these whatever their probability.
    """

    thresholds: tuple[float, ...] = (0.02, *(round(0.05 * step, 2) for step in range(1, 20)), 0.98)
    volumes_mm3: tuple[float, ...] = (0.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0)
    mean_probabilities: tuple[float, ...] = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6)

    @cached_property
    def rules(self) -> tuple[tuple[float, float], ...]:
        """Each minimum volume with each minimum mean probability; a volume of 0 removes nothing, with 1."""
        return tuple(
            (volume, probability)
            for volume in self.volumes_mm3
            for probability in (self.mean_probabilities if volume else (1.0,))
        )

    def point(self, index: tuple[int, int]) -> OperatingPoint:
        """Return the point at an index of (threshold, rule)."""
        volume, probability = self.rules[index[1]]
        return OperatingPoint(
            threshold=self.thresholds[index[0]],
            min_lesion_volume_mm3=volume,
            min_mean_probability=probability,
        )


RATES: dict[str, Callable[..., NDArray[np.float64]]] = {
    "f1": lambda lesions, _, found, false: 2 * found / np.maximum(found + false + lesions, 1),
    "sensitivity": lambda lesions, _, found, __: found / np.maximum(lesions, 1),
    "false_positives_per_case": lambda _, cases, __, false: false / cases,
}
"""Micro-averaged rates as functions of the numbers of reference lesions, cases, found lesions and false
positives. Without a reference lesion the sensitivity is 0."""


@dataclass(frozen=True, eq=False)
class LesionCounts:
    """Lesions of each case, at one operating point or at each point of a grid.

    Attributes:
        lesions: Reference lesions, shape (cases,).
        found: Those that are found, shape (cases,) or (cases, thresholds, rules).
        false_positives: The same shape.
    """

    lesions: NDArray[np.intp]
    found: NDArray[np.intp]
    false_positives: NDArray[np.intp]

    @property
    def cases(self) -> int:
        """Number of cases."""
        return self.lesions.size

    @property
    def total_lesions(self) -> int:
        """Number of reference lesions in all cases."""
        return int(self.lesions.sum())

    @property
    def f1(self) -> NDArray[np.float64]:
        """Lesion F1, shape () or (thresholds, rules)."""
        return self._rate("f1")

    @property
    def sensitivity(self) -> NDArray[np.float64]:
        """Share of the reference lesions that are found."""
        return self._rate("sensitivity")

    @property
    def false_positives_per_case(self) -> NDArray[np.float64]:
        """False positives per case."""
        return self._rate("false_positives_per_case")

    def _rate(self, name: str) -> NDArray[np.float64]:
        found, false = self.found.sum(axis=0), self.false_positives.sum(axis=0)
        return np.asarray(RATES[name](self.total_lesions, self.cases, found, false))

    def of(self, cases: NDArray[np.bool_]) -> "LesionCounts":
        """Return the counts of some of the cases."""
        return LesionCounts(self.lesions[cases], self.found[cases], self.false_positives[cases])

    def at(self, points: NDArray[np.intp]) -> "LesionCounts":
        """Return each case's counts at its own (threshold, rule); indices of shape (cases, 2) or (2,)."""
        threshold, rule = np.broadcast_to(points, (self.cases, 2)).T
        where = (np.arange(self.cases), threshold, rule)
        return LesionCounts(self.lesions, self.found[where], self.false_positives[where])

    @classmethod
    def join(cls, counts: Sequence["LesionCounts"]) -> "LesionCounts":
        """Return the counts of several cases as one."""
        return cls(*map(np.concatenate, zip(*(vars(each).values() for each in counts), strict=True)))


@dataclass(frozen=True, eq=False)
class Candidates:
    """The lesions that cases' probabilities give at each threshold, nothing removed; shapes (lesions,).

    Attributes:
        case: Index of the case.
        threshold: Index of the threshold.
        volume_mm3: Volume in mm3.
        mean_probability: Mean foreground probability.
        is_true: Whether enough of it lies in the reference, see `MIN_TRUE_SHARE`.
    """

    case: NDArray[np.intp]
    threshold: NDArray[np.intp]
    volume_mm3: NDArray[np.float64]
    mean_probability: NDArray[np.float64]
    is_true: NDArray[np.bool_]

    def of(self, which: NDArray[np.bool_]) -> "Candidates":
        """Return some of the lesions."""
        return Candidates(*(values[which] for values in vars(self).values()))

    @classmethod
    def join(cls, of_cases: Sequence["Candidates"]) -> "Candidates":
        """Return the lesions of several cases, numbered in this order."""
        numbered = (replace(each, case=np.full_like(each.case, i)) for i, each in enumerate(of_cases))
        return cls(*map(np.concatenate, zip(*(vars(each).values() for each in numbered), strict=True)))


class Counted(NamedTuple):
    """Counts of shape (1, thresholds, rules), those of nnU-Net's own segmentation, (1,), and the lesions."""

    at_grid: LesionCounts
    default: LesionCounts
    candidates: Candidates


def count_lesions(
    probabilities: NDArray[np.floating],
    reference: NDArray[np.bool_],
    *,
    grid: SearchGrid,
    labels: Labels,
    spacing: tuple[float, ...],
) -> Counted:
    """Count the lesions of a case at each point of a grid, and in nnU-Net's own segmentation.

    A predicted lesion is true if at least `MIN_TRUE_SHARE` of it lies in reference lesions, else it is a
    false positive. A reference lesion is found if a true one overlaps it.

    Args:
        probabilities: Shape (heads, z, y, x).
        reference: Foreground of any class in the reference, shape (z, y, x).
        grid: Thresholds and rules.
        labels: The model's labels or regions.
        spacing: Voxel size in mm along z, y, x.
    """
    lowest = min(*grid.thresholds, BELOW_DEFAULT)
    box = bounding_box((foreground_probability(probabilities, labels) > lowest) | reference)
    inside = np.ascontiguousarray(probabilities[(slice(None), *box)])
    foreground = foreground_probability(inside, labels)
    lesions = find_lesions(reference[box], spacing=spacing)
    rules = np.array(((0.0, 1.0), *grid.rules))
    counts, found = [], []
    for index, mask in enumerate(_masks(inside, grid.thresholds, labels)):
        predicted = find_lesions(mask, spacing=spacing)
        means = predicted.mean_of(foreground)
        is_true, number = _count(predicted, means, lesions, rules)
        counts.append(number)
        if index:
            places = np.full(predicted.number, index - 1)
            found.append(Candidates(np.zeros_like(places), places, predicted.volumes_mm3, means, is_true))
    # Axes: case, mask (the default and the thresholds), found or false, rule (none and the grid's).
    numbers, actual = np.array([counts]), np.array([lesions.number])
    joined = map(np.concatenate, zip(*(vars(each).values() for each in found), strict=True))
    return Counted(
        LesionCounts(actual, numbers[:, 1:, 0, 1:], numbers[:, 1:, 1, 1:]),
        LesionCounts(actual, numbers[:, 0, 0, 0], numbers[:, 0, 1, 0]),
        Candidates(*joined),
    )


def _masks(
    probabilities: NDArray[np.floating], thresholds: Sequence[float], labels: Labels
) -> Iterator[NDArray[np.bool_]]:
    """Yield the foreground of nnU-Net's own segmentation, then that at each threshold."""
    foreground = foreground_probability(probabilities, labels)
    yield foreground > DEFAULT_THRESHOLD if labels.has_regions else probabilities.argmax(axis=0) > 0
    yield from (foreground > threshold for threshold in thresholds)


def _count(
    predicted: Lesions, means: NDArray[np.float64], reference: Lesions, rules: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Return which lesions are true, and found lesions and false positives at each rule, shape (2, rules)."""
    match, is_true = match_true(predicted, reference)
    kept = is_kept(predicted.volumes_mm3[:, None], means[:, None], *rules.T)
    found = np.zeros((reference.number, len(rules)), dtype=np.bool_)
    np.logical_or.at(found, match.actual, (kept & is_true[:, None])[match.predicted])
    counts = (np.count_nonzero(which, axis=0) for which in (found, kept & ~is_true[:, None]))
    return is_true, np.array([*counts])


def match_true(predicted: Lesions, reference: Lesions) -> tuple[LesionMatch, NDArray[np.bool_]]:
    """Return which lesions overlap, and which predicted ones are true, see `MIN_TRUE_SHARE`."""
    match = match_lesions(predicted, reference)
    inside = np.bincount(match.predicted, weights=match.common, minlength=predicted.number)
    return match, inside >= MIN_TRUE_SHARE * predicted.voxels


@dataclass(frozen=True, eq=False)
class Froc:
    """A free-response ROC curve over the lesions of all cases, in the order of rising thresholds.

    Attributes:
        thresholds: Thresholds on the foreground probability, shape (points,).
        sensitivity: Share of the reference lesions that are found, shape (points,).
        false_positives_per_case: Shape (points,).
        min_lesion_volume_mm3: Predicted lesions of a smaller volume were removed, if their mean probability
            was below `min_mean_probability`; 1 for all of them.
        lesions: Those at nnU-Net's own threshold, nothing removed; None if they were not kept.
    """

    thresholds: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    false_positives_per_case: NDArray[np.float64]
    min_lesion_volume_mm3: float = 0.0
    min_mean_probability: float = 1.0
    lesions: Candidates | None = None


def froc_at(counts: LesionCounts, grid: SearchGrid, *, rule: int) -> Froc:
    """Return the curve at one of the grid's rules, given by its index."""
    return Froc(
        np.array(grid.thresholds),
        counts.sensitivity[:, rule],
        counts.false_positives_per_case[:, rule],
        *grid.rules[rule],
    )


PARTIAL_AREA_LIMIT = 8.0
"""False positives a case up to which a partial area goes, as do the working points of LUNA16's score."""


@dataclass(frozen=True, eq=False)
class MonotoneFroc:
    """Monotone FROC curves of one model, each of which weighs the cases in its own way.

    The points of the thresholds are put in the order of their false positives, after (0, 0) for a threshold
    of 1; each then has the highest sensitivity up to it, and between two points the curve is straight.
    Beyond the last point the sensitivity is that of the last one. A curve without a lesion is NaN.

    >>> counts = LesionCounts(np.array([4]), np.array([[4, 2]]), np.array([[6, 1]]))
    >>> curve = MonotoneFroc.of(counts)
    >>> curve.false_positives_at(0.75).tolist(), curve.partial_area(most=1.0).tolist()
    ([3.5], [0.25])

    Attributes:
        false_positives_per_case: Rising, shape (curves, 1 + thresholds).
        sensitivity: Rising, the same shape.
    """

    false_positives_per_case: NDArray[np.float64]
    sensitivity: NDArray[np.float64]

    @classmethod
    def of(cls, counts: LesionCounts, weights: NDArray[np.float64] | None = None) -> "MonotoneFroc":
        """Return the curves of counts at thresholds, shape (cases, thresholds).

        The weights are how often each case counts in each curve, shape (curves, cases); by default there is
        one curve, of all cases once.
        """
        weights = np.ones((1, counts.cases)) if weights is None else weights
        with np.errstate(invalid="ignore"):
            sensitivity = weights @ counts.found / (weights @ counts.lesions)[:, None]
        false = weights @ counts.false_positives / weights.sum(axis=1, keepdims=True)
        order = np.lexsort((-sensitivity, false), axis=1)
        rising = (
            np.pad(np.take_along_axis(each, order, axis=1), ((0, 0), (1, 0))) for each in (false, sensitivity)
        )
        false, sensitivity = rising
        return cls(false, np.maximum.accumulate(sensitivity, axis=1))

    def false_positives_at(self, sensitivity: float) -> NDArray[np.float64]:
        """Return the fewest false positives a case at a sensitivity above 0, shape (curves,).

        NaN where the curve does not reach it.
        """
        reached = self.sensitivity >= sensitivity
        after = np.maximum(reached.argmax(axis=1), 1)[:, None]
        low, high, start, stop = (
            np.take_along_axis(each, place, axis=1)[:, 0]
            for each, place in product(vars(self).values(), (after - 1, after))
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            found = low + (sensitivity - start) / (stop - start) * (high - low)
        return np.where(reached.any(axis=1), found, np.nan)

    def partial_area(self, *, most: float = PARTIAL_AREA_LIMIT) -> NDArray[np.float64]:
        """Return the mean sensitivity from 0 to `most` false positives a case, shape (curves,)."""
        false, sensitivity = self.false_positives_per_case, self.sensitivity
        within = np.minimum(false, most)
        width, rise = np.diff(within, axis=1), np.diff(sensitivity, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            part = np.where(width > 0, width / np.diff(false, axis=1), 0)
        area = (width * (sensitivity[:, :-1] + part * rise / 2)).sum(axis=1)
        return np.asarray((area + (most - within[:, -1]) * sensitivity[:, -1]) / most)


def froc_of(cases: Sequence[PredictedCase], *, model_folder: Path, workers: int = 1) -> Froc | None:
    """Return one model's curve, and lesions, from what nnU-Net saves with `--npz`, nothing removed.

    It is None if a case has no probabilities, the references have no lesion, or an ignore label. Each
    worker process holds one case's probabilities.

    Raises:
        InputFileError: If a file cannot be read, or probabilities do not fit the reference or the mask.
    """
    files = [(case.reference, case.prediction, case.probabilities) for case in cases if case.probabilities]
    if not cases or len(files) < len(cases):
        return None
    model = read_description(model_folder)
    if has_ignore_label(model):
        return None
    grid = SearchGrid(volumes_mm3=(0.0,))
    job = partial(_count_saved, model=model, grid=grid)
    outcomes = [outcome for _, outcome in run_jobs(job, files, workers=workers)]
    counts, lesions = LesionCounts.join([counts for counts, _ in outcomes]), [found for _, found in outcomes]
    curve = froc_at(counts, grid, rule=0)
    return replace(curve, lesions=Candidates.join(lesions)) if counts.total_lesions else None


def _count_saved(
    files: tuple[Path, Path | None, Path], *, model: ModelDescription, grid: SearchGrid
) -> tuple[LesionCounts, Candidates]:
    reference, prediction, saved = files
    probabilities = read_probabilities(saved, heads=model.labels.heads)
    own = classes_of(probabilities, model.labels)
    if not prediction or not np.array_equal(read_channel(prediction, reader=model.reader)[0], own):
        problem = f"does not give the mask that is evaluated ({prediction}): other weights predicted it"
        raise InputFileError(saved, problem, "delete it, or validate the fold again with --val --npz")
    counted = count_against(reference, probabilities, model=model, grid=grid)
    own_threshold = grid.thresholds.index(DEFAULT_THRESHOLD)
    return counted.at_grid, counted.candidates.of(counted.candidates.threshold == own_threshold)


def count_against(
    reference: Path,
    probabilities: NDArray[np.floating],
    *,
    model: ModelDescription,
    grid: SearchGrid,
    image: dict[str, Any] | None = None,
) -> Counted:
    """Read the reference of a case as `read_reference`, and count lesions as `count_lesions`.

    The probabilities have shape (heads, z, y, x), with the axes that nnU-Net's reader gives.
    """
    foreground, spacing = read_reference(reference, probabilities.shape[1:], model, image)
    return count_lesions(probabilities, foreground, grid=grid, labels=model.labels, spacing=spacing)


def read_reference(
    reference: Path, shape: tuple[int, ...], model: ModelDescription, image: dict[str, Any] | None = None
) -> tuple[NDArray[np.bool_], tuple[float, ...]]:
    """Return the foreground of any class of a case, and the voxel size in mm, along z, y, x.

    The shape (z, y, x) is that of the case's probabilities, with the axes that nnU-Net's reader gives;
    `image` is what it says of the images, None if that is not known.

    Raises:
        InputFileError: If the reference cannot be read, has a value that is no label of the model, has
            another shape or is on another grid.
    """
    values, properties = read_channel(reference, reader=model.reader)
    check_known(reference, values, known=frozenset({0, *model.labels.foreground_labels}))
    if shape != values.shape:
        problem = f"has shape {values.shape} (z, y, x), the probabilities have {shape}"
        remedy = "run nnUNetv2_plan_and_preprocess again, then train or predict again"
        raise InputFileError(reference, problem, remedy)
    here, there = grid_of(values.shape, properties), grid_of(values.shape, image or {})
    if here and there and not here.same_place_as(there):
        raise InputFileError(
            reference, "is on another grid than the images", "resample it onto the images' grid"
        )
    return values > 0, tuple(float(step) for step in properties["spacing"])


def has_ignore_label(model: ModelDescription) -> bool:
    """Return whether some voxels of the references have no known label."""
    return "ignore" in model.dataset["labels"]


ROUNDING = 1e-4
"""A softmax in 32 bits may give 1.0000001."""


def read_probabilities(path: Path, *, heads: int) -> NDArray[np.floating]:
    """Read the `.npz` that nnU-Net writes with `--npz`, shape (heads, z, y, x).

    Raises:
        InputFileError: If the file cannot be read, has another shape, or values that are no probabilities.
    """
    try:
        with open_archive(path) as file, np.load(file) as archive:
            probabilities = np.asarray(archive["probabilities"])
    except SGNetError:
        raise
    except Exception as error:  # a damaged archive raises anything, tokenize.TokenError for one
        detail = " ".join(str(getattr(error, "strerror", "") or error).split()) or type(error).__name__
        problem = f"cannot be read as nnU-Net's probabilities ({detail})"
        raise InputFileError(path, problem, "predict it again") from error
    dtype, shape = probabilities.dtype, probabilities.shape
    if dtype.kind != "f" or len(shape) != 4 or shape[0] != heads or not probabilities.size:  # noqa: PLR2004
        problem = f"has shape {shape} of {dtype}; ({heads}, z, y, x) of floating-point numbers is needed"
        raise InputFileError(path, problem, "predict it again with this model")
    lowest, highest = float(probabilities.min()), float(probabilities.max())
    # A NaN among them makes both NaN, and no comparison with NaN holds.
    if not (lowest >= -ROUNDING and highest <= 1 + ROUNDING):
        problem = f"has values from {lowest:g} to {highest:g}, which are no probabilities"
        raise InputFileError(path, problem, "check the training log for NaN, then train and predict again")
    return probabilities
