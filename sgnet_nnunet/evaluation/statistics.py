"""Statistics over patients: bootstrap intervals, paired tests, ranks.

Everything is a function of sums over patients: a mean over cases is the sum of the patients' values over
the number of their cases. Patients are drawn, not cases, so that the scans of a patient stay together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, nan
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.registry import Metric

CONFIDENCE = 0.95
"""Confidence of every interval."""

RESAMPLES = 2000
FEWEST_PATIENTS = 2
"""With fewer patients there is neither an interval nor a test."""

POWER_FACTOR = 2.8
"""Standard errors in a difference that is shown at 5 %, two-sided, with a power of 80 %: 1.96 + 0.84."""

TOO_FEW_PATIENTS = "fewer than 2 patients have a value"
INFINITE = "some values are infinite"
ALL_EQUAL = "no patient differs"

ZERO_METHOD = "pratt"
"""Patients without a difference are ranked with the others, and their ranks then dropped.

Source: Pratt 1959, J. Am. Stat. Assoc. 54:655, by `scipy.stats.wilcoxon`.
"""

DECIMALS = 9
"""Differences are rounded, so that those that are equal on paper tie in ranks too."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How patients are drawn, the same for every statistic.

    Each interval begins again from the seed. So statistics of the same patients rest on the same
    resamples, and one does not change because another one is asked for.
    """

    seed: int
    number: int = RESAMPLES

    def weights(self, patients: int, *, drawn: int | None = None) -> Floats:
        """Return how often each patient is drawn in each resample, shape (number, patients).

        As many are drawn as there are, or another number of them.
        """
        return _weights((self.seed,), self.number, patients, patients if drawn is None else drawn)

    def weights_of_seeds(self, seeds: int, *, stream: int) -> Floats:
        """Return the share of each training seed in each resample, shape (number, seeds).

        One fewer is drawn than there are: with as many, the variance of a mean over n seeds would be
        (n - 1) / n of what it is, two thirds with three. Each network has a stream of its own.

        Source: Rao and Wu 1988, J. Am. Stat. Assoc. 83:231.
        """
        drawn = max(seeds - 1, 1)
        return _weights((self.seed, stream), self.number, seeds, drawn) / drawn


@lru_cache(maxsize=32)
def _weights(entropy: tuple[int, ...], number: int, items: int, drawn: int) -> Floats:
    places = np.random.default_rng(entropy).integers(0, items, (number, drawn))
    places += items * np.arange(number)[:, None]
    counts = np.bincount(places.ravel(), minlength=number * items).reshape(number, items)
    weights = counts.astype(np.float64)
    weights.flags.writeable = False
    return weights


Statistics = Callable[[Floats], Floats]
"""Returns statistics of a training, shape (resamples, statistics), given the weights of its patients, shape
(resamples, patients)."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An interval of a statistic; NaN and no method, but a reason, where there is none."""

    low: float = nan
    high: float = nan
    method: Literal["BCa", "percentile", ""] = ""
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A statistic, NaN if there is nothing to count, with its interval over patients."""

    value: float = nan
    interval: Interval = field(default_factory=lambda: Interval(reason=TOO_FEW_PATIENTS))


def estimate(
    statistic: Callable[..., Floats], columns: Sequence[Floats], *, resampling: Resampling
) -> Estimate:
    """Return a statistic of sums over patients, with its bootstrap interval.

    The interval is BCa, or of percentiles where BCa is not defined, as for patients who are all alike.

    >>> found, lesions = np.array([1.0, 2.0, 0.0]), np.array([2.0, 2.0, 1.0])
    >>> estimate(np.divide, [found, lesions], resampling=Resampling(seed=0)).value
    0.6

    Args:
        statistic: Called with the sum of each column, all of one shape; returns an array of that shape.
        columns: What is added up over the patients, each of shape (patients,).
        resampling: How patients are drawn.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 14.
    """
    table = np.stack(columns, axis=1)
    with np.errstate(all="ignore"):
        value = float(statistic(*table.sum(axis=0))) if len(table) else nan
        if not np.isfinite(table).all():
            return Estimate(value=value, interval=Interval(reason=INFINITE))
        if len(table) < FEWEST_PATIENTS:
            return Estimate(value=value)
        resampled = statistic(*(resampling.weights(len(table)) @ table).T)
        # Without one patient at a time: the jackknife.
        without = statistic(*(table.sum(axis=0) - table).T)
        interval = _bca(value, resampled, without)
    return Estimate(value=value, interval=interval)


def _bca(value: float, resampled: Floats, without: Floats) -> Interval:
    from scipy.special import ndtr, ndtri  # noqa: PLC0415

    tails = np.array([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    ties = np.isclose(resampled, value, rtol=1e-12, atol=1e-12)  # equal up to rounding
    below = np.where(ties, 0.5, resampled < value).mean()
    deviations = without.mean() - without
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    shifted = ndtri(below) + ndtri(tails)
    corrected = ndtr(ndtri(below) + shifted / (1 - acceleration * shifted))
    defined = bool(np.isfinite(corrected).all())
    low, high = np.quantile(resampled, corrected if defined else tails)
    return Interval(low=float(low), high=float(high), method="BCa" if defined else "percentile")


@dataclass(frozen=True, kw_only=True)
class SeededEstimate(Estimate):
    """A mean over training seeds with its interval over patients and seeds, over patients with one seed.

    Attributes:
        standard_error: That of the bootstrap, NaN where there is no interval.
    """

    standard_error: float = nan

    @property
    def detectable(self) -> float:
        """The smallest difference that a test at 5 % would show with a power of 80 %; of a difference."""
        return POWER_FACTOR * self.standard_error


def estimate_over_seeds(
    seeds: Sequence[Statistics],
    reference: Sequence[Statistics] = (),
    *,
    patients: int,
    resampling: Resampling,
    drawn: int | None = None,
) -> list[SeededEstimate]:
    """Return the means of statistics over training seeds, less those of a reference, with their intervals.

    The design is crossed: each resample draws patients, the same for all trainings, and then seeds, of each
    network on its own. The intervals are of percentiles. A statistic may be NaN, as are false positives at
    a sensitivity that is not reached: each bound then counts these resamples as beyond it, and there is no
    interval if they are more than a bound leaves out.

    Args:
        seeds: The statistics of each seed of a network.
        reference: The same of another network; none for the means themselves.
        patients: Number of patients.
        resampling: How patients and seeds are drawn.
        drawn: Number of patients to draw, if not all: those of a study that is planned.

    Source: Owen 2007, Ann. Appl. Stat. 1:386 (the pigeonhole bootstrap, which is slightly conservative).
    """
    weights: Floats = np.ones((1, patients))
    if patients >= FEWEST_PATIENTS:
        weights = np.vstack([weights, resampling.weights(patients, drawn=drawn)])
    values = _mean_over_seeds(seeds, weights, resampling, stream=1)
    if reference:
        values = values - _mean_over_seeds(reference, weights, resampling, stream=2)
    return [_percentiles(float(column[0]), column[1:]) for column in values.T]


def _mean_over_seeds(
    seeds: Sequence[Statistics], weights: Floats, resampling: Resampling, *, stream: int
) -> Floats:
    values = np.stack([statistics(weights) for statistics in seeds], axis=1)
    shares = np.full((len(weights), len(seeds), 1), 1 / len(seeds))
    if len(weights) > 1:
        shares[1:, :, 0] = resampling.weights_of_seeds(len(seeds), stream=stream)
    # A NaN of a seed that is not drawn does not count.
    return np.asarray((shares * np.where(shares > 0, values, 0)).sum(axis=1))


def _percentiles(value: float, resampled: Floats) -> SeededEstimate:
    """Return an estimate from its resamples, shape (resamples,); none for too few patients."""
    if not resampled.size:
        return SeededEstimate(value=value)
    tail, defined = (1 - CONFIDENCE) / 2, np.isfinite(resampled)
    if np.isnan(value) or (undefined := 1 - defined.mean()) > tail:
        reason = (
            "not defined" if np.isnan(value) else f"not defined in {100 * undefined:.0f} % of the resamples"
        )
        return SeededEstimate(value=value, interval=Interval(reason=reason))
    low = np.quantile(np.where(defined, resampled, -inf), tail, method="higher")
    high = np.quantile(np.where(defined, resampled, inf), 1 - tail, method="lower")
    interval = Interval(low=float(low), high=float(high), method="percentile")
    return SeededEstimate(
        value=value, interval=interval, standard_error=float(resampled[defined].std(ddof=1))
    )


def estimate_ratio(parts: Floats, wholes: Floats, *, resampling: Resampling) -> Estimate:
    """Return the sum of the patients' parts over the sum of their wholes, with its interval.

    Both have shape (patients,). Patients whose whole is 0 do not enter the ratio and are not drawn.
    """
    counted = wholes > 0
    return estimate(np.divide, [parts[counted], wholes[counted]], resampling=resampling)


def rows_of(per_case: pd.DataFrame, *, model: str, label: str) -> pd.DataFrame:
    """Return the rows of one model and label, sorted by case, with the case as their index.

    Raises:
        SGNetError: If the model has no row for the label, or two for one case.
    """
    chosen = per_case[(per_case["model"] == model) & (per_case["label"] == label)]
    if chosen.empty:
        raise SGNetError(f"{model} has no case with the label {label}; leave out the one or the other")
    rows = chosen.set_index("case").sort_index()
    if not rows.index.is_unique:
        case = rows.index[rows.index.duplicated()][0]
        problem = f"{model} has two predictions of the case {case}"
        raise SGNetError(f"{problem}; give only folds whose cases differ")
    return rows.assign(empty=rows["empty"].fillna(""))


def wilcoxon_test(differences: Floats) -> tuple[float, str]:
    """Return p of Wilcoxon's signed-rank test, two-sided, and why there is no test ("" if there is).

    The paired differences have shape (patients,) and are rounded to `DECIMALS`.
    """
    from scipy.stats import wilcoxon  # noqa: PLC0415 - a second

    if differences.size < FEWEST_PATIENTS:
        return nan, TOO_FEW_PATIENTS
    if not differences.any():
        return 1.0, ALL_EQUAL
    return float(wilcoxon(differences, zero_method=ZERO_METHOD).pvalue), ""


def rank_biserial(differences: Floats) -> float:
    """Return the matched-pairs rank-biserial correlation of paired differences: an effect size from -1 to 1.

    It is the ranks' sum of the positive less that of the negative differences, over their sum. Zeros are
    ranked with the others and then dropped, as in the test. 0 if all are zero, NaN if there are none.

    >>> rank_biserial(np.array([1.0, -2.0, 3.0]))
    0.3333333333333333

    Source: Kerby 2014, Compr. Psychol. 3:11.IT.3.1.
    """
    if not differences.size:
        return nan
    ranks = pd.Series(np.abs(differences)).rank().to_numpy()
    total = ranks[differences != 0].sum()
    return float((np.sign(differences) * ranks).sum() / total) if total else 0.0


def holm(p_values: Floats) -> Floats:
    """Return the p values of one family of tests after Holm's correction; NaN is no test and stays.

    >>> holm(np.array([0.01, 0.04, nan, 0.03])).tolist()
    [0.03, 0.06, nan, 0.06]

    Source: Holm 1979, Scand. J. Stat. 6:65.
    """
    order = np.argsort(p_values)
    tests = int(np.count_nonzero(~np.isnan(p_values)))
    steps = p_values[order][:tests] * np.arange(tests, 0, -1)
    corrected = np.full(p_values.shape, nan)
    corrected[order[:tests]] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


@dataclass(frozen=True, eq=False)
class Ranks:
    """Models by mean rank.

    Attributes:
        metrics: Names of the metrics that count, each as much as the others.
        mean_ranks: Mean over the metrics of each model's rank by its mean, 1 the best, shape (models,).
        places: Each model's place in the ranking, then in each resample, shape (1 + resamples, models);
            equals share the better place. Without resamples for fewer than two patients.
    """

    metrics: tuple[str, ...]
    mean_ranks: Floats
    places: NDArray[np.intp]


def rank_models(
    rows: Mapping[str, pd.DataFrame], metrics: Sequence[Metric], *, resampling: Resampling
) -> Ranks | None:
    """Rank models by their mean rank over metrics, again and again over resampled patients.

    Each model's mean is over all its cases that have a value, as the tables show it. A metric without a
    value of some model does not count; a resample in which that happens goes without the metric. The rows
    of each model are those of `rows_of`. None if no metric counts.

    Source: Wiesenfarth et al. 2021, Sci. Rep. 11:2369 (bootstrapped rankings of challenges).
    """
    patients = sorted({patient for table in rows.values() for patient in table["patient"]})
    # The first row is not drawn: it is the ranking itself.
    weights: Floats = np.ones((1, len(patients)))
    if len(patients) >= FEWEST_PATIENTS:
        weights = np.vstack([weights, resampling.weights(len(patients))])
    ranks = {}
    for metric in metrics:
        means = []
        for table in rows.values():
            by_patient = table[metric.name].groupby(table["patient"]).agg(["sum", "count"])
            with np.errstate(invalid="ignore"):
                sums = weights @ by_patient.reindex(patients, fill_value=0).to_numpy(dtype=np.float64)
                means.append(sums[:, 0] / sums[:, 1])
        of_models = pd.DataFrame(np.stack(means, axis=1))
        ranked = of_models.rank(axis=1, ascending=not metric.higher_is_better)
        if of_models.iloc[0].notna().all():
            ranks[metric.name] = ranked.where(of_models.notna().all(axis=1)).to_numpy()
    if not ranks:
        return None
    stacked = np.stack(list(ranks.values()))
    stacked = stacked[:, ~np.isnan(stacked).all(axis=(0, 2))]
    mean_ranks: Floats = np.asarray(np.nanmean(stacked, axis=0))
    places = pd.DataFrame(np.round(mean_ranks, DECIMALS)).rank(axis=1, method="min").to_numpy(dtype=np.intp)
    return Ranks(tuple(ranks), mean_ranks[0], places)
