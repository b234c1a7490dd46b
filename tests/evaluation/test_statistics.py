import math
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.comparison import summarise
from sgnet_nnunet.evaluation.registry import case_metrics, headline_metrics
from sgnet_nnunet.report.tables import to_json

pytestmark = pytest.mark.filterwarnings("error")
ALL_METRICS = tuple(metric.name for metric in case_metrics())
HEADLINE_METRICS = tuple(metric.name for metric in headline_metrics())


def summary_of(figures, *, seed=0, **options):
    return summarise(figures, rng=np.random.default_rng(seed), **{"resamples": 100} | options)


def shuffled(figures, *, seed):
    return replace(
        figures,
        per_case=figures.per_case.sample(frac=1, random_state=seed),
        per_lesion=figures.per_lesion.sample(frac=1, random_state=seed),
    )


def test_it_covers_every_model_metric_and_label(random_figures):
    summary = summary_of(random_figures(models=3, metrics=ALL_METRICS))
    assert len(summary.descriptions) == 3 * len(ALL_METRICS)
    assert len(summary.differences) == 2 * len(ALL_METRICS)
    assert len(summary.pooled) == 3 * 4
    assert [len(ranking.standings) for ranking in summary.rankings] == [3]
    assert summary.missing == {"Model_0": (), "Model_1": ("case001",), "Model_2": ()}


def test_the_same_seed_gives_the_same_whatever_the_order_of_rows(random_figures):
    figures = random_figures(models=2)
    expected = to_json(summary_of(figures))
    assert to_json(summary_of(figures)) == expected
    assert to_json(summary_of(shuffled(figures, seed=0))) == expected
    assert to_json(summary_of(figures, seed=1)) != expected


def test_a_models_own_figures_do_not_change_with_the_others(random_figures):
    every = random_figures(models=3)
    names = ["Model_0", "Model_1"]
    fewer = replace(
        every,
        results=replace(every.results, models=every.results.models[:2]),
        per_case=every.per_case[every.per_case["model"].isin(names)],
        per_lesion=every.per_lesion[every.per_lesion["model"].isin(names)],
    )
    of_every, of_fewer = summary_of(every), summary_of(fewer)
    for key, description in of_fewer.description_of.items():
        assert repr(of_every.description_of[key]) == repr(description)


def test_the_family_is_every_test_of_one_label(random_figures):
    summary = summary_of(random_figures(models=3))
    tested = [each for each in summary.differences if not math.isnan(each.p)]
    assert {each.metric for each in tested} == set(HEADLINE_METRICS)
    assert {each.family for each in tested} == {2 * len(HEADLINE_METRICS)}
    assert all(each.p <= each.p_holm <= 1 for each in tested)


def test_labels_are_families_of_their_own(rows, figures_of):
    table = pd.concat(
        rows(model=model, label=label, dice=values)
        for model, values in (("A", [0.1, 0.2, 0.3]), ("B", [0.4, 0.5, 0.7]))
        for label in ("core", "edema")
    )
    summary = summary_of(figures_of(table))
    assert summary.labels == ("core", "edema")
    assert [(each.label, each.family) for each in summary.differences] == [("core", 1), ("edema", 1)]
    assert [ranking.label for ranking in summary.rankings] == ["core", "edema"]


def test_the_first_model_is_the_reference_unless_another_is_named(random_figures):
    figures = random_figures()
    assert {each.reference for each in summary_of(figures).differences} == {"Model_0"}
    named = summary_of(figures, reference="Model_2")
    assert {each.model for each in named.differences} == {"Model_0", "Model_1"}
    first = summary_of(figures).difference_of["Model_2", "tumour", "dice"]
    turned = named.difference_of["Model_0", "tumour", "dice"]
    assert (turned.mean, turned.effect, turned.p) == pytest.approx((-first.mean, -first.effect, first.p))


def test_an_unknown_reference_is_refused(random_figures):
    with pytest.raises(SGNetError, match=r"no model UNet; name one of Model_0, Model_1, Model_2"):
        summary_of(random_figures(), reference="UNet")


def test_a_model_without_rows_is_named(rows, figures_of):
    table = pd.concat([rows(dice=[0.1]), rows(model="B", label="core", dice=[0.1])])
    with pytest.raises(SGNetError, match="B has no case with the label tumour"):
        summary_of(figures_of(table))


def test_a_single_model_is_described_and_not_compared(random_figures):
    summary = summary_of(random_figures(models=1))
    assert summary.descriptions
    assert summary.differences == summary.rankings == ()


def test_one_case_of_one_patient_gives_figures_with_reasons(rows, figures_of):
    table = pd.concat([rows(dice=[0.1]), rows(model="B", dice=[0.4])])
    summary = summary_of(figures_of(table))
    assert all(each.interval.reason for each in summary.descriptions)
    assert all(each.reason for each in summary.differences)
    assert [each.model for each in summary.rankings[0].standings] == ["B", "A"]


def test_a_metric_that_is_nan_everywhere_stays_out_of_family_and_ranking(rows, figures_of):
    values = {"dice": [0.1, 0.4, 0.6], "recall": [math.nan] * 3}
    summary = summary_of(figures_of(pd.concat([rows(**values), rows(model="B", **values)])))
    assert summary.difference_of["B", "tumour", "dice"].family == 1
    assert summary.difference_of["B", "tumour", "recall"].family == 0
    assert summary.rankings[0].metrics == ("dice",)


def test_six_models_on_92_cases_take_seconds(random_figures):
    figures = random_figures(models=6, cases=92, metrics=ALL_METRICS)
    start = time.process_time()
    summary_of(figures, resamples=2000)
    assert time.process_time() - start < 20
