"""Axial slices on black, as a radiologist sees them."""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRUTH_COLOUR, PREDICTION_COLOUR, GATE_COLOUR = "#37d67a", "#ff5c5c", "#4db8ff"


Pixel = TypeVar("Pixel", bound=np.generic)


def radiological_slice(volume: NDArray[Pixel], k: int) -> NDArray[Pixel]:
    """Return axial slice `k` of a RAS volume (x, y, z) for display.

    The patient's right is on the viewer's left and anterior is up when the result, shape
    (rows, columns), is drawn from the upper left corner.
    """
    return volume[::-1, ::-1, k].T


def dark_figure(*, rows: int, columns: int) -> "tuple[Figure, NDArray[Any]]":
    """Return a black figure and its axes, shape (rows, columns)."""
    # pyplot would open a window system; the object interface draws without one.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(3 * columns, 3.4 * rows), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def white_level(volume: NDArray[Any]) -> float:
    """Return the value to show as white: the 99.5th percentile of what is above 0; 1 if nothing is."""
    inside = volume[volume > 0]
    return float(np.percentile(inside, 99.5)) if inside.size else 1.0


def draw_scan(axes: "Axes", volume: NDArray[np.floating[Any]], k: int, *, title: str, aspect: float) -> None:
    """Draw axial slice `k` of a scan (x, y, z), black at 0 and white at its `white_level`."""
    shown, top = radiological_slice(volume, k), white_level(volume)
    axes.imshow(shown, cmap="gray", vmin=0, vmax=top, aspect=aspect)
    axes.set_title(title, color="white", fontsize=11)
    axes.axis("off")
    axes.text(0.02, 0.5, "R", color="white", transform=axes.transAxes)


def draw_contour(axes: "Axes", mask: NDArray[np.bool_], k: int, *, colour: str) -> None:
    """Draw the outline of axial slice `k` of a mask (x, y, z), if there is one."""
    shown = radiological_slice(mask, k)
    if shown.any() and not shown.all():
        axes.contour(shown, levels=[0.5], colors=colour, linewidths=1.2)


def draw_name(axes: "Axes", name: str) -> None:
    """Write a case's name into the lower left corner."""
    axes.text(0.02, 0.02, name, color="white", fontsize=8, transform=axes.transAxes)
