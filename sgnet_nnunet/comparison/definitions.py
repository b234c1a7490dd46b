"""What each metric means, in words."""

import inspect
from dataclasses import dataclass

from sgnet_nnunet.comparison.figures import HEADLINE_METRICS
from sgnet_nnunet.evaluation.detection import SizeClass
from sgnet_nnunet.evaluation.distance import HD95
from sgnet_nnunet.evaluation.metric import Metric

TITLES = {
    "dice": "Dice",
    "precision": "Precision",
    "recall": "Recall",
    "hd95_directed_mm": "HD95 directed (mm)",
    "hd95_pooled_mm": "HD95 pooled (mm)",
    "hd95_surface_weighted_mm": "HD95 surface-weighted (mm)",
    "nsd_1mm": "NSD at 1 mm",
    "nsd_2mm": "NSD at 2 mm",
    "lesion_sensitivity": "Lesion sensitivity",
    "lesion_precision": "Lesion precision",
    "lesion_f1": "Lesion F1",
    "false_positives": "False positives per case",
}
"""Titles of columns; a metric without one goes by its name."""

HD95_MEANINGS = {
    "directed": "the larger of the two directed percentiles over surface voxels (MONAI)",
    "pooled": "the percentile of both directions' distances together (medpy, panoptica)",
    "surface-weighted": "the larger of the two directed percentiles over surface area (surface-distance)",
}


@dataclass(frozen=True, kw_only=True)
class Definition:
    """What a metric is.

    Attributes:
        name: Its column.
        title: Its name in tables.
        unit: Unit of its values, "" for a share.
        higher_is_better: None if it says nothing about the mask's quality.
        best: Value of a perfect mask; NaN if there is none.
        meaning: What is measured.
        headline: Whether models are tested and ranked on it.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool | None
    best: float
    meaning: str
    headline: bool


def define(metric: Metric) -> Definition:
    """Return what a metric is."""
    return Definition(
        name=metric.name,
        title=TITLES.get(metric.name, metric.name),
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        best=metric.best,
        meaning=_meaning(metric),
        headline=metric.name in HEADLINE_METRICS,
    )


def size_in_words(size: SizeClass) -> str:
    """Return a size class as it follows the word "lesions"; "of any size" for all."""
    if not size.suffix:
        return "of any size"
    if not size.smallest_mm:
        return f"below {size.limit_mm:g} mm"
    if size == SizeClass(smallest_mm=size.smallest_mm):
        return f"of {size.smallest_mm:g} mm or more"
    return f"of {size.smallest_mm:g} to below {size.limit_mm:g} mm"


def _meaning(metric: Metric) -> str:
    sentence = (inspect.getdoc(type(metric)) or "").partition("\n")[0].rstrip(".")
    if isinstance(metric, HD95):
        return f"{sentence}: {HD95_MEANINGS[metric.definition]}"
    size = getattr(metric, "size", SizeClass())
    return f"{sentence}; lesions {size_in_words(size)} by diameter" if size.suffix else sentence
