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
        false: False positives; the same shape.
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
    """Lesions of each case, at one operating point or at each of a grid.

    Attributes:
        lesions: Lesions of the reference, shape (cases,).
        found: Those that are found, shape (cases,) or (cases, thresholds, volumes).
        false: False positives; the same shape.
    """

    lesions: NDArray[np.intp]
    found: NDArray[np.intp]
    false: NDArray[np.intp]

    @property
    def pooled(self) -> Tally:
        """All cases' lesions together, shape () or (thresholds, volumes)."""
        return Tally(
            np.asarray(self.found.sum(axis=0)),
            np.asarray(self.false.sum(axis=0)),
            int(self.lesions.sum()),
            self.lesions.size,
        )

    def of(self, cases: NDArray[np.bool_]) -> "Counts":
        """Return the counts of some of the cases."""
        return Counts(self.lesions[cases], self.found[cases], self.false[cases])

    def at(self, points: NDArray[np.intp]) -> "Counts":
        """Return each case's counts at its own point.

        Args:
            points: Index of (threshold, volume) of each case's point, shape (cases, 2).
        """
        where = (np.arange(self.lesions.size), points[:, 0], points[:, 1])
        return Counts(self.lesions, self.found[where], self.false[where])


def count(cases: Sequence[CaseLevels], volumes_mm3: Sequence[float]) -> Counts:
    """Count the lesions of one or more cases at each of their thresholds and each smallest volume.

    Args:
        cases: The cases, cut at the same thresholds.
        volumes_mm3: Smallest volumes in mm3 of a lesion that is kept.
    """
    volumes = np.asarray(volumes_mm3, dtype=np.float64)
    return Counts(
        _lesions(cases),
        np.array([[_found(level, volumes) for level in case.levels] for case in cases], dtype=np.intp),
        np.array([[_false(level, volumes) for level in case.levels] for case in cases], dtype=np.intp),
    )


def count_default(cases: Sequence[CaseLevels]) -> Counts:
    """Count the lesions of one or more cases in nnU-Net's own segmentation."""
    nothing = np.zeros(1)
    return Counts(
        _lesions(cases),
        np.array([_found(case.default, nothing)[0] for case in cases], dtype=np.intp),
        np.array([_false(case.default, nothing)[0] for case in cases], dtype=np.intp),
    )


def _lesions(cases: Sequence[CaseLevels]) -> NDArray[np.intp]:
    return np.array([case.lesions for case in cases], dtype=np.intp)


def _found(level: Level, volumes_mm3: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return how many lesions of the reference are found, shape (volumes,)."""
    met = level.found_mm3[level.found_mm3 > 0]
    return np.count_nonzero(is_kept(met[:, None], volumes_mm3), axis=0)


def _false(level: Level, volumes_mm3: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return how many false positives are left, shape (volumes,)."""
    return np.count_nonzero(is_kept(level.false_mm3[:, None], volumes_mm3), axis=0)
