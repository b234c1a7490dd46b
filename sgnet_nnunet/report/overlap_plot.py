"""Precision against recall, a panel a model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from sgnet_nnunet.report.canvas import FAINT, INK, Look, new_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
DICE_LEVELS = (0.2, 0.4, 0.6, 0.8)


def overlap_plot(rows: Mapping[str, pd.DataFrame], *, look: Look) -> "Figure":
    """Return a figure of every case's precision and recall, with lines of equal Dice.

    Args:
        rows: Each model's rows as `comparison.rows.rows_of` returns them.
        look: The models' colours and markers.
    """
    columns = min(COLUMNS, len(rows))
    lines = -(-len(rows) // columns)
    figure, grid = new_figure(
        width=4 * columns, height=4 * lines, rows=lines, columns=columns, sharex=True, sharey=True
    )
    for spare in grid.flat[len(rows) :]:
        spare.axis("off")
    for axes, (model, table) in zip(grid.flat, rows.items(), strict=False):
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axes.set_title(short(model, width=38), fontsize=10, color=INK)
        _draw_dice(axes)
        _draw_cases(axes, table, colour=look.colours[model], marker=look.markers[model])
    for axes in grid[:, 0]:
        axes.set_ylabel("precision", fontsize=9.5, color=INK)
    for axes in grid.flat[max(0, len(rows) - columns) : len(rows)]:
        axes.set_xlabel("recall", fontsize=9.5, color=INK)
        axes.tick_params(labelbottom=True)
    return figure


def _draw_dice(axes: "Axes") -> None:
    """Draw precision = D r / (2 r - D), where the Dice of recall r is D."""
    for dice in DICE_LEVELS:
        recall = np.linspace(dice / (2 - dice), 1, 100)
        axes.plot(recall, dice * recall / (2 * recall - dice), color=FAINT, linewidth=0.8, linestyle="--")
        axes.annotate(
            f"Dice {dice:g}",
            (1, dice / (2 - dice)),
            ha="right",
            va="bottom",
            fontsize=7.5,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
            color="#666666",
        )


def _draw_cases(axes: "Axes", table: pd.DataFrame, *, colour: str, marker: str) -> None:
    axes.scatter(
        table["recall"], table["precision"], s=24, color=colour, marker=marker, alpha=0.65, linewidths=0
    )
    axes.plot(
        table["recall"].mean(),
        table["precision"].mean(),
        marker=marker,
        color=colour,
        markersize=13,
        markeredgecolor=INK,
        markeredgewidth=1.4,
    )
