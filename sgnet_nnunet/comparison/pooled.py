"""Lesions of all cases in one pot, so that a patient with many of them counts as much as they do.

The metrics of `evaluation.detection` are measured case by case, and their means count every case the
same. Here the lesions are counted over all cases first (micro average).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sgnet_nnunet.comparison.interval import Estimate, Resampling, estimate_ratio
from sgnet_nnunet.evaluation.catalogue import SIZE_CLASSES
from sgnet_nnunet.evaluation.detection import SizeClass

STATUSES = ("detected", "missed", "false positive")
ALL_SIZES = SizeClass()


@dataclass(frozen=True, kw_only=True)
class PooledLesions:
    """The lesions of one model, label and size class over all cases.

    Attributes:
        model: Name of the model.
        label: Name of the label or region.
        size: The class, by diameter.
        cases: Cases, those without lesions among them.
        detected: Lesions of the references that are found.
        missed: Lesions of the references that are not.
        false_positives: Predicted lesions that meet none of the reference.
        sensitivity: detected / (detected + missed).
        precision: detected / (detected + false positives). A predicted lesion that finds two of the
            reference counts twice; the per-case lesion precision counts it once.
        f1: 2 detected / (2 detected + missed + false positives).
        false_positives_per_case: False positives / cases.
    """

    model: str
    label: str
    size: SizeClass
    cases: int
    detected: int
    missed: int
    false_positives: int
    sensitivity: Estimate
    precision: Estimate
    f1: Estimate
    false_positives_per_case: Estimate


def pool_lesions(
    rows: pd.DataFrame, per_lesion: pd.DataFrame, *, model: str, label: str, resampling: Resampling
) -> Iterator[PooledLesions]:
    """Yield the lesions of one model and label, all of them and then class by class.

    Args:
        rows: Rows of `per_case` of the model and label, as `rows_of` returns them.
        per_lesion: The whole table of lesions.
        model: Name of the model.
        label: Name of the label or region.
        resampling: How patients are drawn.
    """
    lesions = per_lesion[(per_lesion["model"] == model) & (per_lesion["label"] == label)]
    cases = rows.groupby("patient").size()
    for size in (ALL_SIZES, *SIZE_CLASSES):
        counts = _count(lesions, size, patients=cases.index)
        detected, missed, false = (counts[status].to_numpy(dtype=np.float64) for status in STATUSES)
        ratios = {
            "sensitivity": (detected, detected + missed),
            "precision": (detected, detected + false),
            "f1": (2 * detected, 2 * detected + missed + false),
            "false_positives_per_case": (false, cases.to_numpy(dtype=np.float64)),
        }
        yield PooledLesions(
            model=model,
            label=label,
            size=size,
            cases=len(rows),
            detected=int(detected.sum()),
            missed=int(missed.sum()),
            false_positives=int(false.sum()),
            **{name: estimate_ratio(*ratio, resampling=resampling) for name, ratio in ratios.items()},
        )


def _count(lesions: pd.DataFrame, size: SizeClass, *, patients: pd.Index) -> pd.DataFrame:
    """Return how many lesions of each status each patient has."""
    chosen = lesions[lesions["diameter_mm"].ge(size.smallest_mm) & lesions["diameter_mm"].lt(size.limit_mm)]
    counts = pd.crosstab(chosen["patient"], chosen["status"])
    return counts.reindex(index=patients, columns=list(STATUSES), fill_value=0)
