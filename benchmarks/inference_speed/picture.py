"""Where two masks differ, drawn on the scan."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.files import atomic_path
from sgnet_nnunet.report.slices import (
    GATE_COLOUR,
    PREDICTION_COLOUR,
    REFERENCE_COLOUR,
    dark_figure,
    draw_contour,
    draw_name,
    draw_scan,
)

DPI = 130
LEGEND = "red: only sparse, blue: only tiles"


def draw_difference(
    path: Path,
    scan: NDArray[np.float32],
    ours: NDArray[np.bool_],
    stock: NDArray[np.bool_],
    *,
    name: str,
    spacing: Sequence[float],
) -> None:
    """Write a picture of the axial slice where the masks differ most: scan, both masks, difference.

    Args:
        path: The PNG.
        scan: First channel, shape (z, y, x), of any scale.
        ours: Mask of the sparse engine, of the same shape.
        stock: Mask of nnU-Net's sliding window.
        name: The patient.
        spacing: Voxel size along z, y, x in mm.
    """
    k = worst_slice(ours, stock)
    volume, first, second = (scan - scan.min()).T, ours.T, stock.T
    aspect = spacing[1] / spacing[2]
    figure, axes = dark_figure(rows=1, columns=4)
    titles = ("T1ce", "sparse", "nnU-Net's tiles", LEGEND)
    for panel, title in zip(axes[0], titles, strict=True):
        draw_scan(panel, volume, k, title=title, aspect=aspect)
    draw_contour(axes[0, 1], first, k, colour=PREDICTION_COLOUR)
    draw_contour(axes[0, 2], second, k, colour=REFERENCE_COLOUR)
    draw_contour(axes[0, 3], first & ~second, k, colour=PREDICTION_COLOUR)
    draw_contour(axes[0, 3], second & ~first, k, colour=GATE_COLOUR)
    draw_name(axes[0, 0], f"{name}, slice {k}")
    draw_name(axes[0, 3], f"{np.count_nonzero(ours != stock)} voxels of the volume differ")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=DPI, facecolor="black")


def worst_slice(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> int:
    """Return the z where two masks differ in most voxels; where they do not at all, the fullest one."""
    counts = (mask != other).sum(axis=(1, 2))
    return int(np.argmax(counts if counts.any() else mask.sum(axis=(1, 2))))
