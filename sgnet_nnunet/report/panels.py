"""Slices with contours as small pictures, drawn by NumPy and Pillow: matplotlib takes ten times as long."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sgnet_nnunet.evaluation.pair import bounding_box
from sgnet_nnunet.pictures.slices import radiological_slice, white_level
from sgnet_nnunet.report.palette import rgb

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
