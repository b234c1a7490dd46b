"""What a metric is: one object that measures a pair of masks and knows how to read the value."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import inf, nan
from typing import ClassVar

from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.nifti import Grid


class Metric(ABC):
    """A figure of a predicted mask and its reference; call it with a `MaskPair`.

    If both masks are empty there is nothing to measure and the value is NaN; if one is, it is the
    worst there is. A new metric is a frozen dataclass with a name, and `measure`.

    Attributes:
        name: Column of a table, with the unit at its end if there is one.
        unit: Unit of the value, "" for a share.
        best: The value of a perfect mask; NaN if there is none.
        higher_is_better: None if the value says nothing about the mask's quality.
    """

    unit: ClassVar[str]
    best: ClassVar[float]
    higher_is_better: ClassVar[bool | None]

    @property
    @abstractmethod
    def name(self) -> str:
        """Column of a table."""

    @abstractmethod
    def worst(self, grid: Grid) -> float:
        """Return the worst value on an image's grid."""

    @abstractmethod
    def measure(self, pair: MaskPair) -> float:
        """Return the value for two masks that have voxels."""

    def of_empty(self, pair: MaskPair) -> float:
        """Return the value if a mask, or both, are empty."""
        return nan if pair.empty == "both" else self.worst(pair.grid)

    def __call__(self, pair: MaskPair) -> float:
        """Return the value for any pair of masks."""
        return self.of_empty(pair) if pair.empty else self.measure(pair)


class Share(Metric):
    """A metric from 0, the worst, to 1."""

    unit, best, higher_is_better = "", 1.0, True

    def worst(self, grid: Grid) -> float:  # noqa: ARG002
        """Return 0."""
        return 0.0


class Distance(Metric):
    """A metric in mm whose worst value is the image's diagonal."""

    unit, best, higher_is_better = "mm", 0.0, False

    def worst(self, grid: Grid) -> float:
        """Return the diagonal in mm."""
        return grid.diagonal_mm


class Amount(Metric):
    """An amount of something wrong, without an upper limit: with one empty mask it is what it is."""

    best, higher_is_better = 0.0, False

    def worst(self, grid: Grid) -> float:  # noqa: ARG002
        """Return infinity."""
        return inf

    def of_empty(self, pair: MaskPair) -> float:
        """Return NaN if both masks are empty, and what is measured if one is."""
        return nan if pair.empty == "both" else self.measure(pair)


class Description(Metric):
    """A figure that describes a mask and does not judge it; 0 for an empty one."""

    best, higher_is_better = nan, None

    def worst(self, grid: Grid) -> float:  # noqa: ARG002
        """Return NaN: no value is worse than another."""
        return nan

    def of_empty(self, pair: MaskPair) -> float:
        """Return what is measured."""
        return self.measure(pair)


class Penalised(Metric):
    """A mean over lesions, where one without a partner scores a penalty; an empty mask is not special.

    Attributes:
        penalty: What a missed or a false lesion scores.
    """

    penalty: ClassVar[float]

    def worst(self, grid: Grid) -> float:  # noqa: ARG002
        """Return the penalty."""
        return self.penalty

    def of_empty(self, pair: MaskPair) -> float:
        """Return what is measured."""
        return self.measure(pair)


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
