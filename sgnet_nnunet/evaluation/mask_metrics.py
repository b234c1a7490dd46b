"""Metrics of whole masks: overlap and volume."""

from dataclasses import dataclass

from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.evaluation.registry import Amount, Description, Share, register_metric


@register_metric()
@dataclass(frozen=True)
class Dice(Share):
    """Dice coefficient: twice the common voxels over the voxels of both masks."""

    name, title = "dice", "Dice"
    headline = ranked = True

    def measure(self, pair: MaskPair) -> float:
        """Return the share."""
        return 2 * pair.common_voxels / (pair.predicted_voxels + pair.reference_voxels)


@register_metric()
@dataclass(frozen=True)
class Precision(Share):
    """Share of the predicted voxels that belong to the reference."""

    name, title, headline = "precision", "Precision", True

    def measure(self, pair: MaskPair) -> float:
        """Return the share."""
        return pair.common_voxels / pair.predicted_voxels


@register_metric()
@dataclass(frozen=True)
class Recall(Share):
    """Share of the reference's voxels that are found (sensitivity)."""

    name, title, headline = "recall", "Recall", True

    def measure(self, pair: MaskPair) -> float:
        """Return the share."""
        return pair.common_voxels / pair.reference_voxels


@register_metric()
@dataclass(frozen=True)
class ReferenceVolume(Description):
    """Volume of the reference."""

    name, title, unit = "reference_volume_mm3", "Reference volume (mm³)", "mm3"

    def measure(self, pair: MaskPair) -> float:
        """Return mm3."""
        return pair.reference_voxels * pair.grid.voxel_mm3


@register_metric()
@dataclass(frozen=True)
class PredictedVolume(Description):
    """Volume of the predicted mask."""

    name, title, unit = "predicted_volume_mm3", "Predicted volume (mm³)", "mm3"

    def measure(self, pair: MaskPair) -> float:
        """Return mm3."""
        return pair.predicted_voxels * pair.grid.voxel_mm3


@register_metric()
@dataclass(frozen=True)
class VolumeError(Amount):
    """Absolute difference of the two volumes; with one empty mask, the volume of the other."""

    name, title, unit = "volume_error_mm3", "Volume error (mm³)", "mm3"

    def measure(self, pair: MaskPair) -> float:
        """Return mm3."""
        return abs(pair.predicted_voxels - pair.reference_voxels) * pair.grid.voxel_mm3
