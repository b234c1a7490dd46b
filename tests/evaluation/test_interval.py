import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sgnet_nnunet.evaluation.statistics import (
    INFINITE,
    TOO_FEW_PATIENTS,
    Interval,
    Resampling,
    estimate_ratio,
)

pytestmark = pytest.mark.filterwarnings("error")
RESAMPLING = Resampling(seed=3, number=500)


def of_values(values, resampling=RESAMPLING):
    values = np.asarray(values, dtype=float)
    return estimate_ratio(values, np.ones(values.size), resampling=resampling)


def test_with_one_case_a_patient_it_is_scipys_interval_of_the_mean():
    values = np.random.default_rng(0).normal(5, 2, 30)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=500, method="BCa", rng=np.random.default_rng(3)
    ).confidence_interval
    interval = of_values(values).interval
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.method == "BCa"


def test_the_value_is_the_sum_of_parts_over_the_sum_of_wholes():
    estimate = estimate_ratio(np.array([1.0, 6.0]), np.array([2.0, 4.0]), resampling=RESAMPLING)
    assert estimate.value == pytest.approx(7 / 6)


def test_two_alike_scans_of_each_patient_tell_no_more_than_one():
    values = np.random.default_rng(1).random(20)
    once = of_values(values).interval
    twice = estimate_ratio(2 * values, np.full(20, 2.0), resampling=RESAMPLING).interval
    as_if_independent = of_values(np.repeat(values, 2)).interval
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
    assert as_if_independent.high - as_if_independent.low < 0.85 * (once.high - once.low)


def test_it_holds_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    held = [
        interval.low <= 1 <= interval.high
        for interval in (
            of_values(rng.exponential(1, 40), Resampling(seed=seed, number=300)).interval
            for seed in range(200)
        )
    ]
    assert 0.88 <= np.mean(held) <= 0.99


def test_a_patients_part_is_drawn_with_its_whole():
    wholes = np.array([1.0, 2.0, 3.0, 10.0])
    interval = estimate_ratio(wholes / 4, wholes, resampling=RESAMPLING).interval
    assert (interval.low, interval.high) == pytest.approx((0.25, 0.25))


def test_patients_without_a_say_change_nothing():
    parts, wholes = np.array([1.0, 0.0, 2.0, 4.0, 0.0]), np.array([1.0, 0.0, 3.0, 4.0, 0.0])
    counted = wholes > 0
    assert estimate_ratio(parts, wholes, resampling=RESAMPLING) == estimate_ratio(
        parts[counted], wholes[counted], resampling=RESAMPLING
    )


def test_where_bca_is_not_defined_it_is_the_percentiles():
    interval = of_values([0.25] * 6).interval
    assert (interval.low, interval.high, interval.method) == (0.25, 0.25, "percentile")


@pytest.mark.parametrize(
    ("values", "value", "reason"),
    [
        ([], math.nan, TOO_FEW_PATIENTS),
        ([0.5], 0.5, TOO_FEW_PATIENTS),
        ([1.0, math.inf], math.inf, INFINITE),
    ],
)
def test_without_an_interval_it_says_why(values, value, reason):
    estimate = of_values(values)
    assert estimate.value == pytest.approx(value, nan_ok=True)
    assert math.isnan(estimate.interval.low)
    assert math.isnan(estimate.interval.high)
    assert (estimate.interval.method, estimate.interval.reason) == ("", reason)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4).map(lambda quarter: quarter / 4), min_size=2, max_size=12))
def test_it_lies_within_the_values_and_is_the_same_each_time(values):
    resampling = Resampling(seed=0, number=50)
    interval = of_values(values, resampling).interval
    assert min(values) <= interval.low <= interval.high <= max(values)
    assert interval == of_values(values, resampling).interval


def test_a_factor_below_zero_turns_it_round():
    interval = Interval(low=-1.0, high=3.0, method="BCa").times(-2)
    assert (interval.low, interval.high, interval.method) == (-6, 2, "BCa")


def test_the_generator_decides_on_the_resamples():
    seeds = [Resampling.drawn_by(np.random.default_rng(seed)).seed for seed in (0, 0, 1)]
    assert seeds[0] == seeds[1] != seeds[2]
