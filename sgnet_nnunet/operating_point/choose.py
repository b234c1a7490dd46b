"""Choosing one point of the grid."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.operating_point.counts import Grid, Tally

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What an operating point is chosen for.

    Attributes:
        sensitivity: Lesion sensitivity to hold at the fewest false positives; None for the highest
            lesion F1.

    Raises:
        ValueError: If the sensitivity is not above 0 and at most 1.
    """

    sensitivity: float | None = None

    def __post_init__(self) -> None:
        if self.sensitivity is not None and not 0 < self.sensitivity <= 1:
            raise ValueError(f"the sensitivity must be above 0 and at most 1; got {self.sensitivity}")

    def __str__(self) -> str:
        if self.sensitivity is None:
            return "highest lesion F1"
        return f"fewest false positives at a lesion sensitivity of {self.sensitivity:g}"

    def check_reachable(self, tally: Tally) -> None:
        """Check that a point of the grid has the wanted sensitivity.

        Raises:
            SGNetError: If none has; it tells the best that is reachable.
        """
        best = float(tally.sensitivity.max())
        if self.sensitivity is not None and not best >= self.sensitivity:
            raise SGNetError(
                f"no operating point reaches a lesion sensitivity of {self.sensitivity:g}: the best is "
                f"{best:.3f}, {tally.found.max()} of {tally.lesions} lesions; ask for less or train longer"
            )


def choose(tally: Tally, objective: Objective, grid: Grid) -> tuple[int, int]:
    """Return the index of (threshold, volume) that serves an objective best.

    Points that serve it alike are told apart by how near to the default they are: first by the
    threshold's distance from 0.5, then by the volume. Where none has the wanted sensitivity, the most
    sensitive are the best.

    Args:
        tally: Lesions counted at each point, shape (thresholds, volumes).
        objective: What to choose for.
        grid: The points.
    """
    threshold, volume = np.meshgrid(grid.thresholds, grid.volumes_mm3, indexing="ij")
    keys = (volume, np.abs(threshold - DEFAULT_THRESHOLD), *_losses(tally, objective))
    # lexsort's last key is its first concern.
    best = int(np.lexsort([key.ravel() for key in keys])[0])
    return best // len(grid.volumes_mm3), best % len(grid.volumes_mm3)


def _losses(tally: Tally, objective: Objective) -> tuple[NDArray[np.float64], ...]:
    """Return what a good point has little of, the first concern last, each (thresholds, volumes)."""
    if objective.sensitivity is None:
        return (-tally.f1,)
    short = np.maximum(objective.sensitivity - tally.sensitivity, 0)
    return -tally.sensitivity, tally.false_positives_per_case, short
