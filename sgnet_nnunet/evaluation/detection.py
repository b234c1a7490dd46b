"""Metrics of lesions: how many are found, and how many of those predicted are there.

A lesion is found if a predicted one has a voxel in common with it. Each metric also exists by size,
where a lesion of the reference belongs to the class of its own diameter, a predicted one to that of
its own; a class without lesions gives NaN.
"""

from dataclasses import dataclass
from math import inf, nan
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.lesions import Lesions, lesions_of
from sgnet_nnunet.evaluation.metric import Amount, Metric, Share
from sgnet_nnunet.evaluation.pair import MaskPair


@dataclass(frozen=True, kw_only=True)
class SizeClass:
    """Lesions by the diameter of the sphere of their volume.

    Attributes:
        smallest_mm: Diameter in mm from which on a lesion belongs to the class.
        limit_mm: Diameter in mm from which on it no longer does.

    Raises:
        ValueError: If the limit is not above the smallest diameter.
    """

    smallest_mm: float = 0.0
    limit_mm: float = inf

    def __post_init__(self) -> None:
        if not 0 <= self.smallest_mm < self.limit_mm:
            limits = f"{self.smallest_mm} and {self.limit_mm}"
            raise ValueError(f"smallest_mm must be 0 or more and below limit_mm; got {limits}")

    @property
    def suffix(self) -> str:
        """End of a metric's name; "" for the class of all lesions."""
        if self.limit_mm == inf:
            return f"_from_{self.smallest_mm:g}mm" if self.smallest_mm else ""
        lower = f"{self.smallest_mm:g}_to" if self.smallest_mm else "under"
        return f"_{lower}_{self.limit_mm:g}mm"

    def has(self, lesions: Lesions) -> NDArray[np.bool_]:
        """Return whether each lesion belongs to the class, shape (number,)."""
        return (self.smallest_mm <= lesions.diameters_mm) & (lesions.diameters_mm < self.limit_mm)


@dataclass(frozen=True)
class _Counts:
    """Lesions of one size class."""

    found: int
    missed: int
    hits: int
    false: int


@dataclass(frozen=True, kw_only=True)
class _ByLesion(Metric):
    """What the metrics of lesions have in common.

    Attributes:
        size: The class of lesions that count.
    """

    quantity: ClassVar[str]
    size: SizeClass = SizeClass()

    @property
    def name(self) -> str:
        """Column of a table: the size class is part of it."""
        return self.quantity + self.size.suffix

    def count(self, pair: MaskPair) -> _Counts:
        """Count the lesions of the class."""
        match = lesions_of(pair)
        detected = match.detected[self.size.has(match.reference)]
        hits = match.hits[self.size.has(match.prediction)]
        found, right = int(np.count_nonzero(detected)), int(np.count_nonzero(hits))
        return _Counts(found, detected.size - found, right, hits.size - right)


@dataclass(frozen=True)
class LesionSensitivity(_ByLesion, Share):
    """Share of the reference's lesions that are found."""

    quantity = "lesion_sensitivity"

    def measure(self, pair: MaskPair) -> float:
        """Return the share."""
        counts = self.count(pair)
        return _share(counts.found, counts.found + counts.missed)


@dataclass(frozen=True)
class LesionPrecision(_ByLesion, Share):
    """Share of the predicted lesions that meet one of the reference."""

    quantity = "lesion_precision"

    def measure(self, pair: MaskPair) -> float:
        """Return the share."""
        counts = self.count(pair)
        return _share(counts.hits, counts.hits + counts.false)


@dataclass(frozen=True)
class LesionF1(_ByLesion, Share):
    """Twice the lesions found, over twice those and the missed and the false ones."""

    quantity = "lesion_f1"

    def measure(self, pair: MaskPair) -> float:
        """Return the share."""
        counts = self.count(pair)
        return _share(2 * counts.found, 2 * counts.found + counts.missed + counts.false)


@dataclass(frozen=True)
class FalsePositives(_ByLesion, Amount):
    """Predicted lesions that meet none of the reference; 0 if both masks are empty."""

    quantity, unit = "false_positives", "lesions"

    def of_empty(self, pair: MaskPair) -> float:
        """Return the count: a healthy case without a false positive belongs into their mean."""
        return self.measure(pair)

    def measure(self, pair: MaskPair) -> float:
        """Return the number of lesions."""
        return float(self.count(pair).false)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else nan
