"""What a metric is: one object that measures a pair of masks and knows how to read the value."""

from abc import ABC, abstractmethod
from math import inf, nan
from typing import ClassVar

from sgnet_nnunet.evaluation.grid import Grid
from sgnet_nnunet.evaluation.pair import MaskPair


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
