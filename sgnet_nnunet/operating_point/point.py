"""The operating point: where probabilities become lesions."""

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

VOLUME_TOLERANCE = 1e-4
"""Relative: headers keep a spacing of 1 mm as 1.0000001, and 5 voxels of it are still 5 mm3."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """Which voxels are foreground, and which lesions are kept.

    Attributes:
        threshold: Voxels with a higher foreground probability are foreground.
        smallest_lesion_mm3: Lesions of a smaller volume are removed.

    Raises:
        ValueError: If the threshold is not between 0 and 1, or the volume is negative or not finite.
    """

    threshold: float
    smallest_lesion_mm3: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"the threshold must be between 0 and 1; got {self.threshold}")
        if not (isfinite(self.smallest_lesion_mm3) and self.smallest_lesion_mm3 >= 0):
            raise ValueError(f"the smallest lesion must have 0 mm3 or more; got {self.smallest_lesion_mm3}")

    def __str__(self) -> str:
        removed = f"below {self.smallest_lesion_mm3:g} mm3" if self.smallest_lesion_mm3 else "nothing"
        return f"threshold {self.threshold:g}, {removed} removed"


def is_kept(volumes_mm3: NDArray[np.float64], smallest_mm3: float | NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return whether lesions of these volumes are kept; the two broadcast."""
    return np.asarray(volumes_mm3 >= smallest_mm3 * (1 - VOLUME_TOLERANCE), dtype=np.bool_)
