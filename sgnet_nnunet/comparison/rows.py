"""The rows of `per_case` that belong together, in an order that does not depend on the table's."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sgnet_nnunet.comparison.figures import CASE_COLUMNS
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.catalogue import CASE_METRICS, PRESETS
from sgnet_nnunet.evaluation.metric import Metric


def metrics_of(per_case: pd.DataFrame) -> tuple[Metric, ...]:
    """Return the metrics that a table has a column of, in the catalogue's order.

    Raises:
        SGNetError: If a column is not that of a metric.
    """
    known = (*CASE_METRICS, *(metric for preset in PRESETS.values() for metric in preset))
    names = {metric.name for metric in known}
    unknown = [name for name in per_case.columns if name not in names and name not in CASE_COLUMNS]
    if unknown:
        raise SGNetError(
            f"per_case has the column {unknown[0]!r}, which no metric has; "
            "add the metric to evaluation/catalogue.py, or leave the column out"
        )
    return tuple(metric for metric in known if metric.name in per_case.columns)


def rows_of(per_case: pd.DataFrame, *, model: str, label: str) -> pd.DataFrame:
    """Return the rows of one model and label, sorted by case, with the case as their index.

    Raises:
        SGNetError: If the model has two rows for one case.
    """
    chosen = per_case[(per_case["model"] == model) & (per_case["label"] == label)]
    rows = chosen.set_index("case").sort_index()
    if not rows.index.is_unique:
        case = rows.index[rows.index.duplicated()][0]
        raise SGNetError(
            f"{model} has two predictions of the case {case}; give only folds whose cases differ"
        )
    return rows.assign(empty=rows["empty"].fillna(""))


def sums_by_patient(
    values: pd.Series, patients: pd.Series, *, among: pd.Index | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sum of each patient's values and how many there are, NaN left out.

    Args:
        values: A value for each case.
        patients: The patient of each case, with the same index.
        among: The patients to return, in this order; 0 for those without a value. By default those
            of the cases, sorted.

    Returns:
        Two arrays of shape (patients,).
    """
    grouped = values.groupby(patients).agg(["sum", "count"])
    if among is not None:
        grouped = grouped.reindex(among, fill_value=0)
    return grouped["sum"].to_numpy(dtype=np.float64), grouped["count"].to_numpy(dtype=np.float64)
