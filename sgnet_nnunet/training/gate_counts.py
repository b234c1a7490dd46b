"""What the gates let through: open fractions, and the share of the lesions they admit."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sgnet_nnunet.evaluation.lesions import find_lesions
from sgnet_nnunet.networks.gates import on_grid_of

SAFE_SHARE = 0.99
"""A gate that admits less of the lesion voxels, or of the lesions, deserves a warning."""

VOXELS = (1.0, 1.0, 1.0)
"""Spacing where only voxels are counted."""


@dataclass(frozen=True)
class GateCounts:
    """Voxels and lesions counted at each gate, coarsest first, all on the image's grid.

    Attributes:
        voxels: Voxels, shape (gates,).
        open_voxels: Voxels that the gate admits.
        lesion_voxels: Voxels with foreground of any kind.
        admitted_voxels: Of these, the admitted ones.
        lesions: Lesions.
        admitted_lesions: Lesions with an admitted voxel.
    """

    voxels: NDArray[np.int64]
    open_voxels: NDArray[np.int64]
    lesion_voxels: NDArray[np.int64]
    admitted_voxels: NDArray[np.int64]
    lesions: NDArray[np.int64]
    admitted_lesions: NDArray[np.int64]

    def __add__(self, other: "GateCounts") -> "GateCounts":
        """Return the counts of both."""
        return GateCounts(*(mine + yours for mine, yours in zip(self._all, other._all, strict=True)))

    @property
    def _all(self) -> tuple[NDArray[np.int64], ...]:
        return (
            self.voxels,
            self.open_voxels,
            self.lesion_voxels,
            self.admitted_voxels,
            self.lesions,
            self.admitted_lesions,
        )

    @property
    def open_fraction(self) -> list[float]:
        """Share of all voxels that each gate admits."""
        return _shares(self.open_voxels, self.voxels)

    @property
    def admitted_voxel_share(self) -> list[float]:
        """Share of the lesion voxels that each gate admits; NaN if there are none."""
        return _shares(self.admitted_voxels, self.lesion_voxels)

    @property
    def admitted_lesion_share(self) -> list[float]:
        """Share of the lesions of which each gate admits a voxel; NaN if there are none."""
        return _shares(self.admitted_lesions, self.lesions)


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> list[float]:
    return [float(p / w) if w else float("nan") for p, w in zip(part, whole, strict=True)]


def count_gates(admitted: Sequence[Tensor], foreground: Tensor) -> GateCounts:
    """Count what each gate admits.

    Args:
        admitted: Where each gate is open, boolean, shape (batch, 1, z', y', x') on its own grid.
        foreground: Boolean, shape (batch, 1, z, y, x).
    """
    masks = [on_grid_of(mask, foreground.float()).cpu().numpy()[:, 0] for mask in admitted]
    truth = foreground.cpu().numpy()[:, 0]
    found = [find_lesions(image, spacing=VOXELS) for image in truth]
    gates = np.ones(len(masks), dtype=np.int64)

    def per_gate(counts: list[int]) -> NDArray[np.int64]:
        return np.array(counts, dtype=np.int64)

    return GateCounts(
        voxels=gates * truth.size,
        open_voxels=per_gate([int(np.count_nonzero(mask)) for mask in masks]),
        lesion_voxels=gates * np.count_nonzero(truth),
        admitted_voxels=per_gate([int(np.count_nonzero(mask & truth)) for mask in masks]),
        lesions=gates * sum(lesions.number for lesions in found),
        admitted_lesions=per_gate(
            [
                sum(
                    np.unique(lesions.labels[image & (lesions.labels > 0)]).size
                    for image, lesions in zip(mask, found, strict=True)
                )
                for mask in masks
            ]
        ),
    )


def warnings_of(counts: GateCounts, names: Sequence[str]) -> list[str]:
    """Say in plain words which gate shuts out more of the lesions than is safe."""
    warnings = []
    for what, shares in (
        ("lesion voxels", counts.admitted_voxel_share),
        ("whole lesions", counts.admitted_lesion_share),
    ):
        warnings += [
            f"WARNING: the gate at {name} of the resolution shuts out {1 - share:.1%} of the {what}; "
            "what it shuts out cannot be segmented. Train longer, or plan with a larger "
            "`positive_weight`, a lower `threshold` or a larger `dilation`."
            for name, share in zip(names, shares, strict=True)
            if share < SAFE_SHARE
        ]
    return warnings
