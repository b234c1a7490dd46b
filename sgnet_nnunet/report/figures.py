"""Plots of a comparison and of a tuning, and the colours and names that all pictures share."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sgnet_nnunet.errors import needs_extra, printable
from sgnet_nnunet.evaluation.comparison import Comparison
from sgnet_nnunet.evaluation.lesion_metrics import SIZE_CLASSES
from sgnet_nnunet.evaluation.registry import Metric
from sgnet_nnunet.evaluation.results import Model
from sgnet_nnunet.evaluation.statistics import Floats, rows_of
from sgnet_nnunet.files import atomic_path
from sgnet_nnunet.inference.operating_point import DEFAULT_THRESHOLD, removal
from sgnet_nnunet.nifti import at_least
from sgnet_nnunet.report.tables import rows_of_label, verdict

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sgnet_nnunet.evaluation.calibration import Reliability
    from sgnet_nnunet.evaluation.froc import Froc
    from sgnet_nnunet.evaluation.tuning import Tuning

REFERENCE, PREDICTION = "Reference", "Prediction"

# Okabe and Ito 2008: distinguishable with red-green blindness. Yellow and blue differ the most.
REFERENCE_COLOUR, PREDICTION_COLOUR, GATE_COLOUR = "#F0E442", "#56B4E9", "#D55E00"
MODEL_COLOURS = (
    PREDICTION_COLOUR,
    *("#D55E00", "#009E73", "#CC79A7", "#0072B2", "#E69F00", "#999999", "#8B5FBF"),
)
# Models must be distinguishable without colour.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

Look = Mapping[str, Mapping[str, Any]]
"""Colour and marker of each model, as matplotlib's keywords."""

INK, FAINT, GRID = "#222222", "#8a8a8a", "#e4e4e4"
DPI = 144
CSS_PIXELS_PER_INCH = 96
COLUMNS = 3
WIDEST, TALLEST = 11.0, 40.0  # inches

SHARE_LIMITS = (-0.03, 1.03)
DICE_LEVELS = (0.2, 0.4, 0.6, 0.8)
EDGES_MM = (0.0, 3.0, 4.0, 5.0, 6.5, 8.0, 10.0, 13.0, 17.0, 22.0, 30.0, np.inf)
"""Limits of the bins of the curve over diameters; finer where metastases are many."""

MOST_BINS = 100  # of the histogram of diameters
FEWEST_LESIONS = 3  # of a bin that the curve shows


def parts_of(name: str) -> list[str]:
    """Return a name, `printable`, cut before its capitals, and after underscores, hyphens and spaces."""
    cuts = r"(?<=[a-z])(?=[A-Z])|(?<=[_\- ])(?=[^_\- ])"
    return [part for part in re.split(cuts, printable(name)) if part]


def lines_of(name: str, *, width: int) -> str:
    """Return a name in lines of at most `width` letters, one part at least in each."""
    lines = [""]
    for part in parts_of(name):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def short(name: str, *, width: int = 22) -> str:
    """Return a name as `lines_of` does, for matplotlib, which reads a dollar as mathematics."""
    return lines_of(name, width=width).replace("$", r"\$")


def breakable(text: str) -> "Markup":
    """Return text escaped for HTML; a name may be broken between its parts, a number may not."""
    with needs_extra("report"):
        from markupsafe import Markup, escape  # noqa: PLC0415

    return Markup("<wbr>").join(parts_of(text)) if text[:1].isalpha() else escape(printable(text))


def colours_of(models: Sequence[Model]) -> dict[str, str]:
    """Return each model's colour, `#rrggbb`; from the ninth model on they repeat."""
    return dict(zip((model.name for model in models), cycle(MODEL_COLOURS)))


def rgb(colour: str) -> tuple[int, int, int]:
    """Return the red, green and blue of a colour `#rrggbb`, 0 to 255."""
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue


def look_of(models: Sequence[Model]) -> Look:
    """Return the colours and markers of models; from the ninth model on they repeat."""
    colours = colours_of(models).items()
    return {
        name: {"color": colour, "marker": marker} for (name, colour), marker in zip(colours, cycle(MARKERS))
    }


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot that is yet to be drawn; `name` is the stem of its file."""

    name: str
    title: str
    caption: str
    draw: "Callable[[], Figure]"


def plots_of(
    comparison: Comparison,
    per_case: pd.DataFrame,
    *,
    label: str,
    per_lesion: pd.DataFrame | None = None,
    froc: "Mapping[str, Froc] | None" = None,
    reliability: "Mapping[str, Mapping[str, Reliability]] | None" = None,
) -> Iterator[Plot]:
    """Yield the plots of one label or region, those whose data are given.

    The table of cases may be empty; FROC curves are by the model's name, as is the reliability of each kind
    of confidence, the lesions' mean probability first.
    """
    look = look_of(comparison.models)
    if rows_of_label(comparison.differences, label):
        yield Plot(
            name="differences",
            title=f"Differences to {comparison.baseline}",
            caption="Mean paired difference with its 95 % interval over patients; filled: better or worse.",
            draw=lambda: forest_plot(comparison, label=label, look=look),
        )
    if not per_case.empty:
        rows = {model: rows_of(per_case, model=model, label=label) for model in look}
        yield Plot(
            name="metrics",
            title="Headline metrics of every case",
            caption="Boxes: quartiles and median; diamonds: means; grey lines join the values of one case.",
            draw=lambda: box_plots(rows, comparison.headline, look=look),
        )
        if {"precision", "recall"} <= set(per_case):
            yield Plot(
                name="precision_recall",
                title="Precision against recall",
                caption="Points: cases; large point: mean; dashed: equal Dice.",
                draw=lambda: overlap_plot(rows, look=look),
            )
    yield from _plots_of_probabilities(froc or {}, reliability or {}, look)
    if per_lesion is not None:
        lesions = per_lesion[(per_lesion["label"] == label) & (per_lesion["status"] != "false positive")]
        yield Plot(
            name="lesion_size",
            title="Lesion sensitivity by diameter",
            caption="Lesions of all cases; bars: 95 % Wilson intervals, lesions taken as independent.",
            draw=lambda: size_plot(lesions, look=look),
        )


def _plots_of_probabilities(
    froc: "Mapping[str, Froc]", reliability: "Mapping[str, Mapping[str, Reliability]]", look: Look
) -> Iterator[Plot]:
    if froc:
        yield Plot(
            name="froc",
            title="FROC curve",
            caption="All thresholds on the probability, no lesion removed, all labels; large point: "
            f"{DEFAULT_THRESHOLD:g}.",
            draw=lambda: froc_plot(froc, look=look),
        )
    if reliability:
        yield Plot(
            name="reliability",
            title="Reliability of predicted lesions",
            caption=f"Lesions at a threshold of {DEFAULT_THRESHOLD:g}, none removed, all labels, in bins of "
            "their confidence; larger point: more lesions; grey: as often true as confident.",
            draw=lambda: reliability_plot(reliability, look=look),
        )


def new_figure(
    width: float,
    height: float,
    *,
    axes: int = 1,
    columns: int = 1,
    **options: Any,  # noqa: ANN401 - handed on
) -> "tuple[Figure, NDArray[Any]]":
    """Return a white figure and its axes, shape (rows, columns), as many rows as the axes need.

    The width and the height of a row are in inches, the whole at most `WIDEST` and `TALLEST`. Axes after
    the last one used stay blank. The options are those of `Figure.subplots`.
    """
    # pyplot would open a window system; the object interface draws without one.
    with needs_extra("report"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415

    rows = -(-axes // columns)
    size = min(width, WIDEST), min(height * rows, TALLEST)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid: NDArray[Any] = figure.subplots(rows, columns, squeeze=False, **options)
    for each in grid.flat:
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(FAINT)
        each.tick_params(colors=INK, labelsize=9, length=3)
        each.grid(visible=True, color=GRID, linewidth=0.7)
        each.set_axisbelow(True)
    for spare in grid.flat[axes:]:
        spare.axis("off")
    return figure, grid


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, atomically; the same figure gives the same bytes."""
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=DPI, metadata={"Software": None})


def forest_plot(comparison: Comparison, *, label: str, look: Look) -> "Figure":
    """Return a figure with a panel for each headline metric: the models' differences to the baseline."""
    models = [name for name in look if name != comparison.baseline]
    found = {(row["model"], row["metric"]): row for row in rows_of_label(comparison.differences, label)}
    figure, grid = _metric_panels(comparison.headline, models, height=0.9 + 0.34 * len(models))
    for axes, metric in zip(grid.flat, comparison.headline, strict=False):
        axes.axvline(0, color=FAINT, linewidth=1)
        for place, model in enumerate(models):
            row, style = found[model, metric.name], look[model]
            if np.isfinite(row["mean"]):
                face = style["color"] if verdict(row, metric) in ("better", "worse") else "white"
                axes.plot([row["low"], row["high"]], [place, place], color=style["color"], linewidth=2)
                axes.plot(row["mean"], place, markerfacecolor=face, markersize=8, **style)
        axes.margins(x=0.15)
        axes.locator_params(axis="x", nbins=5)
    return figure


def _metric_panels(
    metrics: Sequence[Metric], models: Sequence[str], *, height: float
) -> "tuple[Figure, NDArray[Any]]":
    """Return a figure with a panel for each metric, in it a row for each model, the first on top."""
    figure, grid = new_figure(WIDEST, height, axes=len(metrics), columns=COLUMNS, sharey=True)
    for axes, metric in zip(grid.flat, metrics, strict=False):
        axes.set_xlabel(f"{metric.title} – {'higher' if metric.higher_is_better else 'lower'} is better")
    grid.flat[0].set_yticks(range(len(models)), [short(model) for model in models])
    grid.flat[0].set_ylim(len(models) - 0.5, -0.5)
    return figure, grid


def box_plots(rows: Mapping[str, pd.DataFrame], metrics: Sequence[Metric], *, look: Look) -> "Figure":
    """Return a figure with one panel a metric, a box a model; each model's rows are as of `rows_of`."""
    figure, grid = _metric_panels(metrics, list(rows), height=1.1 + 0.36 * len(rows))
    for axes, metric in zip(grid.flat, metrics, strict=False):
        values = pd.DataFrame({model: table[metric.name] for model, table in rows.items()})
        axes.plot(values.to_numpy().T, range(len(rows)), color="#777777", linewidth=0.5, alpha=0.28, zorder=1)
        for place, model in enumerate(rows):
            finite = values[model].to_numpy(np.float64)
            _draw_box(axes, finite[np.isfinite(finite)], place, look[model]["color"])
        if np.isfinite(metric.limits).all():
            axes.set_xlim(*SHARE_LIMITS)
    return figure


def _draw_box(axes: "Axes", values: Floats, place: int, colour: str) -> None:
    if not values.size:
        return
    axes.plot(values, [place] * values.size, "o", ms=2.6, color=colour, alpha=0.55, zorder=2, mec="none")
    line = {"color": colour, "linewidth": 1.1}
    axes.boxplot(
        [values],
        positions=[place],
        orientation="horizontal",
        widths=0.56,
        showfliers=False,
        showmeans=True,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": f"{colour}40", "edgecolor": colour},
        whiskerprops=line,
        capprops=line,
        medianprops={"color": INK, "linewidth": 1.8},
        meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": INK, "markersize": 4.5},
        zorder=3,
    )


def froc_plot(curves: "Mapping[str, Froc]", *, look: Look) -> "Figure":
    """Return a figure with FROC curves, which are by the model's name."""
    figure, grid = new_figure(6.5, 4)
    axes = grid[0, 0]
    for model, curve in curves.items():
        points = curve.false_positives_per_case, curve.sensitivity
        axes.plot(*points, color=look[model]["color"], linewidth=1.8, label=short(model, width=60))
        place = int(np.argmin(np.abs(curve.thresholds - DEFAULT_THRESHOLD)))
        axes.plot(*(values[place] for values in points), ms=9, mec=INK, **look[model])
    _frame_froc(axes)
    return figure


def reliability_plot(found: "Mapping[str, Mapping[str, Reliability]]", *, look: Look) -> "Figure":
    """Return a figure with the reliability of each model's confidences, that of the first kind dashed."""
    figure, grid = new_figure(6.5, 5)
    curves = [
        (each, look[model]["color"], f"{short(model, width=30)}, {kind}", "-" if place else "--")
        for model, kinds in found.items()
        for place, (kind, each) in enumerate(kinds.items())
    ]
    _draw_reliability(grid[0, 0], curves)
    return figure


def _frame_froc(axes: "Axes") -> None:
    # Linear below 1, so that it shows 0.
    axes.set_xscale("symlog", linthresh=1.0)
    axes.set_xlim(left=0)
    axes.set_ylim(*SHARE_LIMITS)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("false positives per case")
    axes.set_ylabel("lesion sensitivity")
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def overlap_plot(rows: Mapping[str, pd.DataFrame], *, look: Look) -> "Figure":
    """Return a figure of every case's precision and recall, with lines of equal Dice."""
    columns, size = min(COLUMNS, len(rows)), WIDEST / COLUMNS
    figure, grid = new_figure(size * columns, size, axes=len(rows), columns=columns, sharex=True, sharey=True)
    for axes, (model, table) in zip(grid.flat, rows.items(), strict=False):
        axes.set(xlim=SHARE_LIMITS, ylim=SHARE_LIMITS, aspect="equal")
        axes.set_title(short(model, width=34), fontsize=10, color=INK)
        _draw_equal_dice(axes)
        axes.scatter(table["recall"], table["precision"], s=24, alpha=0.65, linewidths=0, **look[model])
        axes.plot(table["recall"].mean(), table["precision"].mean(), ms=12, mec=INK, mew=1.4, **look[model])
    for axes in grid[:, 0]:
        axes.set_ylabel("precision")
    for axes in grid.flat[max(0, len(rows) - columns) : len(rows)]:
        axes.set_xlabel("recall")
        axes.tick_params(labelbottom=True)
    return figure


def _draw_equal_dice(axes: "Axes") -> None:
    """Draw precision = D r / (2 r - D), where the Dice of recall r is D."""
    for dice in DICE_LEVELS:
        recall = np.linspace(dice / (2 - dice), 1, 100)
        axes.plot(recall, dice * recall / (2 * recall - dice), color=FAINT, linewidth=0.8, linestyle="--")
        style: dict[str, Any] = {"ha": "right", "va": "bottom", "fontsize": 7.5, "color": "#666666"}
        ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
        axes.annotate(f"Dice {dice:g}", (1, dice / (2 - dice)), bbox=ground, **style)


def size_plot(lesions: pd.DataFrame, *, look: Look) -> "Figure":
    """Return a figure: sensitivity to the reference's lesions by size class, and over their diameter."""
    ratios = {"height_ratios": (3.4, 1), "width_ratios": (1, 1.25)}
    figure, grid = new_figure(WIDEST, 2.2, axes=4, columns=2, sharex="col", **ratios)
    (classes, curve), (class_counts, curve_counts) = grid
    limits = np.array([*(size.smallest_mm for size in SIZE_CLASSES), np.inf])
    places, offsets = np.arange(len(SIZE_CLASSES)), np.linspace(-0.3, 0.3, len(look) + 2)[1:-1]
    for offset, (model, style) in zip(offsets, look.items(), strict=True):
        own = lesions[lesions["model"] == model]
        _draw_classes(classes, own, limits, places + offset, style)
        _draw_curve(curve, own, style, label=short(model, width=60))
    for axes in (classes, curve):
        axes.set_ylim(*SHARE_LIMITS)
        axes.set_ylabel("lesion sensitivity")
    first = lesions[lesions["model"] == next(iter(look))]
    bars = class_counts.bar(places, _counts(first, limits)[1], color=FAINT, width=0.5)
    class_counts.bar_label(bars, fontsize=9, color=INK)
    class_counts.margins(y=0.35)
    class_counts.set_xticks(places, [size.title for size in SIZE_CLASSES])
    largest = np.ceil(first["diameter_mm"].max()) if len(first) else 1.0
    bins = min(int(largest), MOST_BINS)
    curve_counts.hist(first["diameter_mm"], bins=bins, range=(0, largest), color=FAINT)
    for axes in (class_counts, curve_counts):
        axes.set_xlabel("diameter of the reference lesion (mm)")
        axes.set_ylabel("lesions")
        axes.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    figure.legend(
        *curve.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9
    )
    return figure


def _draw_classes(
    axes: "Axes", lesions: pd.DataFrame, limits: Floats, places: Floats, style: Mapping[str, Any]
) -> None:
    from scipy.stats import binomtest  # noqa: PLC0415 - a second to import

    for place, found, number in zip(places, *_counts(lesions, limits)[:2], strict=True):
        if number:
            share = found / number
            low, high = binomtest(int(found), int(number)).proportion_ci(method="wilson")
            # Rounding can move a bound beyond a share of 0 or 1.
            bars = [[max(share - low, 0)], [max(high - share, 0)]]
            axes.errorbar(place, share, yerr=bars, markersize=7, capsize=3, linewidth=1.4, **style)


def _draw_curve(axes: "Axes", lesions: pd.DataFrame, style: Mapping[str, Any], *, label: str) -> None:
    found, number, diameters = _counts(lesions, np.array(EDGES_MM))
    kept = number >= FEWEST_LESIONS
    middles, shares = diameters[kept] / number[kept], found[kept] / number[kept]
    axes.plot(middles, shares, label=label, ms=5.5, linewidth=1.6, alpha=0.9, **style)


def _counts(lesions: pd.DataFrame, limits: Floats) -> list[Floats]:
    """Return how many lesions between limits are found, how many there are, and the sum of their diameters.

    The first limit is 0, the last is infinity; each array has shape (limits - 1,).
    """
    diameters = lesions["diameter_mm"].to_numpy(np.float64)
    bins = np.count_nonzero(at_least(diameters[:, None], limits[1:]), axis=1)
    weights = lesions["status"].to_numpy() == "detected", np.ones_like(diameters), diameters
    bars = (np.bincount(bins, weights=each, minlength=limits.size - 1) for each in weights)
    return [bar.astype(np.float64) for bar in bars]


def draw_tuning(tuning: "Tuning", path: Path) -> None:
    """Draw a tuning's FROC curves with the default and the chosen point, as PNG, atomically.

    Next to them is the reliability of the lesions' confidences, if there is one.
    """
    columns = 1 if tuning.reliability is None else 2
    figure, grid = new_figure(7 * columns - 1.5 * (columns - 1), 5, axes=columns, columns=columns)
    axes = grid[0, 0]
    for froc, colour in zip(tuning.frocs, (FAINT, "#0072B2"), strict=False):
        label = f"every threshold, {removal(froc.min_lesion_volume_mm3, froc.min_mean_probability)}"
        axes.plot(froc.false_positives_per_case, froc.sensitivity, marker=".", color=colour, label=label)
    for counts, marker, size, colour, label in (
        (tuning.default, "s", 7, INK, "default"),
        (tuning.resubstitution, "*", 12, "#D55E00", f"chosen: {tuning.point}"),
        (tuning.cross_validated, "D", 7, "#009E73", "cross-validated"),
    ):
        place = float(counts.false_positives_per_case), float(counts.sensitivity)
        axes.plot(*place, marker, color=colour, markersize=size, label=label, clip_on=False, zorder=3)
    _frame_froc(axes)
    cases = f"{tuning.default.cases} cases of {tuning.patients} patients"
    model = short(tuning.provenance.model, width=70)
    axes.set_title(f"{model}\n{cases}, {tuning.default.total_lesions} lesions", fontsize=10)
    if tuning.reliability is not None and tuning.uncalibrated is not None:
        curves = (
            (tuning.uncalibrated, FAINT, "mean probability", "-"),
            (tuning.reliability, "#009E73", "confidence, cross-fitted", "-"),
        )
        _draw_reliability(grid[0, 1], curves)
        grid[0, 1].set_title("Reliability of predicted lesions", fontsize=10)
    save(figure, path)


def _draw_reliability(axes: "Axes", curves: "Sequence[tuple[Reliability, str, str, str]]") -> None:
    """Draw reliabilities, each with its colour, name and line style."""
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    for found, colour, name, style in curves:
        label = f"{name}: error {found.error:.3f}, Brier {found.brier:.3f}"
        axes.plot(found.confidence, found.true_share, style, color=colour, label=label)
        axes.scatter(found.confidence, found.true_share, s=6 * np.sqrt(found.lesions), color=colour)
    axes.set(
        xlim=SHARE_LIMITS,
        ylim=SHARE_LIMITS,
        xlabel="confidence (mean of the bin)",
        ylabel="share of true lesions",
    )
    axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.12), frameon=False)
