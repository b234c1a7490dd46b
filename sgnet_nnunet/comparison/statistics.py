"""All statistics of a comparison."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from sgnet_nnunet.comparison.definitions import Definition, define
from sgnet_nnunet.comparison.describe import Counts, Description, count_cases, describe
from sgnet_nnunet.comparison.difference import ZERO_METHOD, Difference, compare, correct
from sgnet_nnunet.comparison.figures import HEADLINE_METRICS, Figures
from sgnet_nnunet.comparison.interval import CONFIDENCE, Resampling
from sgnet_nnunet.comparison.pooled import PooledLesions, pool_lesions
from sgnet_nnunet.comparison.ranking import Ranking, rank_models
from sgnet_nnunet.comparison.rows import metrics_of, rows_of
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.metric import Metric
from sgnet_nnunet.results.case import Model

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
                    test=metric.name in HEADLINE_METRICS,
                )

    def ranking(self) -> Ranking:
        headline = [metric for metric in self.metrics if metric.name in HEADLINE_METRICS]
        return rank_models(self.rows, label=self.label, metrics=headline, resampling=self.resampling)

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
