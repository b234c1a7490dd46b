"""Bootstrap intervals over patients."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan, nan
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.measurement import CASE_COLUMNS
from sgnet_nnunet.evaluation.registry import Metric, registered_metrics

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
    if not np.isfinite(parts).all():
        return Estimate(value=float(_ratio(parts, wholes)), interval=no_interval(INFINITE))
    return estimate(_ratio, (parts, wholes), resampling=resampling) if parts.size else Estimate()


def estimate(
    statistic: Callable[..., NDArray[np.float64]],
    columns: tuple[NDArray[np.float64], ...],
    *,
    resampling: Resampling,
) -> Estimate:
    """Return a statistic of all patients with its interval (BCa, or percentile where it is not defined).

    Args:
        statistic: Called with the columns, each of shape (..., patients), and the axis of the patients.
        columns: Values of each patient, shape (patients,).
        resampling: How patients are drawn.
    """
    value = float(statistic(*columns, axis=-1))
    if columns[0].size < FEWEST_PATIENTS:
        return Estimate(value=value)
    interval = _interval(statistic, columns, "BCa", resampling)
    if not np.isfinite([interval.low, interval.high]).all():
        interval = _interval(statistic, columns, "percentile", resampling)
    return Estimate(value=value, interval=interval)


def _interval(
    statistic: Callable[..., NDArray[np.float64]],
    columns: tuple[NDArray[np.float64], ...],
    method: Literal["BCa", "percentile"],
    resampling: Resampling,
) -> Interval:
    # Imported here because scipy.stats takes a second to import.
    from scipy.stats import bootstrap  # noqa: PLC0415

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # Where BCa is not defined, as for patients who are all alike, SciPy warns and returns NaN.
        warnings.simplefilter("ignore")
        low, high = bootstrap(
            columns,
            statistic,
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


def metrics_of(per_case: pd.DataFrame) -> tuple[Metric, ...]:
    """Return the metrics that a table has a column of, in the catalogue's order.

    Raises:
        SGNetError: If a column is not that of a metric.
    """
    known = registered_metrics()
    names = {metric.name for metric in known}
    unknown = [name for name in per_case.columns if name not in names and name not in CASE_COLUMNS]
    if unknown:
        raise SGNetError(
            f"per_case has the column {unknown[0]!r}, which no metric has; "
            "register the metric (evaluation/registry.py), or leave the column out"
        )
    return tuple(metric for metric in known if metric.name in per_case.columns)


def rows_of(per_case: pd.DataFrame, *, model: str, label: str) -> pd.DataFrame:
    """Return the rows of one model and label, sorted by case, with the case as their index.

    Raises:
        SGNetError: If the model has two rows for one case.
    """
    chosen = per_case[(per_case["model"] == model) & (per_case["label"] == label)]
    rows = chosen.set_index("case").sort_index()
    if not rows.index.is_unique:
        case = rows.index[rows.index.duplicated()][0]
        raise SGNetError(
            f"{model} has two predictions of the case {case}; give only folds whose cases differ"
        )
    return rows.assign(empty=rows["empty"].fillna(""))


def sums_by_patient(
    values: pd.Series, patients: pd.Series, *, among: pd.Index | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum of each patient's values and how many there are, NaN left out.

    Args:
        values: A value for each case.
        patients: The patient of each case, with the same index.
        among: The patients to return, in this order; 0 for those without a value. By default those
            of the cases, sorted.

    Returns:
        Two arrays of shape (patients,).
    """
    grouped = values.groupby(patients).agg(["sum", "count"])
    if among is not None:
        grouped = grouped.reindex(among, fill_value=0)
    return grouped["sum"].to_numpy(dtype=np.float64), grouped["count"].to_numpy(dtype=np.float64)


ZERO_METHOD = "pratt"
"""Patients without a difference are ranked with the others, and their ranks then dropped.

Source: Pratt 1959, J. Am. Stat. Assoc. 54:655, by `scipy.stats.wilcoxon`.
"""

DECIMALS = 9
"""Differences are rounded, so that those that are equal on paper tie in ranks too."""

ALL_EQUAL = "no patient differs"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One model's values less the reference model's, over the cases where both have one.

    Attributes:
        model: Name of the model.
        reference: Name of the model it is compared with.
        label: Name of the label or region.
        metric: Name of the metric.
        cases: Cases where both models have a value.
        patients: Patients of these cases: the pairs of the test.
        mean: Mean difference over the cases.
        interval: Its interval over patients.
        effect: Matched-pairs rank-biserial correlation of the patients' mean differences, from -1 (all
            patients lower than with the reference) to 1 (all higher). Source: Kerby 2014,
            Compr. Psychol. 3:11.IT.3.1.
        p: Two-sided p of Wilcoxon's signed-rank test; NaN if the metric is not tested.
        p_holm: p after Holm's correction over the family.
        family: Tests in the family.
        reason: Why p is missing, or is 1 without a test.
    """

    model: str
    reference: str
    label: str
    metric: str
    cases: int
    patients: int
    mean: float
    interval: Interval
    effect: float
    p: float = nan
    p_holm: float = nan
    family: int = 0
    reason: str = ""


def compare(
    rows: pd.DataFrame,
    others: pd.DataFrame,
    *,
    model: str,
    reference: str,
    label: str,
    metric: str,
    resampling: Resampling,
    test: bool = True,
) -> Difference:
    """Compare one metric of two models.

    Args:
        rows: Rows of the model, as `rows_of` returns them.
        others: Rows of the reference model.
        model: Name of the model.
        reference: Name of the reference model.
        label: Name of the label or region.
        metric: Name of the metric.
        resampling: How patients are drawn.
        test: Whether to test the difference, not only to estimate it.
    """
    both = rows[metric].notna() & others[metric].notna().reindex(rows.index, fill_value=False)
    cases = rows.index[both]
    own, other = rows.loc[cases, metric], others.loc[cases, metric]
    infinite = bool(np.isinf(own).any() or np.isinf(other).any())
    difference = own - other if not infinite else own * nan
    sums, counts = sums_by_patient(difference, rows.loc[cases, "patient"])
    estimate = estimate_ratio(sums, counts, resampling=resampling)
    per_patient = np.round(sums[counts > 0] / counts[counts > 0], DECIMALS)
    p, reason = _test(per_patient) if test else (nan, "not among the metrics that are tested")
    result = Difference(
        model=model,
        reference=reference,
        label=label,
        metric=metric,
        cases=len(cases),
        patients=rows.loc[cases, "patient"].nunique(),
        mean=estimate.value,
        interval=estimate.interval,
        effect=rank_biserial(per_patient),
        p=p,
        reason=reason,
    )
    if not infinite:
        return result
    return replace(result, interval=replace(result.interval, reason=INFINITE), reason=INFINITE)


def rank_biserial(differences: NDArray[np.float64]) -> float:
    """Return the ranks' sum of the positive less that of the negative differences, over their sum.

    Zeros are ranked with the others and then dropped, as in the test. 0 if all are zero, NaN if there
    are none.

    Args:
        differences: Paired differences, shape (pairs,).
    """
    from scipy.stats import rankdata  # noqa: PLC0415 as in interval.py

    if not differences.size:
        return nan
    ranks = rankdata(np.abs(differences))
    total = ranks[differences != 0].sum()
    return float((np.sign(differences) * ranks).sum() / total) if total else 0.0


def correct(differences: Iterable[Difference]) -> tuple[Difference, ...]:
    """Correct the p of one family of tests by Holm's method.

    Source: Holm 1979, Scand. J. Stat. 6:65, by `statsmodels.stats.multitest.multipletests`.

    Args:
        differences: The family; those without a p do not belong to it and stay as they are.
    """
    # Imported here because statsmodels takes two seconds to import.
    from statsmodels.stats.multitest import multipletests  # noqa: PLC0415

    differences = tuple(differences)
    tested = [index for index, difference in enumerate(differences) if not isnan(difference.p)]
    if not tested:
        return differences
    corrected = multipletests([differences[index].p for index in tested], method="holm")[1]
    by_index = dict(zip(tested, map(float, corrected), strict=True))
    return tuple(
        replace(difference, p_holm=by_index[index], family=len(tested)) if index in by_index else difference
        for index, difference in enumerate(differences)
    )


def _test(differences: NDArray[np.float64]) -> tuple[float, str]:
    """Return p and, if no test gave it, the reason."""
    from scipy.stats import wilcoxon  # noqa: PLC0415 as in interval.py

    if differences.size < FEWEST_PATIENTS:
        return nan, TOO_FEW_PATIENTS
    if not differences.any():
        return 1.0, ALL_EQUAL
    return float(wilcoxon(differences, zero_method=ZERO_METHOD).pvalue), ""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a model stands among all.

    Attributes:
        model: Name of the model.
        mean_rank: Mean over the metrics of the model's rank by its mean, 1 the best; equal means
            share their ranks.
        rank: Its place by mean rank, 1 the best; equals have the better place.
        shares: Share of the resamples in which it has each place, from 1 on; empty without resamples.
        interval: Interval of the place over patients.
    """

    model: str
    mean_rank: float
    rank: int
    shares: tuple[float, ...]
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The models by mean rank.

    Attributes:
        label: Name of the label or region.
        metrics: Names of the metrics that count, each as much as the others.
        standings: The best model first; empty if no metric has a value of every model.
    """

    label: str
    metrics: tuple[str, ...]
    standings: tuple[Standing, ...]


def rank_models(
    rows: Mapping[str, pd.DataFrame], *, label: str, metrics: Sequence[Metric], resampling: Resampling
) -> Ranking:
    """Rank models by their mean rank over metrics, again and again over resampled patients.

    Each model's mean is over all its cases that have a value, as the tables show it. A resample in
    which a metric has no value of some model goes without that metric.

    Source: Wiesenfarth et al. 2021, Sci. Rep. 11:2369 (bootstrapped rankings of challenges).

    Args:
        rows: Rows of each model, as `rows_of` returns them.
        label: Name of the label or region.
        metrics: Metrics that say what is better.
        resampling: How patients are drawn.
    """
    patients = pd.Index(sorted({patient for table in rows.values() for patient in table["patient"]}))
    shape = (resampling.number, len(patients))
    # The first row is not drawn: it is the ranking itself.
    drawn = resampling.rng().integers(len(patients), size=shape) if len(patients) else np.empty(shape, int)
    drawn = np.vstack([np.arange(len(patients)), drawn])
    ranks = {metric.name: _ranks(rows, metric, patients, drawn) for metric in metrics}
    ranks = {name: rank for name, rank in ranks.items() if not np.isnan(rank[0]).any()}
    if not ranks:
        return Ranking(label=label, metrics=(), standings=())
    stacked = np.stack(list(ranks.values()))
    valid = ~np.isnan(stacked).all(axis=(0, 2))
    mean_ranks = np.asarray(np.nanmean(stacked[:, valid], axis=0))
    places = _rank(np.round(mean_ranks, DECIMALS), method="min").astype(int)
    standings = [
        _standing(model, mean_ranks[0, index], places[:, index], len(rows), len(patients))
        for index, model in enumerate(rows)
    ]
    return Ranking(
        label=label, metrics=tuple(ranks), standings=tuple(sorted(standings, key=lambda each: each.rank))
    )


def _ranks(
    rows: Mapping[str, pd.DataFrame], metric: Metric, patients: pd.Index, drawn: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return each model's rank by one metric in each resample, NaN if a model has no value there."""
    means = []
    for table in rows.values():
        sums, counts = sums_by_patient(table[metric.name], table["patient"], among=patients)
        with np.errstate(invalid="ignore"):
            means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    stacked = np.stack(means, axis=1)
    return _rank(-stacked if metric.higher_is_better else stacked, method="average")


def _rank(values: NDArray[np.float64], *, method: str) -> NDArray[np.float64]:
    from scipy.stats import rankdata  # noqa: PLC0415 as in interval.py

    ranks = np.full(values.shape, nan)
    known = ~np.isnan(values).any(axis=1)
    if known.any():
        ranks[known] = rankdata(values[known], method=method, axis=1)
    return ranks


def _standing(
    model: str,
    mean_rank: float,
    places: NDArray[np.intp],
    models: int,
    patients: int,
) -> Standing:
    rank, resampled = int(places[0]), places[1:]
    if patients < FEWEST_PATIENTS:
        shares: tuple[float, ...] = ()
        interval = no_interval(TOO_FEW_PATIENTS)
    else:
        shares = tuple(float((resampled == place).mean()) for place in range(1, models + 1))
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(resampled, (tail, 1 - tail), method="inverted_cdf")
        interval = Interval(low=float(low), high=float(high), method="percentile")
    return Standing(model=model, mean_rank=float(mean_rank), rank=rank, shares=shares, interval=interval)
