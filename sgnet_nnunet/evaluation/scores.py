"""Voxel-wise agreement of a predicted mask with its reference."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
    if prediction.shape != reference.shape:
        msg = f"prediction and reference must have one shape; got {prediction.shape} and {reference.shape}"
        raise ValueError(msg)
    if not prediction.any() and not reference.any():
        return Scores(np.nan, np.nan, np.nan, np.nan)
    if not prediction.any() or not reference.any():
        return Scores(0.0, 0.0, 0.0, float(np.linalg.norm(np.multiply(prediction.shape, spacing))))
    hits, predicted, actual = (
        int(np.count_nonzero(m)) for m in (prediction & reference, prediction, reference)
    )
    return Scores(
        dice=2 * hits / (predicted + actual),
        precision=hits / predicted,
        recall=hits / actual,
        hd95_mm=_hd95(prediction, reference, spacing),
    )


def _hd95(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: tuple[float, float, float]
) -> float:
    # Imported here because MONAI takes seconds to import.
    import torch  # noqa: PLC0415
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance  # noqa: PLC0415

    distance = compute_hausdorff_distance(
        torch.from_numpy(prediction)[None, None],
        torch.from_numpy(reference)[None, None],
        include_background=True,
        percentile=95,
        spacing=spacing,
    )
    return float(distance)


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
    import torch  # noqa: PLC0415
    from monai.metrics.surface_dice import compute_surface_dice  # noqa: PLC0415

    if not prediction.any() or not reference.any():
        return float("nan") if prediction.any() == reference.any() else 0.0
    value = compute_surface_dice(
        torch.from_numpy(prediction)[None, None],
        torch.from_numpy(reference)[None, None],
        [tolerance_mm],
        include_background=True,
        spacing=spacing,
    )
    return float(value)
