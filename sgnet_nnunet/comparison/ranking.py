"""Which model is best over all, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sgnet_nnunet.comparison.interval import (
    CONFIDENCE,
    FEWEST_PATIENTS,
    TOO_FEW_PATIENTS,
    Interval,
    Resampling,
    no_interval,
)
from sgnet_nnunet.comparison.rows import sums_by_patient
from sgnet_nnunet.evaluation.metric import Metric

DECIMALS = 9
"""Mean ranks are rounded, so that those that are equal on paper tie."""


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
