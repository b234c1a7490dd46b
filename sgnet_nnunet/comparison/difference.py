"""Two models on the same cases: how they differ, and whether chance explains it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import isnan, nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sgnet_nnunet.comparison.interval import (
    FEWEST_PATIENTS,
    INFINITE,
    TOO_FEW_PATIENTS,
    Interval,
    Resampling,
    estimate_ratio,
)
from sgnet_nnunet.comparison.rows import sums_by_patient

ZERO_METHOD = "pratt"
"""Patients without a difference are ranked with the others, and their ranks then dropped.

Source: Pratt 1959, J. Am. Stat. Assoc. 54:655, by `scipy.stats.wilcoxon`.
"""

DECIMALS = 9
"""Differences are rounded, so that those that are equal on paper tie in ranks too."""

ALL_EQUAL = "no patient differs"


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


def rank_biserial(differences: NDArray[np.float64]) -> float:
    """Return the ranks' sum of the positive less that of the negative differences, over their sum.

    Zeros are ranked with the others and then dropped, as in the test. 0 if all are zero, NaN if there
    are none.

    Args:
        differences: Paired differences, shape (pairs,).
    """
    from scipy.stats import rankdata  # noqa: PLC0415 as in interval.py

    if not differences.size:
        return nan
    ranks = rankdata(np.abs(differences))
    total = ranks[differences != 0].sum()
    return float((np.sign(differences) * ranks).sum() / total) if total else 0.0


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
