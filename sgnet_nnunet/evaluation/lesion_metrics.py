"""Lesion metrics: which lesions two masks have in common, counts of these, and a row for each lesion."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from math import inf, nan
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.mask_metrics import dice
from sgnet_nnunet.evaluation.pairs import MaskPair, once_per_pair
from sgnet_nnunet.evaluation.registry import FALSE_LESIONS, LESION_COUNT, SHARE, Kind, Metric, register_metric
from sgnet_nnunet.evaluation.surface_metrics import hd95_directed
from sgnet_nnunet.lesions import Lesions, label_components
from sgnet_nnunet.nifti import at_least


@dataclass(frozen=True, eq=False)
class LesionMatch:
    """Pairs of a predicted and a reference lesion that meet, which is to have a voxel in common.

    Attributes:
        predicted: Index of the predicted lesion of each pair of lesions that meet, shape (pairs,).
        actual: Index of the reference's lesion of each pair, shape (pairs,).
        common: Voxels that each pair has in common, shape (pairs,).
    """

    prediction: Lesions
    reference: Lesions
    predicted: NDArray[np.intp]
    actual: NDArray[np.intp]
    common: NDArray[np.intp]

    @property
    def detected(self) -> NDArray[np.bool_]:
        """Whether each reference lesion is found, shape (reference lesions,)."""
        return np.isin(np.arange(self.reference.number), self.actual)

    @property
    def hits(self) -> NDArray[np.bool_]:
        """Whether each predicted lesion meets one of the reference, shape (predicted lesions,)."""
        return np.isin(np.arange(self.prediction.number), self.predicted)

    @property
    def false_positives(self) -> int:
        """Predicted lesions that meet none of the reference."""
        return int(np.count_nonzero(~self.hits))

    @property
    def dice(self) -> NDArray[np.float64]:
        """Dice of each pair of lesions, shape (pairs,)."""
        return 2 * self.common / (self.prediction.voxels[self.predicted] + self.reference.voxels[self.actual])


def match_lesions(prediction: Lesions, reference: Lesions) -> LesionMatch:
    """Match two masks' lesions by any common voxel.

    Raises:
        ValueError: If the masks' shapes differ.
    """
    if prediction.labels.shape != reference.labels.shape:
        shapes = f"{prediction.labels.shape} and {reference.labels.shape}"
        raise ValueError(f"prediction and reference must have one shape; got {shapes}")
    voxels = np.flatnonzero((prediction.labels > 0) & (reference.labels > 0))
    both = (prediction.labels, reference.labels)
    first, second = (labels.ravel()[voxels].astype(np.intp) - 1 for labels in both)
    # One number for each pair of labels, since NumPy finds unique numbers faster than unique rows.
    codes, common = np.unique(first * reference.number + second, return_counts=True)
    predicted, actual = np.divmod(codes, max(reference.number, 1))
    return LesionMatch(prediction, reference, predicted, actual, common)


@once_per_pair
def lesions_of(pair: MaskPair) -> LesionMatch:
    """Return the lesions of a pair of masks, matched; the labels' shape is that of the pair's box."""
    prediction, reference = (
        label_components(m, pair.grid.voxel_mm3) for m in (pair.prediction, pair.reference)
    )
    return match_lesions(prediction, reference)


Status = Literal["detected", "missed", "false positive"]


@dataclass(frozen=True)
class LesionRow:
    """One lesion of a reference, or one that a prediction has and the reference has not.

    It is `detected` if a predicted lesion has a voxel in common with it. Dice and directed HD95 (mm) are of
    the lesion and all predicted lesions that meet it; 0 and the image's diagonal if there is none. The
    diameter is that of the sphere of its volume. x, y and z are the mean of its voxels' centres in world
    mm (RAS+).
    """

    status: Status
    dice: float
    hd95_mm: float
    volume_mm3: float
    diameter_mm: float
    x_mm: float
    y_mm: float
    z_mm: float


@once_per_pair
def lesion_rows(pair: MaskPair) -> tuple[LesionRow, ...]:
    """Return the reference's lesions, then the false positives, the largest first."""
    match = lesions_of(pair)
    worst = dice.value_if_one_empty(pair.grid), hd95_directed.value_if_one_empty(pair.grid)
    scores: list[_Scores] = []
    for lesion in range(match.reference.number):
        partners = match.predicted[match.actual == lesion]
        if partners.size:
            alone = pair_of_lesion(pair, lesion, partners)
            scores.append(("detected", dice(alone), hd95_directed(alone)))
        else:
            scores.append(("missed", *worst))
    reference = _rows(scores, match.reference, pair.reference, pair)
    scores = [("false positive", *worst)] * match.prediction.number
    false = compress(_rows(scores, match.prediction, pair.prediction, pair), ~match.hits)
    # Labels follow the order of the voxels in memory, on which no table may depend.
    return tuple(row for rows in (reference, false) for row in sorted(rows, key=_largest_first))


def _largest_first(row: LesionRow) -> tuple[float, ...]:
    return -row.volume_mm3, row.x_mm, row.y_mm, row.z_mm


def pair_of_lesion(pair: MaskPair, lesion: int, partners: NDArray[np.intp]) -> MaskPair:
    """Return a lesion of the reference next to one or more predicted lesions, without all others; by indices.

    The same pair each time, since the rows and the presets mostly ask for the same partners.
    """
    key = (pair_of_lesion, lesion, *partners.tolist())
    if key not in pair.results:
        match = lesions_of(pair)
        boxes = [match.reference.boxes[lesion], *(match.prediction.boxes[partner] for partner in partners)]
        around = tuple(
            slice(min(axis.start for axis in axes), max(axis.stop for axis in axes))
            for axes in zip(*boxes, strict=True)
        )
        chosen = np.zeros(match.prediction.number + 1, dtype=bool)
        chosen[partners + 1] = True
        pair.results[key] = MaskPair(
            chosen[match.prediction.labels[around]],
            match.reference.labels[around] == lesion + 1,
            affine=pair.grid.affine,
        )
    alone: MaskPair = pair.results[key]
    return alone


_Scores = tuple[Status, float, float]


def _rows(
    scores: Sequence[_Scores], lesions: Lesions, mask: NDArray[np.bool_], pair: MaskPair
) -> list[LesionRow]:
    """Return the row of each lesion of a mask, given its status, Dice and HD95."""
    if not lesions.number:
        return []
    voxels = np.flatnonzero(mask)
    labels = lesions.labels.ravel()[voxels]
    axes = np.unravel_index(voxels, mask.shape)
    sums = [np.bincount(labels, weights=axis, minlength=lesions.number + 1)[1:] for axis in axes]
    origin = [axis.start for axis in pair.box]
    centres = pair.grid.world(np.stack(sums, axis=1) / lesions.voxels[:, None] + origin)
    sizes = np.column_stack([lesions.volumes_mm3, lesions.diameters_mm, centres]).tolist()
    return [LesionRow(*score, *size) for score, size in zip(scores, sizes, strict=True)]


@dataclass(frozen=True)
class SizeClass:
    """Lesions by the diameter of the sphere of their volume, from `smallest_mm` to below `limit_mm`.

    `title` is the class in tables and figures, `suffix` the end of a metric's name.
    """

    title: str
    suffix: str
    smallest_mm: float
    limit_mm: float

    def has(self, lesions: Lesions) -> NDArray[np.bool_]:
        """Return whether each lesion belongs to the class, shape (number,)."""
        diameters = lesions.diameters_mm
        return at_least(diameters, self.smallest_mm) & ~at_least(diameters, self.limit_mm)


ALL_SIZES = SizeClass("any size", "", 0, inf)
SIZE_CLASSES = (
    SizeClass("< 5 mm", "_under_5mm", 0, 5),
    SizeClass("5 to < 10 mm", "_5_to_10mm", 5, 10),
    SizeClass("≥ 10 mm", "_from_10mm", 10, inf),
)


@dataclass(frozen=True)
class Counts:
    """Lesions of one pair of masks and size class.

    Those of the reference are detected or missed, the predicted ones hits or false.
    """

    detected: int
    missed: int
    hits: int
    false: int

    @classmethod
    def of(cls, pair: MaskPair, size: SizeClass) -> "Counts":
        """Count the lesions of a class, each in the class of its own diameter."""
        match = lesions_of(pair)
        detected = match.detected[size.has(match.reference)]
        hits = match.hits[size.has(match.prediction)]
        found, right = int(np.count_nonzero(detected)), int(np.count_nonzero(hits))
        return cls(found, detected.size - found, right, hits.size - right)


def _by_size(
    title: str, kind: Kind, *, headline: bool = False, ranked: bool = False
) -> Callable[[Callable[[Counts], float]], dict[SizeClass, Metric]]:
    """Return a decorator that registers a metric of the lesions of any size, and of each class.

    Only that of any size is a headline, or counts in the ranking. With one empty mask, only classes that
    the other mask has lesions of get the kind's value.
    """

    def register(function: Callable[[Counts], float]) -> dict[SizeClass, Metric]:
        meaning = (function.__doc__ or "").rstrip(".")

        def of_size(size: SizeClass) -> Metric:
            every = size == ALL_SIZES

            def value(pair: MaskPair) -> float:
                counts = Counts.of(pair, size)
                if pair.empty and any(vars(counts).values()) and isinstance(kind.one_empty, float):
                    return kind.one_empty
                return function(counts)

            return register_metric(
                function.__name__ + size.suffix,
                title if every else f"{title} ({size.title})",
                kind if every else replace(kind, one_empty="measured"),
                meaning=meaning if every else f"{meaning}; lesions {size.title} in diameter",
                headline=headline and every,
                ranked=ranked and every,
            )(value)

        return {size: of_size(size) for size in (ALL_SIZES, *SIZE_CLASSES)}

    return register


@_by_size("Lesion sensitivity", SHARE, headline=True)
def lesion_sensitivity(counts: Counts) -> float:
    """Share of the reference's lesions that are detected."""
    return _share(counts.detected, counts.detected + counts.missed)


@_by_size("Lesion precision", SHARE, headline=True)
def lesion_precision(counts: Counts) -> float:
    """Share of the predicted lesions that meet one of the reference."""
    return _share(counts.hits, counts.hits + counts.false)


@_by_size("Lesion F1", SHARE, headline=True, ranked=True)
def lesion_f1(counts: Counts) -> float:
    """Twice the detected lesions, over twice these and the missed and the false ones."""
    return _share(2 * counts.detected, 2 * counts.detected + counts.missed + counts.false)


@_by_size("False positives per case", FALSE_LESIONS, headline=True, ranked=True)
def false_positives(counts: Counts) -> float:
    """Predicted lesions that meet none of the reference; 0 if both masks are empty."""
    return float(counts.false)


@_by_size("Reference lesions per case", LESION_COUNT)
def reference_lesions(counts: Counts) -> float:
    """Lesions of the reference."""
    return float(counts.detected + counts.missed)


@_by_size("Detected lesions per case", LESION_COUNT)
def detected_lesions(counts: Counts) -> float:
    """Lesions of the reference that are detected."""
    return float(counts.detected)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else nan
