"""Long names of models and cases, broken where a reader would."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.proportion import proportion_confint

from sgnet_nnunet.evaluation.froc import Froc, LesionCounts
from sgnet_nnunet.evaluation.lesion_metrics import SIZE_CLASSES
from sgnet_nnunet.evaluation.measurement import Figures
from sgnet_nnunet.evaluation.registry import headline_metrics
from sgnet_nnunet.evaluation.results import Model
from sgnet_nnunet.evaluation.statistics import rows_of
from sgnet_nnunet.evaluation.summary import size_in_words
from sgnet_nnunet.evaluation.tuning import Tuning
from sgnet_nnunet.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sgnet_nnunet.evaluation.froc import Froc


def parts_of(name: str) -> list[str]:
    """Return a name cut before its capitals, and after underscores, hyphens and spaces."""
    parts = [""]
    for before, letter in zip(" " + name, name, strict=False):
        if (letter.isupper() and before.islower()) or (before in "_- " and letter not in "_- "):
            parts.append("")
        parts[-1] += letter
    return [part for part in parts if part]


def lines_of(name: str, *, width: int) -> str:
    """Return a name in lines of at most `width` letters, one part at least in each."""
    lines = [""]
    for part in parts_of(name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def breakable(name: str) -> Markup:
    """Return a name, escaped for HTML, that may be broken between its parts."""
    return Markup("<wbr>").join(parts_of(name))  # escapes the parts


REFERENCE = "Reference"
"""What the reference is called."""

REFERENCE_COLOUR = "#F0E442"
MODEL_COLOURS = ("#D55E00", "#56B4E9", "#CC79A7", "#009E73", "#0072B2", "#E69F00", "#999999", "#8B5FBF")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Shapes of a model's points, so that a plot does not lean on colour alone."""


def colours_of(models: Sequence[Model]) -> dict[str, str]:
    """Return each model's colour, `#rrggbb`; from the ninth model on they repeat."""
    return {model.name: MODEL_COLOURS[i % len(MODEL_COLOURS)] for i, model in enumerate(models)}


def markers_of(models: Sequence[Model]) -> dict[str, str]:
    """Return each model's marker in matplotlib's letters; from the ninth model on they repeat."""
    return {model.name: MARKERS[i % len(MARKERS)] for i, model in enumerate(models)}


def rgb(colour: str) -> tuple[int, int, int]:
    """Return the red, green and blue of a colour `#rrggbb`, 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


INK, FAINT, GRID = "#222222", "#8a8a8a", "#e4e4e4"
DPI = 120


@dataclass(frozen=True, kw_only=True)
class Look:
    """How the models are told apart.

    Attributes:
        colours: Colour `#rrggbb` by model.
        markers: matplotlib's marker by model.
    """

    colours: Mapping[str, str]
    markers: Mapping[str, str]


def new_figure(
    *,
    width: float,
    height: float,
    rows: int,
    columns: int,
    **options: Any,  # noqa: ANN401 - handed on
) -> tuple[Figure, Any]:
    """Return a white figure and its axes, shape (rows, columns).

    Args:
        width: In inches.
        height: In inches.
        rows: Rows of axes.
        columns: Columns of axes.
        options: Passed to `Figure.subplots`.
    """
    # pyplot would open a window system; the object interface draws without one.
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    grid: NDArray[Any] = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        _tidy(axes)
    return figure, grid


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, atomically; the same figure gives the same bytes."""
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=DPI, metadata={"Software": None})


def short(name: str, *, width: int = 22) -> str:
    """Return a model's name in lines of at most `width` letters, as matplotlib takes it."""
    return lines_of(name, width=width).replace("$", r"\$")


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=3)
    axes.grid(visible=True, color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """Return the values that are numbers, shape (n,)."""
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


COLUMNS = 3
SHARES_LIMITS = (-0.03, 1.03)


def box_plots(rows: Mapping[str, pd.DataFrame], *, look: Look) -> "Figure":
    """Return a figure with one panel a headline metric, a box a model.

    Args:
        rows: Each model's rows as `comparison.rows.rows_of` returns them.
        look: The models' colours.
    """
    metrics = [each for each in headline_metrics() if all(each.name in table for table in rows.values())]
    lines = -(-len(metrics) // COLUMNS)
    figure, grid = new_figure(
        width=12, height=lines * (1.2 + 0.38 * len(rows)), rows=lines, columns=COLUMNS, sharey=True
    )
    for spare in grid.flat[len(metrics) :]:
        spare.axis("off")
    for axes, metric in zip(grid.flat, metrics, strict=False):
        _draw(axes, pd.DataFrame({model: table[metric.name] for model, table in rows.items()}), look)
        better = "higher" if metric.higher_is_better else "lower"
        axes.set_xlabel(f"{metric.title} – {better} is better", fontsize=9.5, color=INK)
        if np.isfinite(metric.limits[1]):
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


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot.

    Attributes:
        name: Stem of its file.
        title: What it shows.
        caption: How to read it.
        figure: The figure.
    """

    name: str
    title: str
    caption: str
    figure: "Figure"


def plots_of(figures: Figures, *, label: str, froc: Mapping[str, "Froc"]) -> Iterator[Plot]:
    """Yield the plots of one label or region.

    Args:
        figures: What was measured.
        label: Name of the label or region.
        froc: The curve of each model that has one, by the model's name.
    """
    models = figures.results.models
    look = Look(colours=colours_of(models), markers=markers_of(models))
    rows = {model.name: rows_of(figures.per_case, model=model.name, label=label) for model in models}
    yield Plot(
        name="metrics",
        title="Every case, model by model",
        caption="Boxes: quartiles with the median; whiskers: up to 1.5 times the box; diamonds: means. "
        "A grey line joins one case's values.",
        figure=box_plots(rows, look=look),
    )
    lesions = figures.per_lesion[figures.per_lesion["label"] == label]
    yield Plot(
        name="lesion_size",
        title="Lesions found, by their diameter",
        caption="Lesions of all cases together; the diameter is that of the sphere of the lesion's volume. "
        "Bars: 95 % Wilson intervals, which take lesions as independent. Below: how many lesions there are.",
        figure=size_plot(_of_references(lesions), look=look),
    )
    yield Plot(
        name="precision_recall",
        title="Precision against recall",
        caption="A point is a case, the large one the mean; grey lines join points of equal Dice. "
        "Lower right: too much is drawn; upper left: too little.",
        figure=overlap_plot(rows, look=look),
    )
    if froc:
        yield Plot(
            name="froc",
            title="Lesions found against false positives (FROC)",
            caption="Over all thresholds on the probability, nothing removed; the large point is at 0.5. "
            "Lesions of all cases and of any label together.",
            figure=froc_plot(froc, look=look),
        )


def _of_references(lesions: pd.DataFrame) -> pd.DataFrame:
    return lesions[lesions["status"] != "false positive"]


LINEAR_UP_TO = 1.0
"""False positives per case from which on the axis is logarithmic: it has to show both 0 and 50."""


def draw_tuning(tuning: Tuning, path: Path) -> None:
    """Draw a tuning's FROC curves with the default and the chosen point, as PNG.

    Args:
        tuning: The tuning.
        path: File to write, atomically.
    """
    # pyplot would open a window system; the object interface draws without one.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import ScalarFormatter  # noqa: PLC0415

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for froc, colour in zip(tuning.frocs, ("#7a8793", "#1f77b4"), strict=False):
        axes.plot(
            froc.false_positives_per_case,
            froc.sensitivity,
            marker=".",
            color=colour,
            label=_name(froc),
        )
    for counts, marker, colour, label in (
        (tuning.default, "s", "#111111", "default"),
        (tuning.resubstitution, "*", "#d62728", f"chosen: {tuning.point}"),
        (tuning.cross_validated, "D", "#2ca02c", "cross-validated: what to expect"),
    ):
        axes.plot(
            *_place(counts),
            marker,
            color=colour,
            markersize=12 if marker == "*" else 7,
            label=label,
            clip_on=False,
            zorder=3,
        )
    axes.set_xscale("symlog", linthresh=LINEAR_UP_TO)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("false positives per case")
    axes.set_ylabel("lesion sensitivity")
    cases = f"{tuning.default.cases} cases of {tuning.patients} patients"
    axes.set_title(f"{tuning.provenance.model}\n{cases}, {tuning.default.total_lesions} lesions", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=9)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=120)


def _place(counts: LesionCounts) -> tuple[float, float]:
    return float(counts.false_positives_per_case), float(counts.sensitivity)


def _name(froc: Froc) -> str:
    if not froc.min_lesion_volume_mm3:
        return "every threshold, nothing removed"
    return f"every threshold, below {froc.min_lesion_volume_mm3:g} mm3 removed"
