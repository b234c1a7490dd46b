"""Confidence of predicted lesions: how likely one is true by its mean probability; how well that holds."""

from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from sgnet_nnunet.evaluation.froc import Candidates
from sgnet_nnunet.inference.operating_point import Calibration, logit_of

FEWEST = 5
"""True lesions, and false positives, without which nothing can be fitted."""

BINS = 10
STEEPEST = 20.0
"""Largest slope: beyond it the confidences are 0 and 1, which no data set of this size can show."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Reliability:
    """Confidences against what was true, in `BINS` bins of equal width that hold any lesion.

    Attributes:
        lesions: Number of lesions in each bin.
        confidence: Mean confidence in each bin.
        true_share: Share of true lesions in each bin.
        error: Expected calibration error: the mean of |confidence - true share|, weighted by lesions.
        brier: Mean of (confidence - truth) squared.
    """

    lesions: NDArray[np.intp]
    confidence: NDArray[np.float64]
    true_share: NDArray[np.float64]
    error: float
    brier: float


def fit_calibration(lesions: Candidates) -> Calibration | None:
    """Return the calibration of lesions; None with too few true or false ones.

    The targets are Platt's, slightly inside of 0 and 1, so that lesions that can be told apart without an
    error give finite numbers.
    """
    is_true = lesions.is_true
    true, false = np.count_nonzero(is_true), np.count_nonzero(~is_true)
    if min(true, false) < FEWEST:
        return None
    targets = np.where(is_true, (true + 1) / (true + 2), 1 / (false + 2))
    logits = logit_of(lesions.mean_probability)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scores = parameters[0] * logits + parameters[1]
        wrong = special.expit(scores) - targets
        gradient = np.array([wrong @ logits, wrong.sum()]) / len(logits)
        return float(np.mean(np.logaddexp(0, scores) - targets * scores)), gradient

    bounds = [(0.0, STEEPEST), (None, None)]
    slope, intercept = optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, bounds=bounds).x
    return Calibration(slope=float(slope), intercept=float(intercept))


def cross_fitted(
    candidates: Candidates, groups: NDArray[np.str_], patients: NDArray[np.str_]
) -> NDArray[np.float64]:
    """Return the confidence of each lesion, calibrated on those of other groups and patients.

    It is NaN where those do not suffice. Groups and patients are those of the cases, shape (cases,).
    """
    confidences = np.full(candidates.case.size, nan)
    for group in np.unique(groups):
        here = groups[candidates.case] == group
        others = ~np.isin(patients[candidates.case], patients[groups == group])
        calibration = fit_calibration(candidates.of(others))
        if calibration is not None:
            confidences[here] = calibration.confidence(candidates.mean_probability[here])
    return confidences


def reliability_of(confidence: NDArray[np.float64], is_true: NDArray[np.bool_]) -> Reliability | None:
    """Return how confidences, shape (lesions,), agree with the truth; NaN is left out, None without any."""
    known = np.isfinite(confidence)
    if not known.any():
        return None
    confidence, truth = confidence[known], is_true[known].astype(np.float64)
    bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    lesions, *sums = (np.bincount(bins, weights=each, minlength=BINS) for each in (None, confidence, truth))
    filled = lesions > 0
    means, shares = (total[filled] / lesions[filled] for total in sums)
    return Reliability(
        lesions=lesions[filled],
        confidence=means,
        true_share=shares,
        error=float(np.average(np.abs(means - shares), weights=lesions[filled])),
        brier=float(np.mean((confidence - truth) ** 2)),
    )
