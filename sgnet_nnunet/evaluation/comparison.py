"""Statistics of a comparison: descriptions of each model, differences to the baseline, ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.lesion_metrics import ALL_SIZES, SIZE_CLASSES
from sgnet_nnunet.evaluation.measurement import CASE_COLUMNS
from sgnet_nnunet.evaluation.registry import Metric, registered_metrics
from sgnet_nnunet.evaluation.results import Model
from sgnet_nnunet.evaluation.statistics import (
    CONFIDENCE,
    DECIMALS,
    INFINITE,
    RESAMPLES,
    ZERO_METHOD,
    Estimate,
    Resampling,
    estimate_ratio,
    holm,
    rank_biserial,
    rank_models,
    rows_of,
    wilcoxon_test,
)

TABLES = ("counts", "descriptions", "differences", "ranking", "pooled")
NOT_TESTED = "not among the metrics that are tested"

Row = dict[str, Any]
Rows = dict[str, pd.DataFrame]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the statistics were made; `zeros` is how the test treats patients without a difference."""

    baseline: str
    resampling_seed: int
    resamples: int
    confidence: float = CONFIDENCE
    intervals: str = "bootstrap over patients; BCa, or percentiles where BCa is not defined"
    test: str = "Wilcoxon's signed-rank test, two-sided, on the patients' mean differences"
    zeros: str = ZERO_METHOD
    effect: str = "matched-pairs rank-biserial correlation, from -1 to 1"
    correction: str = "Holm"
    family: str = "all models but the baseline, times all headline metrics; one family for each label"


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """The statistics of a table of cases; the rows of all tables come label by label, then model by model.

    An interval has the columns `low` and `high` (NaN if there is none), `method` (`BCa`, `percentile`
    or "") and `reason` (why there is none).

    Attributes:
        dataset: Name of the data set, or of the reference folder.
        labels: Names of the labels or regions.
        counts: What each model was evaluated on: `label`, `model`, `cases` (those with a missing
            prediction among them), `patients`, `both_empty` (most metrics leave these cases out),
            `empty_predictions` and `empty_references` (only this mask is empty: the worst value),
            `missing` (scored as if the prediction were empty).
        descriptions: Every metric of every model: `label`, `model`, `metric`, `n` (cases with a value),
            `patients` (of these), `left_out` (cases without a value), `one_empty` (cases among the n where
            one mask is empty), `mean`, its interval over patients, `sd` (over cases, with n - 1),
            `median`, `q1`, `q3`.
        differences: Each model's values less the baseline's, over the cases where both have one: `label`,
            `model`, `baseline`, `metric`, `cases`, `patients` (the pairs of the test), `mean`, its
            interval, `effect`, `p` (NaN unless the metric is a headline), `p_holm`, `family` (number of
            tests), `test_reason` (why p is missing, or is 1 without a test).
        ranking: The models by mean rank: `label`, `model`, `rank` (its place, 1 the best), `mean_rank`, the
            interval of the place, `place_1`, `place_2` and so on (share of the resamples in which the
            model has this place), `metrics` (names of those that count). Empty for a single model.
        pooled: Lesions of all cases together (micro-averaged detection), by size class: `label`, `model`,
            `size`, `smallest_mm`, `limit_mm`, `cases`, `detected`, `missed`, `false_positives`,
            `sensitivity`, `precision`, `f1`, `false_positives_per_case`, and of these four the ends of
            their intervals, such as `f1_low` and `f1_high`. A predicted lesion that detects two of the
            reference counts twice in this precision.
    """

    dataset: str
    models: tuple[Model, ...]
    labels: tuple[str, ...]
    metrics: tuple[Metric, ...]
    protocol: Protocol
    counts: pd.DataFrame
    descriptions: pd.DataFrame
    differences: pd.DataFrame
    ranking: pd.DataFrame
    pooled: pd.DataFrame

    @property
    def baseline(self) -> str:
        """Name of the model that the others are compared with."""
        return self.protocol.baseline

    @property
    def headline(self) -> tuple[Metric, ...]:
        """The metrics that models are tested on."""
        return tuple(metric for metric in self.metrics if metric.headline)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists, texts and numbers (which may be NaN or infinite)."""
        return {
            "dataset": self.dataset,
            "models": [asdict(model) for model in self.models],
            "labels": list(self.labels),
            "metrics": [metric.as_dict() for metric in self.metrics],
            "protocol": asdict(self.protocol),
            **{name: getattr(self, name).to_dict("records") for name in TABLES},
        }


def compare(
    per_case: pd.DataFrame,
    *,
    baseline: str | None = None,
    rng: np.random.Generator | int = 0,
    resamples: int = RESAMPLES,
    models: Sequence[Model] = (),
    dataset: str = "",
) -> Comparison:
    """Return all statistics of a table of cases, the same whatever the order of a model's cases.

    >>> table = pd.DataFrame({"model": list("AAABBB"), "fold": "0", "case": list("xyzxyz"),
    ...                       "patient": list("xyzxyz"), "label": "lesion", "empty": "", "missing": False,
    ...                       "dice": [0.5, 0.6, 0.7, 0.6, 0.8, 0.75]})
    >>> compare(table).differences[["model", "metric", "mean", "p"]]
      model metric      mean     p
    0     B   dice  0.116667  0.25

    Args:
        per_case: A table as `evaluate` returns it; columns of metrics may be left out.
        baseline: Name of the model that the others are compared with; by default the first.
        rng: Gives the seed of all resamples; an integer is taken as a generator's seed.
        resamples: Resamples of each interval and ranking.
        models: The models and their costs; by default those of the table.
        dataset: Name of the data set.

    Raises:
        SGNetError: If there is no such model, a model has no row for a label, a case has two rows, or
            a column is not that of a metric.
    """
    models = tuple(models) or tuple(Model(name=name) for name in dict.fromkeys(per_case["model"]))
    names = [model.name for model in models]
    baseline = baseline or names[0]
    if baseline not in names:
        raise SGNetError(f"there is no model {baseline}; name one of {', '.join(names)} as the baseline")
    metrics = metrics_of(per_case)
    resampling = Resampling(seed=int(np.random.default_rng(rng).integers(2**32)), number=resamples)
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    labels = tuple(dict.fromkeys(per_case["label"]))
    for label in labels:
        rows = {name: rows_of(per_case, model=name, label=label) for name in names}
        of_label = (
            (_count(table, name) for name, table in rows.items()),
            _describe(rows, metrics, resampling),
            _differences(rows, metrics, baseline, resampling),
            _ranking(rows, metrics, resampling),
            _pool(rows, resampling),
        )
        for table, found in zip(tables.values(), of_label, strict=True):
            table += [{"label": label, **row} for row in found]
    return Comparison(
        dataset=dataset,
        models=models,
        labels=labels,
        metrics=metrics,
        protocol=Protocol(baseline=baseline, resampling_seed=resampling.seed, resamples=resamples),
        **{name: pd.DataFrame(rows) for name, rows in tables.items()},
    )


def metrics_of(per_case: pd.DataFrame) -> tuple[Metric, ...]:
    """Return the metrics that a table has a column of, in the registry's order.

    Raises:
        SGNetError: If a column is not that of a metric.
    """
    known = {metric.name: metric for metric in registered_metrics()}
    if unknown := [name for name in per_case.columns if name not in known and name not in CASE_COLUMNS]:
        problem = f"the table of cases has the column {unknown[0]!r}, which no metric has"
        remedy = "register the metric (evaluation/registry.py), or leave the column out"
        raise SGNetError(f"{problem}; {remedy}")
    return tuple(metric for name, metric in known.items() if name in per_case.columns)


def _interval(estimate: Estimate) -> Row:
    return {"mean": estimate.value, **asdict(estimate.interval)}


def _count(rows: pd.DataFrame, model: str) -> Row:
    kinds = {"both_empty": "both", "empty_predictions": "prediction", "empty_references": "reference"}
    return {
        "model": model,
        "cases": len(rows),
        "patients": rows["patient"].nunique(),
        **{column: int((rows["empty"] == kind).sum()) for column, kind in kinds.items()},
        "missing": int(rows["missing"].astype(bool).sum()),
    }


def _describe(rows: Rows, metrics: Sequence[Metric], resampling: Resampling) -> Iterator[Row]:
    for model, table in rows.items():
        values = table[[metric.name for metric in metrics]].astype(float)
        present = values.notna()
        one_empty = present[table["empty"].isin(["prediction", "reference"])].sum()
        with np.errstate(invalid="ignore"):  # infinite values have no standard deviation
            quartiles, sd = values.quantile([0.25, 0.5, 0.75]), values.std()
        by_patient = values.groupby(table["patient"])
        sums, counts = by_patient.sum(), by_patient.count()
        for name in map(str, values):
            parts, wholes = (each[name].to_numpy(dtype=np.float64) for each in (sums, counts))
            yield {
                "model": model,
                "metric": name,
                "n": int(present[name].sum()),
                "patients": int((wholes > 0).sum()),
                "left_out": int((~present[name]).sum()),
                "one_empty": int(one_empty[name]),
                **_interval(estimate_ratio(parts, wholes, resampling=resampling)),
                "sd": sd[name],
                **dict(zip(("q1", "median", "q3"), quartiles[name], strict=True)),
            }


def _differences(rows: Rows, metrics: Sequence[Metric], baseline: str, resampling: Resampling) -> list[Row]:
    """Return the differences of one label, p corrected over all of them."""
    found = []
    names = [metric.name for metric in metrics]
    for model, table in rows.items():
        if model == baseline:
            continue
        own, other = (each[names].astype(float) for each in (table, rows[baseline]))
        own, other = own.align(other, join="inner", axis=0)
        present = own.notna() & other.notna()
        infinite = ((np.isinf(own) | np.isinf(other)) & present).any()
        with np.errstate(invalid="ignore"):
            by_patient = (own - other).where(present).groupby(table["patient"].loc[own.index])
        sums, counts = by_patient.sum(), by_patient.count()
        for metric in metrics:
            parts, wholes = (each[metric.name].to_numpy(dtype=np.float64) for each in (sums, counts))
            counted = wholes > 0
            if infinite[metric.name]:
                parts = np.full_like(parts, nan)
            means = np.round(parts[counted] / wholes[counted], DECIMALS)
            p, reason = nan, INFINITE if infinite[metric.name] else NOT_TESTED
            if metric.headline and not infinite[metric.name]:
                p, reason = wilcoxon_test(means)
            found.append(
                {
                    "model": model,
                    "baseline": baseline,
                    "metric": metric.name,
                    "cases": int(present[metric.name].sum()),
                    "patients": int(counted.sum()),
                    **_interval(estimate_ratio(parts, wholes, resampling=resampling)),
                    "effect": rank_biserial(means),
                    "p": p,
                    "p_holm": nan,
                    "family": 0,
                    "test_reason": reason,
                }
            )
    corrected = holm(np.array([row["p"] for row in found], dtype=np.float64))
    family = int(np.count_nonzero(~np.isnan(corrected)))
    for row, p_holm in zip(found, corrected.tolist(), strict=True):
        row |= {"p_holm": p_holm, "family": 0 if np.isnan(p_holm) else family}
    return found


def _ranking(rows: Rows, metrics: Sequence[Metric], resampling: Resampling) -> list[Row]:
    ranked = [metric for metric in metrics if metric.ranked]
    ranks = rank_models(rows, ranked, resampling=resampling) if len(rows) > 1 else None
    if ranks is None:
        return []
    found = []
    tails = (1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2
    for model, mean_rank, (rank, *places) in zip(rows, ranks.mean_ranks, ranks.places.T, strict=True):
        low, high = np.quantile(places, tails, method="inverted_cdf") if places else (nan, nan)
        shares = {
            f"place_{place}": places.count(place) / len(places) if places else nan
            for place in range(1, len(rows) + 1)
        }
        row = {"model": model, "rank": int(rank), "mean_rank": float(mean_rank)}
        row |= {"low": float(low), "high": float(high), **shares, "metrics": list(ranks.metrics)}
        found.append(row)
    return sorted(found, key=lambda row: row["rank"])


def _pool(rows: Rows, resampling: Resampling) -> Iterator[Row]:
    for size in (ALL_SIZES, *SIZE_CLASSES):
        counts = ("detected_lesions", "reference_lesions", "false_positives")
        columns = [f"{name}{size.suffix}" for name in counts]
        for model, table in rows.items():
            if not set(columns) <= set(table.columns):
                continue
            by_patient = table.groupby("patient")
            detected, lesions, false = by_patient[columns].sum().to_numpy(dtype=np.float64).T
            cases = by_patient.size().to_numpy(dtype=np.float64)
            ratios = {
                "sensitivity": (detected, lesions),
                "precision": (detected, detected + false),
                "f1": (2 * detected, detected + lesions + false),
                "false_positives_per_case": (false, cases),
            }
            row: Row = {
                "model": model,
                "size": size.title,
                "smallest_mm": size.smallest_mm,
                "limit_mm": size.limit_mm,
                "cases": len(table),
                "detected": int(detected.sum()),
                "missed": int((lesions - detected).sum()),
                "false_positives": int(false.sum()),
            }
            for name, (parts, wholes) in ratios.items():
                estimate = estimate_ratio(parts, wholes, resampling=resampling)
                interval = estimate.interval
                row |= {name: estimate.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            yield row
