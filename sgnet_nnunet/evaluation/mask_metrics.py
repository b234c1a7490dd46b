"""Metrics of whole masks: overlap and volume."""

from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.evaluation.registry import SHARE, VOLUME, VOLUME_ERROR, register_metric


@register_metric("dice", "Dice", SHARE, headline=True, ranked=True)
def dice(pair: MaskPair) -> float:
    """Dice coefficient: twice the common voxels over the voxels of both masks."""
    return 2 * pair.common_voxels / (pair.predicted_voxels + pair.reference_voxels)


@register_metric("precision", "Precision", SHARE, headline=True)
def precision(pair: MaskPair) -> float:
    """Share of the predicted voxels that belong to the reference."""
    return pair.common_voxels / pair.predicted_voxels


@register_metric("recall", "Recall", SHARE, headline=True)
def recall(pair: MaskPair) -> float:
    """Share of the reference's voxels that are predicted (sensitivity)."""
    return pair.common_voxels / pair.reference_voxels


@register_metric("reference_volume_mm3", "Reference volume (mm³)", VOLUME)
def reference_volume(pair: MaskPair) -> float:
    """Volume of the reference."""
    return pair.reference_voxels * pair.grid.voxel_mm3


@register_metric("predicted_volume_mm3", "Predicted volume (mm³)", VOLUME)
def predicted_volume(pair: MaskPair) -> float:
    """Volume of the predicted mask."""
    return pair.predicted_voxels * pair.grid.voxel_mm3


@register_metric("volume_error_mm3", "Volume error (mm³)", VOLUME_ERROR)
def volume_error(pair: MaskPair) -> float:
    """Absolute difference of the two volumes; with one empty mask, the volume of the other."""
    return abs(pair.predicted_voxels - pair.reference_voxels) * pair.grid.voxel_mm3
