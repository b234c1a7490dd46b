"""Lesions found and false, case by case, at every point of a grid of operating points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.operating_point.levels import CaseLevels, Level
from sgnet_nnunet.operating_point.point import OperatingPoint, is_kept


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The operating points to choose from.

    Attributes:
        thresholds: Thresholds on the foreground probability, rising.
        volumes_mm3: Smallest volumes in mm3 of a lesion that is kept, rising; 0 removes nothing.
    """

    thresholds: tuple[float, ...] = (0.02, *(round(0.05 * step, 2) for step in range(1, 20)), 0.98)
    volumes_mm3: tuple[float, ...] = (0.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0)

    def point(self, index: tuple[int, int]) -> OperatingPoint:
        """Return the point at an index of (threshold, volume)."""
        return OperatingPoint(
            threshold=self.thresholds[index[0]], smallest_lesion_mm3=self.volumes_mm3[index[1]]
        )


@dataclass(frozen=True, eq=False)
class Tally:
    """Lesions counted over cases, at one operating point or at many.

    Attributes:
        found: Lesions of the reference that are found; any shape.
        false: Predicted lesions that meet none of the reference; the same shape.
        lesions: Lesions of the reference.
        cases: Cases.
    """

    found: NDArray[np.intp]
    false: NDArray[np.intp]
    lesions: int
    cases: int

    @property
    def sensitivity(self) -> NDArray[np.float64]:
        """Share of the reference's lesions that are found; NaN if it has none."""
        return self.found / (self.lesions or np.nan)

    @property
    def false_positives_per_case(self) -> NDArray[np.float64]:
        """False positives per case."""
        return np.asarray(self.false / self.cases, dtype=np.float64)

    @property
    def f1(self) -> NDArray[np.float64]:
        """Lesion F1 as `evaluation.detection.LesionF1`, over all cases; 0 if there is no lesion at all."""
        return 2 * self.found / np.maximum(self.found + self.lesions + self.false, 1)


@dataclass(frozen=True, eq=False)
class Counts:
    """Lesions of each case at each point of a grid, and by default.

    Attributes:
        lesions: Lesions of the reference, shape (cases,).
        found: Those that are found, shape (cases, thresholds, volumes).
        false: False positives, shape (cases, thresholds, volumes).
        default_found: As `found`, for nnU-Net's own segmentation, shape (cases,).
        default_false: As `false`, for nnU-Net's own segmentation, shape (cases,).
    """

    lesions: NDArray[np.intp]
    found: NDArray[np.intp]
    false: NDArray[np.intp]
    default_found: NDArray[np.intp]
    default_false: NDArray[np.intp]

    def of(self, cases: NDArray[np.bool_]) -> "Counts":
        """Return the counts of some of the cases."""
        return Counts(
            self.lesions[cases],
            self.found[cases],
            self.false[cases],
            self.default_found[cases],
            self.default_false[cases],
        )

    @property
    def pooled(self) -> Tally:
        """All cases' lesions together, shape (thresholds, volumes)."""
        return self._tally(self.found, self.false)

    @property
    def default(self) -> Tally:
        """All cases' lesions together, by default."""
        return self._tally(self.default_found, self.default_false)

    def at(self, indices: NDArray[np.intp]) -> Tally:
        """Return all cases' lesions together, each case at its own point.

        Args:
            indices: Index of (threshold, volume) of each case's point, shape (cases, 2).
        """
        cases = np.arange(self.lesions.size)
        where = (cases, indices[:, 0], indices[:, 1])
        return self._tally(self.found[where], self.false[where])

    def _tally(self, found: NDArray[np.intp], false: NDArray[np.intp]) -> Tally:
        return Tally(found.sum(axis=0), false.sum(axis=0), int(self.lesions.sum()), self.lesions.size)


def count(cases: Sequence[CaseLevels], volumes_mm3: Sequence[float]) -> Counts:
    """Count each case's lesions at each of its thresholds and each smallest volume.

    Args:
        cases: One or more cases, cut at the same thresholds.
        volumes_mm3: Smallest volumes in mm3 of a lesion that is kept.
    """
    volumes = np.asarray(volumes_mm3, dtype=np.float64)
    found, false = (
        np.array([[number(level, volumes) for level in case.levels] for case in cases], dtype=np.intp)
        for number in (_found, _false)
    )
    default_found, default_false = (
        np.array([number(case.default, np.zeros(1))[0] for case in cases], dtype=np.intp)
        for number in (_found, _false)
    )
    return Counts(
        np.array([case.lesions for case in cases], dtype=np.intp), found, false, default_found, default_false
    )


def _found(level: Level, volumes_mm3: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return how many lesions of the reference are found, shape (volumes,)."""
    met = level.found_mm3[level.found_mm3 > 0]
    return np.count_nonzero(is_kept(met[:, None], volumes_mm3), axis=0)


def _false(level: Level, volumes_mm3: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return how many false positives are left, shape (volumes,)."""
    return np.count_nonzero(is_kept(level.false_mm3[:, None], volumes_mm3), axis=0)
