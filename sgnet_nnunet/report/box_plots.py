"""The headline metrics of every case, the models side by side."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from sgnet_nnunet.comparison.definitions import TITLES
from sgnet_nnunet.comparison.figures import HEADLINE_METRICS
from sgnet_nnunet.report.canvas import INK, Look, finite, new_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
LOWER_IS_BETTER = ("hd95_directed_mm", "false_positives")
SHARES_LIMITS = (-0.03, 1.03)


def box_plots(rows: Mapping[str, pd.DataFrame], *, look: Look) -> "Figure":
    """Return a figure with one panel a headline metric, a box a model.

    Args:
        rows: Each model's rows as `comparison.rows.rows_of` returns them.
        look: The models' colours.
    """
    metrics = [name for name in HEADLINE_METRICS if all(name in table for table in rows.values())]
    lines = -(-len(metrics) // COLUMNS)
    figure, grid = new_figure(
        width=12, height=lines * (1.2 + 0.38 * len(rows)), rows=lines, columns=COLUMNS, sharey=True
    )
    for spare in grid.flat[len(metrics) :]:
        spare.axis("off")
    for axes, name in zip(grid.flat, metrics, strict=False):
        _draw(axes, pd.DataFrame({model: table[name] for model, table in rows.items()}), look)
        better = "lower" if name in LOWER_IS_BETTER else "higher"
        axes.set_xlabel(f"{TITLES[name]} – {better} is better", fontsize=9.5, color=INK)
        if name not in LOWER_IS_BETTER:
            axes.set_xlim(*SHARES_LIMITS)
    first = grid.flat[0]
    first.set_yticks(range(len(rows)), [short(model) for model in rows])
    first.invert_yaxis()
    return figure


def _draw(axes: "Axes", values: pd.DataFrame, look: Look) -> None:
    """Draw one metric, given with a row a case and a column a model."""
    places = range(values.shape[1])
    axes.plot(values.to_numpy().T, places, color="#777777", linewidth=0.5, alpha=0.28, zorder=1)
    for place, model in zip(places, map(str, values), strict=True):
        found, colour = finite(values[model]), look.colours[model]
        if not found.size:
            continue
        axes.plot(found, [place] * found.size, "o", ms=2.6, color=colour, alpha=0.55, zorder=2, mec="none")
        axes.boxplot(
            [found],
            positions=[place],
            orientation="horizontal",
            widths=0.56,
            showfliers=False,
            showmeans=True,
            manage_ticks=False,
            patch_artist=True,
            boxprops={"facecolor": f"{colour}40", "edgecolor": colour, "linewidth": 1.3},
            whiskerprops={"color": colour, "linewidth": 1.1},
            capprops={"color": colour, "linewidth": 1.1},
            medianprops={"color": INK, "linewidth": 1.8},
            meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": INK, "markersize": 4.5},
            zorder=3,
        )
