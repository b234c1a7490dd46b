"""The metrics that every case is measured by."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.challenges import BRATS2023, BRATS2026
from sgnet_nnunet.evaluation.lesion_metrics import (
    FalsePositives,
    LesionF1,
    LesionPrecision,
    LesionSensitivity,
    SizeClass,
)
from sgnet_nnunet.evaluation.mask_metrics import (
    Dice,
    Metric,
    Precision,
    PredictedVolume,
    Recall,
    ReferenceVolume,
    VolumeError,
)
from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.evaluation.surface_metrics import ASSD, HD95, NSD

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


@dataclass(frozen=True)
class Scores:
    """Agreement of one predicted mask with its reference.

    Attributes:
        dice: Dice coefficient, 0 to 1.
        precision: Share of the predicted voxels that are right.
        recall: Share of the reference voxels that are found.
        hd95_mm: Hausdorff distance at the 95th percentile in mm, the larger of the two directed
            percentiles over voxel surfaces (MONAI's definition).
    """

    dice: float
    precision: float
    recall: float
    hd95_mm: float


def score(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], *, spacing: tuple[float, float, float]
) -> Scores:
    """Score a predicted mask.

    If both masks are empty, nothing can be scored and every score is NaN; if one is, the scores
    are the worst there are: 0, and the diagonal of the image for the distance.

    Args:
        prediction: Predicted mask, shape (x, y, z).
        reference: Reference mask of the same shape.
        spacing: Voxel size in mm along x, y, z.

    Raises:
        ValueError: If the shapes differ.
    """
    pair = MaskPair(prediction, reference, affine=np.diag([*spacing, 1.0]))
    return Scores(*(metric(pair) for metric in (Dice(), Precision(), Recall(), HD95())))


def surface_dice(
    prediction: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    *,
    spacing: tuple[float, float, float],
    tolerance_mm: float,
) -> float:
    """Return the normalised surface Dice: the share of both surfaces within a tolerance of the other.

    MONAI's definition, over voxel surfaces (Nikolov et al. 2018, arXiv:1809.04430). NaN if both
    masks are empty, 0 if one is.

    Args:
        prediction: Predicted mask, shape (x, y, z).
        reference: Reference mask of the same shape.
        spacing: Voxel size in mm along x, y, z.
        tolerance_mm: Distance in mm that counts as agreement.
    """
    return NSD(tolerance_mm=tolerance_mm)(MaskPair(prediction, reference, affine=np.diag([*spacing, 1.0])))
