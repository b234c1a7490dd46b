"""Former form of a comparison's statistics, until the report reads `evaluation.comparison.Comparison`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan, nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.lesion_metrics import ALL_SIZES, SIZE_CLASSES, SizeClass
from sgnet_nnunet.evaluation.measurement import CASE_COLUMNS, Figures
from sgnet_nnunet.evaluation.registry import Metric, registered_metrics
from sgnet_nnunet.evaluation.results import Model
from sgnet_nnunet.evaluation.statistics import (
    ALL_EQUAL,
    CONFIDENCE,
    DECIMALS,
    FEWEST_PATIENTS,
    INFINITE,
    TOO_FEW_PATIENTS,
    ZERO_METHOD,
    Estimate,
    Interval,
    Resampling,
    estimate_ratio,
    rank_biserial,
    rows_of,
)


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
    drawn = (
        np.random.default_rng(resampling.seed).integers(len(patients), size=shape)
        if len(patients)
        else np.empty(shape, int)
    )
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
        interval = Interval(reason=TOO_FEW_PATIENTS)
    else:
        shares = tuple(float((resampled == place).mean()) for place in range(1, models + 1))
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(resampled, (tail, 1 - tail), method="inverted_cdf")
        interval = Interval(low=float(low), high=float(high), method="percentile")
    return Standing(model=model, mean_rank=float(mean_rank), rank=rank, shares=shares, interval=interval)


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What a metric is.

    Attributes:
        name: Its column.
        title: Its name in tables.
        unit: Unit of its values, "" for a share.
        higher_is_better: None if it says nothing about the mask's quality.
        best: Value of a perfect mask; NaN if there is none.
        meaning: What is measured.
        headline: Whether models are tested and ranked on it.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool | None
    best: float
    meaning: str
    headline: bool


def define(metric: Metric) -> Definition:
    """Return what a metric is."""
    return Definition(
        name=metric.name,
        title=metric.title,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        best=metric.best,
        meaning=metric.meaning,
        headline=metric.headline,
    )


def size_in_words(size: SizeClass) -> str:
    """Return a size class as it follows the word "lesions"; "of any size" for all."""
    if not size.suffix:
        return "of any size"
    if not size.smallest_mm:
        return f"below {size.limit_mm:g} mm"
    if size == SizeClass(smallest_mm=size.smallest_mm):
        return f"of {size.smallest_mm:g} mm or more"
    return f"of {size.smallest_mm:g} to below {size.limit_mm:g} mm"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What one model was judged on.

    Attributes:
        model: Name of the model.
        label: Name of the label or region.
        cases: Cases, missing predictions among them.
        patients: Patients of these cases.
        both_empty: Cases where neither mask has a voxel; most metrics leave them out.
        empty_predictions: Cases where only the prediction is empty; they score the worst value.
        empty_references: Cases where only the reference is empty; they score the worst value.
        missing: Cases without a prediction, scored as if it were empty.
    """

    model: str
    label: str
    cases: int
    patients: int
    both_empty: int
    empty_predictions: int
    empty_references: int
    missing: int


@dataclass(frozen=True, kw_only=True)
class Description:
    """The values of one metric over the cases of one model.

    Attributes:
        model: Name of the model.
        label: Name of the label or region.
        metric: Name of the metric.
        n: Cases with a value.
        patients: Patients of these cases.
        left_out: Cases without one (NaN): both masks are empty, or no lesion is of the metric's size.
        one_empty: Cases among the n where one mask is empty, so that shares and distances score the
            worst value.
        mean: Mean over the n cases.
        sd: Standard deviation over cases, with n - 1; NaN for fewer than two.
        median: Median.
        q1: Lower quartile.
        q3: Upper quartile.
        interval: Interval of the mean over patients.
    """

    model: str
    label: str
    metric: str
    n: int
    patients: int
    left_out: int
    one_empty: int
    mean: float
    sd: float
    median: float
    q1: float
    q3: float
    interval: Interval


def count_cases(rows: pd.DataFrame, *, model: str, label: str) -> Counts:
    """Count the cases of one model and label, given as `rows_of` returns them."""
    empty = rows["empty"]
    return Counts(
        model=model,
        label=label,
        cases=len(rows),
        patients=rows["patient"].nunique(),
        both_empty=int((empty == "both").sum()),
        empty_predictions=int((empty == "prediction").sum()),
        empty_references=int((empty == "reference").sum()),
        missing=int(rows["missing"].astype(bool).sum()),
    )


def describe(
    rows: pd.DataFrame, *, model: str, label: str, metric: str, resampling: Resampling
) -> Description:
    """Describe one metric over the rows of one model and label, given as `rows_of` returns them."""
    kept = rows[rows[metric].notna()]
    values = kept[metric].to_numpy(dtype=np.float64)
    estimate = estimate_ratio(*sums_by_patient(kept[metric], kept["patient"]), resampling=resampling)
    with np.errstate(invalid="ignore"):  # infinite values have no standard deviation
        sd = float(values.std(ddof=1)) if values.size > 1 else nan
        q1, median, q3 = np.quantile(values, (0.25, 0.5, 0.75)) if values.size else (nan, nan, nan)
    return Description(
        model=model,
        label=label,
        metric=metric,
        n=len(kept),
        patients=kept["patient"].nunique(),
        left_out=len(rows) - len(kept),
        one_empty=int(kept["empty"].isin(["prediction", "reference"]).sum()),
        mean=estimate.value,
        sd=sd,
        median=float(median),
        q1=float(q1),
        q3=float(q3),
        interval=estimate.interval,
    )


STATUSES = ("detected", "missed", "false positive")


@dataclass(frozen=True, kw_only=True)
class PooledLesions:
    """The lesions of one model, label and size class over all cases.

    Attributes:
        model: Name of the model.
        label: Name of the label or region.
        size: The class, by diameter.
        cases: Cases, those without lesions among them.
        detected: Lesions of the references that are found.
        missed: Lesions of the references that are not.
        false_positives: Predicted lesions that meet none of the reference.
        sensitivity: detected / (detected + missed).
        precision: detected / (detected + false positives). A predicted lesion that finds two of the
            reference counts twice; the per-case lesion precision counts it once.
        f1: 2 detected / (2 detected + missed + false positives).
        false_positives_per_case: False positives / cases.
    """

    model: str
    label: str
    size: SizeClass
    cases: int
    detected: int
    missed: int
    false_positives: int
    sensitivity: Estimate
    precision: Estimate
    f1: Estimate
    false_positives_per_case: Estimate


def pool_lesions(
    rows: pd.DataFrame, per_lesion: pd.DataFrame, *, model: str, label: str, resampling: Resampling
) -> Iterator[PooledLesions]:
    """Yield the lesions of one model and label, all of them and then class by class.

    Args:
        rows: Rows of `per_case` of the model and label, as `rows_of` returns them.
        per_lesion: The whole table of lesions.
        model: Name of the model.
        label: Name of the label or region.
        resampling: How patients are drawn.
    """
    lesions = per_lesion[(per_lesion["model"] == model) & (per_lesion["label"] == label)]
    cases = rows.groupby("patient").size()
    for size in (ALL_SIZES, *SIZE_CLASSES):
        counts = _count(lesions, size, patients=cases.index)
        detected, missed, false = (counts[status].to_numpy(dtype=np.float64) for status in STATUSES)
        ratios = {
            "sensitivity": (detected, detected + missed),
            "precision": (detected, detected + false),
            "f1": (2 * detected, 2 * detected + missed + false),
            "false_positives_per_case": (false, cases.to_numpy(dtype=np.float64)),
        }
        yield PooledLesions(
            model=model,
            label=label,
            size=size,
            cases=len(rows),
            detected=int(detected.sum()),
            missed=int(missed.sum()),
            false_positives=int(false.sum()),
            **{name: estimate_ratio(*ratio, resampling=resampling) for name, ratio in ratios.items()},
        )


def _count(lesions: pd.DataFrame, size: SizeClass, *, patients: pd.Index) -> pd.DataFrame:
    """Return how many lesions of each status each patient has."""
    chosen = lesions[lesions["diameter_mm"].ge(size.smallest_mm) & lesions["diameter_mm"].lt(size.limit_mm)]
    counts = pd.crosstab(chosen["patient"], chosen["status"])
    return counts.reindex(index=patients, columns=list(STATUSES), fill_value=0)


INTERVALS = (
    "bootstrap over patients, the scans of a patient drawn together; "
    "BCa, or percentiles where BCa is not defined"
)
FAMILY = "all models but the reference, times all headline metrics; one family for each label"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the statistics were made.

    Attributes:
        reference: Name of the model that the others are compared with.
        resampling_seed: Seed of the resamples, drawn by the generator.
        resamples: Resamples of each interval and ranking.
        confidence: Confidence of the intervals.
        intervals: How intervals are made.
        test: The test of paired differences.
        zeros: How the test treats patients without a difference, in SciPy's words.
        correction: Correction of p for the number of tests.
        family: The tests that are corrected together.
    """

    reference: str
    resampling_seed: int
    resamples: int
    confidence: float = CONFIDENCE
    intervals: str = INTERVALS
    test: str = "Wilcoxon's signed-rank test, two-sided, on the patients' mean differences"
    zeros: str = ZERO_METHOD
    correction: str = "Holm"
    family: str = FAMILY


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a comparison says.

    Attributes:
        dataset: Name of the data set, or of the reference folder.
        models: The models, in the order they were named.
        labels: Names of the labels or regions.
        definitions: Every metric that was measured.
        protocol: How the statistics were made.
        missing: Names of the cases without a prediction, by model.
        counts: What each model was judged on, label by label.
        descriptions: Every metric of every model, label by label.
        differences: The same against the reference model; only headline metrics are tested.
        rankings: The models by mean rank, label by label; empty for a single model.
        pooled: Lesions over all cases, by size class.
    """

    dataset: str
    models: tuple[Model, ...]
    labels: tuple[str, ...]
    definitions: tuple[Definition, ...]
    protocol: Protocol
    missing: dict[str, tuple[str, ...]]
    counts: tuple[Counts, ...]
    descriptions: tuple[Description, ...]
    differences: tuple[Difference, ...]
    rankings: tuple[Ranking, ...]
    pooled: tuple[PooledLesions, ...]

    @cached_property
    def description_of(self) -> Mapping[tuple[str, str, str], Description]:
        """The descriptions by model, label and metric."""
        return {(each.model, each.label, each.metric): each for each in self.descriptions}

    @cached_property
    def difference_of(self) -> Mapping[tuple[str, str, str], Difference]:
        """The differences by model, label and metric."""
        return {(each.model, each.label, each.metric): each for each in self.differences}

    @property
    def headline(self) -> tuple[Definition, ...]:
        """The metrics that models are tested and ranked on."""
        return tuple(definition for definition in self.definitions if definition.headline)


def summarise(
    figures: Figures, *, rng: np.random.Generator, reference: str | None = None, resamples: int = 2000
) -> Summary:
    """Return all statistics of a comparison, the same whatever the order of the tables' rows.

    Args:
        figures: What was measured.
        rng: Gives the seed of all resamples.
        reference: Name of the model that the others are compared with; by default the first.
        resamples: Resamples of each interval and ranking.

    Raises:
        SGNetError: If there is no such model, a model has no row for a label, a case has two rows, or
            a column is not that of a metric.
    """
    models = tuple(model.name for model in figures.results.models)
    reference = reference or models[0]
    if reference not in models:
        raise SGNetError(f"there is no model {reference}; name one of {', '.join(models)} as the reference")
    metrics = metrics_of(figures.per_case)
    resampling = Resampling.drawn_by(rng, number=resamples)
    labels = tuple(target.name for target in figures.results.targets)
    parts = [_Label(name, figures, models, metrics, resampling) for name in labels]
    return Summary(
        dataset=figures.results.dataset,
        models=figures.results.models,
        labels=labels,
        definitions=tuple(define(metric) for metric in metrics),
        protocol=Protocol(
            reference=reference,
            resampling_seed=resampling.seed,
            resamples=resampling.number,
        ),
        missing={
            model: tuple(case.name for case in figures.results.missing if case.model == model)
            for model in models
        },
        counts=tuple(count for part in parts for count in part.counts()),
        descriptions=tuple(description for part in parts for description in part.descriptions()),
        differences=tuple(
            difference for part in parts for difference in correct(part.differences(reference))
        ),
        rankings=tuple(part.ranking() for part in parts if len(models) > 1),
        pooled=tuple(pooled for part in parts for pooled in part.pooled()),
    )


class _Label:
    """The statistics of one label or region."""

    def __init__(
        self,
        label: str,
        figures: Figures,
        models: tuple[str, ...],
        metrics: tuple[Metric, ...],
        resampling: Resampling,
    ) -> None:
        self.label, self.metrics, self.resampling = label, metrics, resampling
        self.per_lesion = figures.per_lesion
        self.rows = {model: _present_rows(figures.per_case, model, label) for model in models}

    def counts(self) -> Iterator[Counts]:
        for model, rows in self.rows.items():
            yield count_cases(rows, model=model, label=self.label)

    def descriptions(self) -> Iterator[Description]:
        for model, rows in self.rows.items():
            for metric in self.metrics:
                yield describe(
                    rows, model=model, label=self.label, metric=metric.name, resampling=self.resampling
                )

    def differences(self, reference: str) -> Iterator[Difference]:
        for model, rows in self.rows.items():
            for metric in self.metrics if model != reference else ():
                yield compare(
                    rows,
                    self.rows[reference],
                    model=model,
                    reference=reference,
                    label=self.label,
                    metric=metric.name,
                    resampling=self.resampling,
                    test=metric.headline,
                )

    def ranking(self) -> Ranking:
        ranked = [metric for metric in self.metrics if metric.ranked]
        return rank_models(self.rows, label=self.label, metrics=ranked, resampling=self.resampling)

    def pooled(self) -> Iterator[PooledLesions]:
        for model, rows in self.rows.items():
            yield from pool_lesions(
                rows, self.per_lesion, model=model, label=self.label, resampling=self.resampling
            )


def _present_rows(per_case: pd.DataFrame, model: str, label: str) -> pd.DataFrame:
    rows = rows_of(per_case, model=model, label=label)
    if rows.empty:
        raise SGNetError(f"{model} has no case with the label {label}; leave out the one or the other")
    return rows
