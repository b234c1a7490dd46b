"""Axial slices on black, as a radiologist sees them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sgnet_nnunet.evaluation.pairs import bounding_box
from sgnet_nnunet.files import atomic_path
from sgnet_nnunet.inference.gate_maps import GatedCase
from sgnet_nnunet.report.figures import rgb

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE_COLOUR, PREDICTION_COLOUR, GATE_COLOUR = "#37d67a", "#ff5c5c", "#4db8ff"


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


GAP = 4
"""Pixels between two panels."""

MARGIN_MM = 4.0
"""Shown around what must be seen."""


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """The part of every axial slice that is shown, and how large.

    Attributes:
        box: Rows and columns of `radiological_slice` that are shown.
        size: Width and height of the picture in pixels.
    """

    box: tuple[slice, slice]
    size: tuple[int, int]


@dataclass(frozen=True, eq=False, kw_only=True)
class Contour:
    """The outline of a mask.

    Attributes:
        mask: Shape (x, y, z).
        colour: `#rrggbb`.
        width: Width in pixels.
    """

    mask: NDArray[np.bool_]
    colour: str
    width: float = 1.4


@dataclass(frozen=True, eq=False, kw_only=True)
class Panel:
    """One slice.

    Attributes:
        grey: Scan with values from 0 to 255, shape (x, y, z).
        k: Index of the axial slice.
        title: Written into the upper left corner.
        contours: Drawn in this order.
    """

    grey: NDArray[np.uint8]
    k: int
    title: str
    contours: Sequence[Contour] = field(default=())


def view_of(shown: NDArray[np.bool_], *, spacing: tuple[float, ...], pixels_per_mm: float) -> View:
    """Return the view that holds every voxel of a mask of shape (x, y, z), with a margin.

    Args:
        shown: What must be seen; all is shown if it is empty.
        spacing: Voxel size in mm along x, y and, if given, z.
        pixels_per_mm: Size of the picture.
    """
    flat = radiological_slice(np.asarray(shown.any(axis=2, keepdims=True)), 0)
    box = bounding_box(flat[:, :, None]) if flat.any() else (slice(0, flat.shape[0]), slice(0, flat.shape[1]))
    rows, columns = (
        slice(max(0, part.start - round(MARGIN_MM / step)), min(length, part.stop + round(MARGIN_MM / step)))
        for part, length, step in zip(box, flat.shape, (spacing[1], spacing[0]), strict=False)
    )
    width = (columns.stop - columns.start) * spacing[0] * pixels_per_mm
    height = (rows.stop - rows.start) * spacing[1] * pixels_per_mm
    return View(box=(rows, columns), size=(max(1, round(width)), max(1, round(height))))


def draw_panels(panels: Sequence[Panel], view: View) -> Image.Image:
    """Return one or more panels side by side, all with the same view."""
    width, height = view.size
    sheet = Image.new("RGB", (len(panels) * (width + GAP) - GAP, height))
    for i, panel in enumerate(panels):
        sheet.paste(_draw(panel, view), (i * (width + GAP), 0))
    return sheet


def encode(picture: Image.Image, *, quality: int) -> bytes:
    """Return a picture as a WebP file, of a quality from 0 to 100."""
    content = BytesIO()
    picture.save(content, "WEBP", quality=quality, method=3)
    return content.getvalue()


def to_grey(volume: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a scan from 0 to 255, white at the `white_level` of every third voxel along each axis."""
    scaled = volume.astype(np.float32)
    scaled *= 255 / white_level(volume[::3, ::3, ::3])
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def _draw(panel: Panel, view: View) -> Image.Image:
    picture = np.asarray(_resize(_shown(panel.grey, panel.k, view), view, Image.Resampling.BICUBIC))
    colours = np.repeat(picture[:, :, None].clip(0, 255), 3, axis=2)
    for contour in panel.contours:
        ink = _ink(_shown(contour.mask, panel.k, view), view, contour.width)[:, :, None]
        colours = colours * (1 - ink) + np.array(rgb(contour.colour), dtype=np.float32) * ink
    image = Image.fromarray(np.rint(colours).astype(np.uint8))
    _write(image, panel.title)
    return image


def _shown(volume: NDArray[Any], k: int, view: View) -> NDArray[np.float32]:
    return np.ascontiguousarray(radiological_slice(volume, k)[view.box], dtype=np.float32)


def _resize(plane: NDArray[np.float32], view: View, how: Image.Resampling) -> Image.Image:
    return Image.fromarray(plane).resize(view.size, how)


def _ink(mask: NDArray[np.float32], view: View, width: float) -> NDArray[np.float32]:
    """Return how much of each pixel a mask's contour covers, 0 to 1.

    The contour is where the mask, interpolated between the voxels' centres, is one half; how far a
    pixel is from it follows from the value and its gradient. Scan and mask are resized alike, so
    the two fit.
    """
    if not mask.any():
        return np.zeros(view.size[::-1], dtype=np.float32)
    field_ = np.asarray(_resize(mask, view, Image.Resampling.BILINEAR))
    slope = np.hypot(*np.gradient(field_)) if min(field_.shape) > 1 else np.ones_like(field_)
    distance = np.abs(field_ - 0.5) / np.maximum(slope, 1e-6)
    return np.clip(width / 2 + 0.5 - distance, 0, 1).astype(np.float32)


def _write(image: Image.Image, title: str) -> None:
    width, height = image.size
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(11, height // 26))
    style: dict[str, Any] = {"font": font, "fill": "white", "stroke_width": 1, "stroke_fill": "black"}
    draw.text((4, 2), title, **style)
    draw.text((4, height / 2), "R", anchor="lm", **style)
    draw.text((width - 4, height / 2), "L", anchor="rm", **style)


CHANNELS = ("T1ce", "FLAIR")


def draw_gates(case: GatedCase, path: Path) -> None:
    """Draw T1ce, FLAIR, every gate and the prediction, on the axial slice with the most tumour.

    A gate is drawn over the first channel: dark where it is closed. The reference is green, the
    prediction red.

    Args:
        case: What `inference.gates.look_at_case` returns.
        path: PNG file to write.
    """
    channels = [channel.transpose(2, 1, 0) for channel in case.image]
    prediction = case.prediction.transpose(2, 1, 0)
    reference = None if case.reference is None else case.reference.transpose(2, 1, 0)
    k = int(np.argmax((prediction if reference is None else reference).sum(axis=(0, 1))))
    aspect = case.spacing[1] / case.spacing[2]
    panels = len(channels) + len(case.gates) + 1
    columns = -(-panels // 2)
    figure, grid = dark_figure(rows=2, columns=columns)
    axes = list(grid.flat)
    for spare in axes[panels:]:
        spare.axis("off")
    for i, channel in enumerate(channels):
        title = CHANNELS[i] if i < len(CHANNELS) else f"channel {i}"
        draw_scan(axes[i], channel, k, title=title, aspect=aspect)
        if reference is not None:
            draw_contour(axes[i], reference, k, colour=REFERENCE_COLOUR)
    for panel, (name, gate) in zip(axes[len(channels) :], case.gates.items(), strict=False):
        opened = gate.transpose(2, 1, 0)
        draw_scan(panel, channels[0], k, title=f"gate at {name}: {gate.mean():.1%} open", aspect=aspect)
        closed = np.where(radiological_slice(opened, k), np.nan, 1.0)
        panel.imshow(closed, cmap="gray", vmin=1, vmax=2, alpha=0.65, aspect=aspect)
        draw_contour(panel, opened, k, colour=GATE_COLOUR)
    last = axes[panels - 1]
    draw_scan(last, channels[0], k, title="prediction", aspect=aspect)
    draw_contour(last, prediction, k, colour=PREDICTION_COLOUR)
    draw_name(axes[0], case.name)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=110)
