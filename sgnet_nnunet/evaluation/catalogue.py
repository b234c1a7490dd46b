"""The metrics that every case is measured by."""

from collections.abc import Iterable

from sgnet_nnunet.evaluation.brats2023 import BRATS2023
from sgnet_nnunet.evaluation.brats2026 import BRATS2026
from sgnet_nnunet.evaluation.detection import (
    FalsePositives,
    LesionF1,
    LesionPrecision,
    LesionSensitivity,
    SizeClass,
)
from sgnet_nnunet.evaluation.distance import ASSD, HD95, NSD
from sgnet_nnunet.evaluation.metric import Metric
from sgnet_nnunet.evaluation.overlap import (
    Dice,
    Precision,
    PredictedVolume,
    Recall,
    ReferenceVolume,
    VolumeError,
)
from sgnet_nnunet.evaluation.pair import MaskPair

SIZE_CLASSES = (SizeClass(limit_mm=5), SizeClass(smallest_mm=5, limit_mm=10), SizeClass(smallest_mm=10))
"""Below 5 mm, below 10 mm, and larger."""

VOXEL_METRICS: tuple[Metric, ...] = (
    Dice(),
    Precision(),
    Recall(),
    ReferenceVolume(),
    PredictedVolume(),
    VolumeError(),
)
SURFACE_METRICS: tuple[Metric, ...] = (
    HD95(),
    HD95(definition="pooled"),
    HD95(definition="surface-weighted"),
    ASSD(),
    NSD(tolerance_mm=1),
    NSD(tolerance_mm=2),
)
LESION_METRICS: tuple[Metric, ...] = tuple(
    metric(size=size)
    for size in (SizeClass(), *SIZE_CLASSES)
    for metric in (LesionSensitivity, LesionPrecision, LesionF1, FalsePositives)
)
CASE_METRICS = VOXEL_METRICS + SURFACE_METRICS + LESION_METRICS

PRESETS: dict[str, tuple[Metric, ...]] = {"brats2023": BRATS2023, "brats2026": BRATS2026}
"""The scores of the BraTS challenges on metastases, by name."""


def measure(pair: MaskPair, metrics: Iterable[Metric] = CASE_METRICS) -> dict[str, float]:
    """Return the value of each metric by its name."""
    return {metric.name: metric(pair) for metric in metrics}
