"""Lesion sensitivity against false positives per case."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sgnet_nnunet.report.canvas import INK, Look, new_figure, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sgnet_nnunet.operating_point.froc import Froc

ARGMAX_THRESHOLD = 0.5
LINEAR_BELOW = 1.0
"""False positives per case below which the axis is linear; above it is logarithmic."""


def froc_plot(curves: Mapping[str, "Froc"], *, look: Look) -> "Figure":
    """Return a figure with the FROC curve of each model that has one.

    Args:
        curves: By the model's name.
        look: The models' colours and markers.
    """
    figure, grid = new_figure(width=8, height=5, rows=1, columns=1)
    axes = grid[0, 0]
    for model, curve in curves.items():
        colour = look.colours[model]
        false, found = curve.false_positives_per_case, curve.sensitivity
        axes.plot(false, found, color=colour, linewidth=1.8, label=short(model, width=80))
        place = int(np.argmin(np.abs(curve.thresholds - ARGMAX_THRESHOLD)))
        axes.plot(
            false[place],
            found[place],
            marker=look.markers[model],
            color=colour,
            markersize=9,
            markeredgecolor=INK,
        )
    axes.set_xscale("symlog", linthresh=LINEAR_BELOW)
    axes.set_xlim(left=0)
    axes.set_ylim(-0.03, 1.03)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("false positives per case", fontsize=9.5, color=INK)
    axes.set_ylabel("lesion sensitivity", fontsize=9.5, color=INK)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure
