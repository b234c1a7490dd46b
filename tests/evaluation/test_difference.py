import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from sgnet_nnunet.evaluation.statistics import (
    ALL_EQUAL,
    INFINITE,
    TOO_FEW_PATIENTS,
    Resampling,
    compare,
    correct,
    rank_biserial,
    rows_of,
)

pytestmark = pytest.mark.filterwarnings("error")
RESAMPLING = Resampling(seed=0, number=200)


@pytest.fixture
def difference(rows):
    """Return a function that compares Dice values with those of a reference model."""

    def compute(own, other, *, patients=None, test=True):
        tables = [
            rows_of(rows(model=name, patients=patients, dice=values), model=name, label="tumour")
            for name, values in (("B", own), ("A", other))
        ]
        return compare(
            *tables,
            model="B",
            reference="A",
            label="tumour",
            metric="dice",
            resampling=RESAMPLING,
            test=test,
        )

    return compute


def test_cases_where_one_model_has_no_value_are_left_out(difference):
    result = difference([0.5, math.nan, 0.7, 0.9], [0.1, 0.2, math.nan, 0.6])
    assert (result.cases, result.patients) == (2, 2)
    assert result.mean == pytest.approx((0.4 + 0.3) / 2)


def test_cases_pair_by_name_whatever_either_model_has_besides(rows):
    own = rows(model="B", dice=[0.1, 0.2, 0.3]).set_index("case")
    other = rows(model="A", dice=[0.5, 0.1, 0.1]).set_index("case").iloc[[2, 1]]
    result = compare(
        own, other, model="B", reference="A", label="tumour", metric="dice", resampling=RESAMPLING
    )
    assert (result.cases, result.mean) == (2, pytest.approx(0.15))


def test_the_test_is_scipys_on_the_patients_mean_differences(difference):
    rng = np.random.default_rng(0)
    own, other = np.round(rng.random((2, 40)), 2)
    own[:8] = other[:8]
    patients = "aabbccddeeffgghhiijjklmnopqrstuvwxyzABCD"
    gaps = own - other
    by_patient = [gaps[[letter == each for letter in patients]].mean() for each in sorted(set(patients))]
    expected = stats.wilcoxon(np.round(by_patient, 9), zero_method="pratt")
    result = difference(own, other, patients=patients)
    assert result.p == pytest.approx(expected.pvalue)
    assert (result.patients, result.cases) == (30, 40)


def test_the_interval_is_scipys_of_the_paired_differences(difference):
    own, other = np.random.default_rng(0).random((2, 25))
    expected = stats.bootstrap(
        (own - other,), np.mean, n_resamples=200, method="BCa", rng=np.random.default_rng(0)
    ).confidence_interval
    interval = difference(own, other).interval
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_models_that_agree_everywhere_do_not_differ(difference):
    result = difference([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (result.mean, result.effect, result.p, result.reason) == (0, 0, 1, ALL_EQUAL)
    assert (result.interval.low, result.interval.high) == (0, 0)


@pytest.mark.parametrize(
    ("own", "other", "patients"),
    [([0.5], [0.1], None), ([0.5, 0.6], [0.1, 0.1], "aa"), ([0.5, math.nan], [math.nan, 0.1], None)],
)
def test_fewer_than_two_patients_are_not_tested(own, other, patients, difference):
    result = difference(own, other, patients=patients)
    assert math.isnan(result.p)
    assert result.reason == result.interval.reason == TOO_FEW_PATIENTS


@pytest.mark.parametrize("both", [True, False])
def test_infinite_values_are_not_compared(both, difference):
    result = difference([1.0, 2.0, math.inf], [1.0, 1.0, math.inf if both else 0.0])
    assert math.isnan(result.mean)
    assert math.isnan(result.p)
    assert result.reason == result.interval.reason == INFINITE


def test_only_what_is_to_be_tested_is(difference):
    result = difference([0.5, 0.6], [0.1, 0.1], test=False)
    assert math.isnan(result.p)
    assert result.mean == pytest.approx(0.45)


def test_differences_that_are_equal_but_for_rounding_tie(difference):
    assert 0.3 - 0.2 != 0.2 - 0.1
    result = difference([0.3, 0.1, 0.5], [0.2, 0.2, 0.0])
    assert result.effect == pytest.approx((1.5 - 1.5 + 3) / 6)


@pytest.mark.parametrize(
    ("differences", "effect"),
    [([1, 2, 3], 1), ([-1, -2], -1), ([1, -2, 3], 1 / 3), ([1, -1], 0), ([0, 1, -2, 3], 1 / 3), ([0, 0], 0)],
)
def test_effects_equal_those_worked_out_by_hand(differences, effect):
    assert rank_biserial(np.array(differences, dtype=float)) == pytest.approx(effect)


def test_there_is_no_effect_without_pairs():
    assert math.isnan(rank_biserial(np.array([])))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=30))
def test_swapping_the_models_swaps_the_signs(differences):
    differences = np.array(differences)
    effect = rank_biserial(differences)
    assert -1 <= effect <= 1
    assert rank_biserial(-differences) == pytest.approx(-effect)


def test_holms_correction_equals_that_worked_out_by_hand(difference):
    plain = difference([0.5, 0.6], [0.1, 0.1])
    family = [replace(plain, p=p) for p in (0.01, 0.04, math.nan, 0.03)]
    corrected = correct(family)
    assert [each.p_holm for each in corrected] == pytest.approx([0.03, 0.06, math.nan, 0.06], nan_ok=True)
    assert [each.family for each in corrected] == [3, 3, 0, 3]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holms_correction_is_that_of_statsmodels(p_values, difference):
    plain = difference([0.5], [0.1])
    corrected = correct(replace(plain, p=p) for p in p_values)
    assert [each.p_holm for each in corrected] == pytest.approx(multipletests(p_values, method="holm")[1])


def test_a_family_without_tests_stays_as_it_is(difference):
    untested = [difference([0.5], [0.1])]
    assert list(correct(untested)) == untested
