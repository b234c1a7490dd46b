import math

import numpy as np
import pytest

from sgnet_nnunet.evaluation.comparison import count_cases, describe
from sgnet_nnunet.evaluation.statistics import INFINITE, TOO_FEW_PATIENTS, Resampling

pytestmark = pytest.mark.filterwarnings("error")
RESAMPLING = Resampling(seed=0, number=200)


def description(table, metric="dice"):
    return describe(table, model="A", label="tumour", metric=metric, resampling=RESAMPLING)


def test_figures_equal_those_worked_out_by_hand(rows):
    table = rows(patients="aabcde", dice=[0.0, 0.2, 0.4, 0.6, 1.0, math.nan])
    table["empty"] = ["prediction", "", "", "", "", "both"]
    result = description(table)
    assert (result.n, result.patients, result.left_out, result.one_empty) == (5, 4, 1, 1)
    assert result.mean == pytest.approx(0.44)
    assert result.sd == pytest.approx(math.sqrt((0.44**2 + 0.24**2 + 0.04**2 + 0.16**2 + 0.56**2) / 4))
    assert (result.q1, result.median, result.q3) == pytest.approx((0.2, 0.4, 0.6))
    assert result.interval.low < 0.44 < result.interval.high


def test_a_case_without_a_value_does_not_count_as_one_with_an_empty_mask(rows):
    table = rows(lesion_sensitivity_under_5mm=[math.nan, 0.0])
    table["empty"] = ["prediction", "prediction"]
    assert description(table, "lesion_sensitivity_under_5mm").one_empty == 1


def test_a_metric_without_values_has_no_figures(rows):
    result = description(rows(dice=[math.nan] * 3))
    assert (result.n, result.patients, result.left_out) == (0, 0, 3)
    assert all(math.isnan(value) for value in (result.mean, result.sd, result.median, result.q1, result.q3))
    assert result.interval.reason == TOO_FEW_PATIENTS


def test_one_case_has_no_standard_deviation(rows):
    result = description(rows(dice=[0.5]))
    assert (result.mean, result.median, result.interval.reason) == (0.5, 0.5, TOO_FEW_PATIENTS)
    assert math.isnan(result.sd)


def test_an_infinite_value_shows_in_the_mean(rows):
    result = description(rows(volume_error_mm3=[1.0, math.inf, 3.0, 2.0, 2.0]), "volume_error_mm3")
    assert result.mean == math.inf
    assert math.isnan(result.sd)
    assert (result.median, result.interval.reason) == (2, INFINITE)


def test_two_scans_of_one_patient_widen_the_interval_of_the_mean(rows):
    values = np.random.default_rng(0).random(10).repeat(2)
    apart = description(rows(dice=values)).interval
    together = description(rows(dice=values, patients="aabbccddeeffgghhiijj")).interval
    assert together.high - together.low > 1.2 * (apart.high - apart.low)


def test_cases_are_counted_by_what_is_empty(rows):
    table = rows(patients="aabcd", dice=[0.0] * 5)
    table["empty"] = ["both", "prediction", "prediction", "reference", ""]
    table["missing"] = [False, True, False, False, False]
    counts = count_cases(table, model="A", label="tumour")
    assert (counts.cases, counts.patients, counts.missing) == (5, 4, 1)
    assert (counts.both_empty, counts.empty_predictions, counts.empty_references) == (1, 2, 1)
