"""Metrics of surfaces: distances between them, and the share that agrees within a tolerance.

A Hausdorff distance means nothing without its definition: on anisotropic voxels the three here
differ tenfold (Podobnik and Vrtovec 2025, arXiv:2509.05670, compare the tools).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.metric import Distance, Share
from sgnet_nnunet.evaluation.pair import MaskPair
from sgnet_nnunet.evaluation.surface import surface_distances, weighted_surface_distances

PERCENTILE = 95
ROUNDING_MM = 1e-5
"""A distance this much above a tolerance equals it: headers store voxel sizes in single precision."""

Hd95Definition = Literal["directed", "pooled", "surface-weighted"]


@dataclass(frozen=True, kw_only=True)
class HD95(Distance):
    """Hausdorff distance at the 95th percentile.

    Attributes:
        definition: `directed`, the larger of the two directed percentiles over surface voxels
            (MONAI); `pooled`, the percentile of both directions' distances together (medpy,
            panoptica, BraTS from 2025 on); `surface-weighted`, the larger of the two directed
            percentiles over surface area (DeepMind's surface-distance, BraTS 2023).

    Raises:
        ValueError: If the definition is none of the three.
    """

    definition: Hd95Definition = "directed"

    def __post_init__(self) -> None:
        if self.definition not in _DEFINITIONS:
            raise ValueError(f"definition must be one of {', '.join(_DEFINITIONS)}; got {self.definition!r}")

    @property
    def name(self) -> str:
        """Column of a table: the definition is part of it."""
        return f"hd95_{self.definition.replace('-', '_')}_mm"

    def measure(self, pair: MaskPair) -> float:
        """Return mm."""
        return float(_DEFINITIONS[self.definition](pair))


@dataclass(frozen=True)
class ASSD(Distance):
    """Average symmetric surface distance: the mean over the surface voxels of both masks."""

    name = "assd_mm"

    def measure(self, pair: MaskPair) -> float:
        """Return mm."""
        return float(np.mean(_pooled(pair)))


@dataclass(frozen=True, kw_only=True)
class NSD(Share):
    """Normalised surface Dice: the share of both surfaces within a tolerance of the other.

    MONAI's definition, over surface voxels (Nikolov et al. 2018, arXiv:1809.04430).

    Attributes:
        tolerance_mm: Distance in mm that counts as agreement.

    Raises:
        ValueError: If the tolerance is negative or not a number.
    """

    tolerance_mm: float = 1.0

    def __post_init__(self) -> None:
        if not self.tolerance_mm >= 0:
            raise ValueError(f"tolerance_mm must be 0 or more; got {self.tolerance_mm}")

    @property
    def name(self) -> str:
        """Column of a table: the tolerance is part of it."""
        return f"nsd_{self.tolerance_mm:g}mm"

    def measure(self, pair: MaskPair) -> float:
        """Return the share."""
        return float(np.mean(_pooled(pair) <= self.tolerance_mm + ROUNDING_MM))


def _pooled(pair: MaskPair) -> NDArray[np.float64]:
    distances = surface_distances(pair)
    return np.concatenate([distances.to_reference, distances.to_prediction])


def _directed_percentile(pair: MaskPair) -> float:
    distances = surface_distances(pair)
    directed = distances.to_reference, distances.to_prediction
    return max(float(np.percentile(direction, PERCENTILE)) for direction in directed)


def _pooled_percentile(pair: MaskPair) -> float:
    return float(np.percentile(_pooled(pair), PERCENTILE))


def _weighted_percentile(pair: MaskPair) -> float:
    weighted = weighted_surface_distances(pair)
    return max(
        _percentile_of_area(weighted.distances.to_reference, weighted.predicted_areas),
        _percentile_of_area(weighted.distances.to_prediction, weighted.reference_areas),
    )


def _percentile_of_area(distances: NDArray[np.float64], areas: NDArray[np.float64]) -> float:
    """Return the smallest distance that the percentile's share of the area keeps within."""
    order = np.argsort(distances)
    covered = np.cumsum(areas[order])
    place = np.searchsorted(covered, PERCENTILE / 100 * covered[-1])
    return float(distances[order[min(int(place), order.size - 1)]])


_DEFINITIONS = {
    "directed": _directed_percentile,
    "pooled": _pooled_percentile,
    "surface-weighted": _weighted_percentile,
}
