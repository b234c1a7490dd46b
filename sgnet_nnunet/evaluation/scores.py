"""The scores of a predicted mask that the demo and the phantom study show."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.distance import HD95, NSD
from sgnet_nnunet.evaluation.overlap import Dice, Precision, Recall
from sgnet_nnunet.evaluation.pair import MaskPair


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
