"""Figures without a window system, in one look."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from sgnet_nnunet.io.atomic import atomic_path
from sgnet_nnunet.report.names import lines_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
