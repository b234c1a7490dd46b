"""One model's figures by themselves."""

from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd

from sgnet_nnunet.comparison.interval import Interval, Resampling, estimate_ratio
from sgnet_nnunet.comparison.rows import sums_by_patient


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What one model was judged on.

    Attributes:
        model: Name of the model.
        label: Name of the label or region.
        cases: Cases, missing predictions among them.
        patients: Patients of these cases.
        both_empty: Cases where neither mask has a voxel; most metrics leave them out.
        empty_predictions: Cases where only the prediction is empty; they score the worst value.
        empty_references: Cases where only the reference is empty; they score the worst value.
        missing: Cases without a prediction, scored as if it were empty.
    """

    model: str
    label: str
    cases: int
    patients: int
    both_empty: int
    empty_predictions: int
    empty_references: int
    missing: int


@dataclass(frozen=True, kw_only=True)
class Description:
    """The values of one metric over the cases of one model.

    Attributes:
        model: Name of the model.
        label: Name of the label or region.
        metric: Name of the metric.
        n: Cases with a value.
        patients: Patients of these cases.
        left_out: Cases without one (NaN): both masks are empty, or no lesion is of the metric's size.
        one_empty: Cases among the n where one mask is empty, so that shares and distances score the
            worst value.
        mean: Mean over the n cases.
        sd: Standard deviation over cases, with n - 1; NaN for fewer than two.
        median: Median.
        q1: Lower quartile.
        q3: Upper quartile.
        interval: Interval of the mean over patients.
    """

    model: str
    label: str
    metric: str
    n: int
    patients: int
    left_out: int
    one_empty: int
    mean: float
    sd: float
    median: float
    q1: float
    q3: float
    interval: Interval


def count_cases(rows: pd.DataFrame, *, model: str, label: str) -> Counts:
    """Count the cases of one model and label, given as `rows_of` returns them."""
    empty = rows["empty"]
    return Counts(
        model=model,
        label=label,
        cases=len(rows),
        patients=rows["patient"].nunique(),
        both_empty=int((empty == "both").sum()),
        empty_predictions=int((empty == "prediction").sum()),
        empty_references=int((empty == "reference").sum()),
        missing=int(rows["missing"].astype(bool).sum()),
    )


def describe(
    rows: pd.DataFrame, *, model: str, label: str, metric: str, resampling: Resampling
) -> Description:
    """Describe one metric over the rows of one model and label, given as `rows_of` returns them."""
    kept = rows[rows[metric].notna()]
    values = kept[metric].to_numpy(dtype=np.float64)
    estimate = estimate_ratio(*sums_by_patient(kept[metric], kept["patient"]), resampling=resampling)
    with np.errstate(invalid="ignore"):  # infinite values have no standard deviation
        sd = float(values.std(ddof=1)) if values.size > 1 else nan
        q1, median, q3 = np.quantile(values, (0.25, 0.5, 0.75)) if values.size else (nan, nan, nan)
    return Description(
        model=model,
        label=label,
        metric=metric,
        n=len(kept),
        patients=kept["patient"].nunique(),
        left_out=len(rows) - len(kept),
        one_empty=int(kept["empty"].isin(["prediction", "reference"]).sum()),
        mean=estimate.value,
        sd=sd,
        median=float(median),
        q1=float(q1),
        q3=float(q3),
        interval=estimate.interval,
    )
