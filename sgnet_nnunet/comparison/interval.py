"""Bootstrap intervals over patients."""

import warnings
from dataclasses import dataclass, field, replace
from math import nan
from typing import Literal

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
"""Confidence of every interval."""

FEWEST_PATIENTS = 2
"""Fewer say nothing of how patients differ."""

TOO_FEW_PATIENTS = "fewer than 2 patients have a value"
INFINITE = "some values are infinite"


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How patients are drawn, the same for every figure.

    Each interval begins again from the seed. So figures of the same patients rest on the same
    resamples, and one figure does not change because another one is asked for.

    Attributes:
        seed: Seed of the draws.
        number: Resamples of an interval.
    """

    seed: int
    number: int = 2000

    @classmethod
    def drawn_by(cls, rng: np.random.Generator, *, number: int = 2000) -> "Resampling":
        """Return a resampling whose seed the generator draws."""
        return cls(seed=int(rng.integers(2**32)), number=number)

    def rng(self) -> np.random.Generator:
        """Return a new generator that begins from the seed."""
        return np.random.default_rng(self.seed)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval of a figure.

    Attributes:
        low: Lower end; NaN if there is no interval.
        high: Upper end.
        method: `BCa`, or `percentile` where BCa is not defined; "" if there is no interval.
        reason: Why there is none.
    """

    low: float
    high: float
    method: Literal["BCa", "percentile", ""]
    reason: str = ""

    def times(self, factor: float) -> "Interval":
        """Return the interval of the figure times a factor."""
        low, high = sorted((factor * self.low, factor * self.high))
        return replace(self, low=low, high=high)


def no_interval(reason: str) -> Interval:
    """Return the interval of a figure that has none."""
    return Interval(low=nan, high=nan, method="", reason=reason)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: The figure; NaN if there is nothing to count.
        interval: Its interval over patients.
    """

    value: float = nan
    interval: Interval = field(default_factory=lambda: no_interval(TOO_FEW_PATIENTS))


def estimate_ratio(
    parts: NDArray[np.float64], wholes: NDArray[np.float64], *, resampling: Resampling
) -> Estimate:
    """Return the sum of the patients' parts over the sum of their wholes, with its interval.

    A mean over cases is such a ratio: the sum of each patient's values over their number. Drawing
    patients, not cases, keeps two scans of one patient together. Patients whose whole is 0 have no
    say in the ratio and are not drawn.

    Source of the intervals: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 14
    (BCa), by `scipy.stats.bootstrap`.

    Args:
        parts: What is added up in the numerator, shape (patients,).
        wholes: What is added up in the denominator, 0 or more, shape (patients,).
        resampling: How patients are drawn.
    """
    counted = wholes > 0
    parts, wholes = parts[counted], wholes[counted]
    value = float(parts.sum() / wholes.sum()) if parts.size else nan
    if not np.isfinite(parts).all():
        return Estimate(value=value, interval=no_interval(INFINITE))
    if parts.size < FEWEST_PATIENTS:
        return Estimate(value=value)
    interval = _interval(parts, wholes, "BCa", resampling)
    if not np.isfinite([interval.low, interval.high]).all():
        interval = _interval(parts, wholes, "percentile", resampling)
    return Estimate(value=value, interval=interval)


def _interval(
    parts: NDArray[np.float64],
    wholes: NDArray[np.float64],
    method: Literal["BCa", "percentile"],
    resampling: Resampling,
) -> Interval:
    # Imported here because scipy.stats takes a second to import.
    from scipy.stats import bootstrap  # noqa: PLC0415

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Where BCa is not defined, as for patients who are all alike, SciPy warns and returns NaN.
        warnings.simplefilter("ignore")
        low, high = bootstrap(
            (parts, wholes),
            _ratio,
            paired=True,
            vectorized=True,
            n_resamples=resampling.number,
            confidence_level=CONFIDENCE,
            method=method,
            random_state=resampling.rng(),  # its name before SciPy 1.15, and still understood
        ).confidence_interval
    return Interval(low=float(low), high=float(high), method=method)


def _ratio(parts: NDArray[np.float64], wholes: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return parts.sum(axis=axis) / wholes.sum(axis=axis)
