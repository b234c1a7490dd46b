"""How much better than the default, and how sure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.operating_point.counts import Counts

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
