"""Confidence of predicted lesions, on lesions whose true probability is known."""

import numpy as np
import pytest
from scipy.special import expit, logit

from sgnet_nnunet.evaluation.calibration import cross_fitted, fit_calibration, reliability_of
from sgnet_nnunet.evaluation.froc import Candidates


def drawn(rng, number, *, slope, intercept, cases=10):
    """Lesions that are true with the probability that a calibration says."""
    mean = expit(rng.normal(1, 1.5, number))
    is_true = rng.random(number) < expit(slope * logit(mean) + intercept)
    case = rng.integers(cases, size=number)
    return Candidates(case, np.zeros(number, dtype=int), np.ones(number), mean, is_true)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.4, -0.5), (2.0, 1.0)])
def test_calibration_that_lesions_were_drawn_from_is_found(slope, intercept):
    fitted = fit_calibration(drawn(np.random.default_rng(0), 20_000, slope=slope, intercept=intercept))
    np.testing.assert_allclose([fitted.slope, fitted.intercept], [slope, intercept], atol=0.1)


def test_lesions_that_are_told_apart_give_finite_numbers():
    mean = np.repeat([0.2, 0.9], 10)
    lesions = Candidates(np.zeros(20, dtype=int), np.zeros(20, dtype=int), np.ones(20), mean, mean > 0.5)
    low, high = fit_calibration(lesions).confidence([0.2, 0.9])
    assert 0 < low < 0.15
    assert 0.85 < high < 1


def test_confidence_never_falls_with_the_probability():
    rng = np.random.default_rng(1)
    lesions = drawn(rng, 300, slope=1.0, intercept=0.0)
    reversed_ = Candidates(*{**vars(lesions), "is_true": ~lesions.is_true}.values())
    confidences = fit_calibration(reversed_).confidence(np.linspace(0, 1, 20))
    assert (np.diff(confidences) >= 0).all()
    assert np.isfinite(confidences).all()


@pytest.mark.parametrize("true", [0, 4, 96, 100])
def test_too_few_of_a_kind_give_no_calibration(true):
    rng = np.random.default_rng(2)
    lesions = drawn(rng, 100, slope=1.0, intercept=0.0)
    assert fit_calibration(Candidates(*{**vars(lesions), "is_true": np.arange(100) < true}.values())) is None


def test_confidence_of_a_lesion_is_fitted_without_its_group_and_patient():
    rng = np.random.default_rng(3)
    lesions = drawn(rng, 400, slope=1.0, intercept=0.0, cases=4)
    groups, patients = np.array(["a", "a", "b", "b"]), np.array(["p", "q", "q", "r"])
    found = cross_fitted(lesions, groups, patients)
    here, others = np.isin(lesions.case, [0, 1]), lesions.case == 3  # case 2 is of a patient of group a
    expected = fit_calibration(lesions.of(others)).confidence(lesions.mean_probability[here])
    np.testing.assert_allclose(found[here], expected)


def test_reliability_of_confidences_that_hold_has_a_small_error():
    rng = np.random.default_rng(4)
    confidence = rng.random(20_000)
    is_true = rng.random(20_000) < confidence
    found = reliability_of(confidence, is_true)
    assert found.error < 0.02
    assert found.lesions.sum() == 20_000
    np.testing.assert_allclose(found.confidence, np.arange(0.05, 1, 0.1), atol=0.01)
    assert reliability_of(np.sqrt(confidence), is_true).error > 0.1


def test_reliability_leaves_out_what_is_not_known():
    assert reliability_of(np.array([np.nan]), np.array([True])) is None
    assert reliability_of(np.array([np.nan, 1.0]), np.array([True, True])).lesions.tolist() == [1]
