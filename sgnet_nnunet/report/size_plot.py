"""How many lesions are found, by their diameter."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from statsmodels.stats.proportion import proportion_confint

from sgnet_nnunet.comparison.definitions import size_in_words
from sgnet_nnunet.evaluation.catalogue import SIZE_CLASSES
from sgnet_nnunet.report.canvas import FAINT, INK, Look, new_figure, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EDGES_MM = (0.0, 3.0, 4.0, 5.0, 6.5, 8.0, 10.0, 13.0, 17.0, 22.0, 30.0, np.inf)
"""Limits of the curve's bins; finer where metastases are many."""

FEWEST_LESIONS = 3
"""A bin with fewer says nothing and is left out of the curve."""


def size_plot(lesions: pd.DataFrame, *, look: Look) -> "Figure":
    """Return a figure: lesion sensitivity by size class, and as a curve over the diameter.

    Args:
        lesions: Rows of `per_lesion` of one label's references.
        look: The models' colours and markers.
    """
    figure, grid = new_figure(
        width=12,
        height=5.2,
        rows=2,
        columns=2,
        height_ratios=(3.4, 1),
        width_ratios=(1, 1.25),
        sharex="col",
    )
    (classes, curve), (class_counts, curve_counts) = grid
    limits = np.array([*(size.smallest_mm for size in SIZE_CLASSES), np.inf])
    _draw_classes(classes, lesions, limits, look)
    _draw_curve(curve, lesions, look)
    for axes in (classes, curve):
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("lesion sensitivity", fontsize=9.5, color=INK)
    one_model = lesions[lesions["model"] == next(iter(look.colours))]["diameter_mm"].to_numpy()
    places = np.arange(len(SIZE_CLASSES))
    bars = class_counts.bar(places, np.histogram(one_model, limits)[0], color=FAINT, width=0.5)
    class_counts.bar_label(bars, fontsize=9, color=INK)
    class_counts.margins(y=0.35)
    class_counts.set_xticks(places, [size_in_words(size).removeprefix("of ") for size in SIZE_CLASSES])
    curve_counts.hist(one_model, bins=_fine_bins(one_model), color=FAINT)
    curve_counts.set_xlabel("diameter of the reference's lesion (mm)", fontsize=9.5, color=INK)
    class_counts.set_xlabel("diameter of the reference's lesion", fontsize=9.5, color=INK)
    for axes in (class_counts, curve_counts):
        axes.set_ylabel("lesions", fontsize=9.5, color=INK)
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    figure.legend(
        *curve.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9
    )
    return figure


def _draw_classes(axes: "Axes", lesions: pd.DataFrame, limits: NDArray[np.float64], look: Look) -> None:
    offsets = np.linspace(-0.3, 0.3, len(look.colours)) if len(look.colours) > 1 else np.zeros(1)
    for offset, (model, colour) in zip(offsets, look.colours.items(), strict=True):
        found, number = _counts(lesions, model, limits)
        kept = number > 0
        share = found[kept] / number[kept]
        low, high = proportion_confint(found[kept], number[kept], method="wilson")
        axes.errorbar(
            np.flatnonzero(kept) + offset,
            share,
            # Rounding may put a bound on the wrong side of a share of 0 or 1.
            yerr=np.maximum([share - low, high - share], 0),
            fmt=look.markers[model],
            color=colour,
            markersize=7,
            capsize=3,
            linewidth=1.4,
        )


def _draw_curve(axes: "Axes", lesions: pd.DataFrame, look: Look) -> None:
    edges = np.array(EDGES_MM)
    for model, colour in look.colours.items():
        diameters = lesions.loc[lesions["model"] == model, "diameter_mm"].to_numpy()
        found, number = _counts(lesions, model, edges)
        kept = number >= FEWEST_LESIONS
        bins = np.digitize(diameters, edges) - 1
        middles = [float(diameters[bins == i].mean()) for i in np.flatnonzero(kept)]
        axes.plot(
            middles,
            found[kept] / number[kept],
            marker=look.markers[model],
            color=colour,
            label=short(model, width=80),
            markersize=5.5,
            linewidth=1.6,
            alpha=0.9,
        )


def _counts(
    lesions: pd.DataFrame, model: str, limits: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return how many lesions between the limits are found, and how many there are."""
    rows = lesions[lesions["model"] == model]
    detected = rows.loc[rows["status"] == "detected", "diameter_mm"]
    return np.histogram(detected, limits)[0], np.histogram(rows["diameter_mm"], limits)[0]


def _fine_bins(diameters: NDArray[np.float64]) -> NDArray[np.float64]:
    top = float(diameters.max()) if diameters.size else 1.0
    return np.arange(0, np.ceil(top) + 1)
