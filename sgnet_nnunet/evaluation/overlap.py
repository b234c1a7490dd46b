"""Metrics of voxels: shares of them, and volumes."""

from dataclasses import dataclass

from sgnet_nnunet.evaluation.metric import Amount, Description, Share
from sgnet_nnunet.evaluation.pair import MaskPair


@dataclass(frozen=True)
class Dice(Share):
    """Dice coefficient: twice the common voxels over the voxels of both masks."""

    name = "dice"

    def measure(self, pair: MaskPair) -> float:
        """Return the share."""
        return 2 * pair.common_voxels / (pair.predicted_voxels + pair.reference_voxels)


@dataclass(frozen=True)
class Precision(Share):
    """Share of the predicted voxels that are right."""

    name = "precision"

    def measure(self, pair: MaskPair) -> float:
        """Return the share."""
        return pair.common_voxels / pair.predicted_voxels


@dataclass(frozen=True)
class Recall(Share):
    """Share of the reference's voxels that are found (sensitivity)."""

    name = "recall"

    def measure(self, pair: MaskPair) -> float:
        """Return the share."""
        return pair.common_voxels / pair.reference_voxels


@dataclass(frozen=True)
class ReferenceVolume(Description):
    """Volume of the reference."""

    name, unit = "reference_volume_mm3", "mm3"

    def measure(self, pair: MaskPair) -> float:
        """Return mm3."""
        return pair.reference_voxels * pair.grid.voxel_mm3


@dataclass(frozen=True)
class PredictedVolume(Description):
    """Volume of the predicted mask."""

    name, unit = "predicted_volume_mm3", "mm3"

    def measure(self, pair: MaskPair) -> float:
        """Return mm3."""
        return pair.predicted_voxels * pair.grid.voxel_mm3


@dataclass(frozen=True)
class VolumeError(Amount):
    """How much the predicted volume is off, whichever way: if one mask is empty, by the other's volume."""

    name, unit = "volume_error_mm3", "mm3"

    def measure(self, pair: MaskPair) -> float:
        """Return mm3."""
        return abs(pair.predicted_voxels - pair.reference_voxels) * pair.grid.voxel_mm3
