"""Axial slices with contours, in the radiological convention: the renderer of all pictures of scans."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import needs_extra, printable
from sgnet_nnunet.files import atomic_path
from sgnet_nnunet.lesions import bounding_box
from sgnet_nnunet.report.figures import (
    GATE_COLOUR,
    PREDICTION,
    PREDICTION_COLOUR,
    REFERENCE,
    REFERENCE_COLOUR,
    rgb,
)

with needs_extra("report"):
    from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from sgnet_nnunet.inference.gate_maps import GatedCase

GAP = 4  # pixels between two panels
MARGIN_MM = 4.0  # shown around what must be seen
SMALLEST_PANEL, LARGEST_PANEL = 160, 640  # limits of a panel's longer side in pixels, whatever the grid
MOST_COLUMNS = 6  # panels side by side at most
QUALITY = 80  # of WebP's compression, 0 to 100; below it thin contours lose their colour
SUPPRESSED = 0.35  # brightness of what a gate suppresses

Voxel = TypeVar("Voxel", bound=np.generic)


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """Rows and columns of `radiological_slice` that are shown; a panel's width and height in pixels."""

    box: tuple[slice, slice]
    size: tuple[int, int]


@dataclass(frozen=True, eq=False, kw_only=True)
class Contour:
    """The outline of a mask (x, y, z), `width` pixels wide; its name is written in its colour."""

    mask: NDArray[np.bool_]
    colour: str  # #rrggbb
    width: float = 1.4
    name: str = ""


@dataclass(frozen=True, eq=False, kw_only=True)
class Panel:
    """Axial slice `k` of a scan (x, y, z), with its title in the upper left corner.

    Only voxels in `lit`, if given, keep their brightness.
    """

    grey: NDArray[np.uint8]  # 0 to 255
    k: int
    title: str
    contours: Sequence[Contour] = ()  # drawn in this order
    lit: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A WebP or PNG file and the CSS pixels it is shown at (None for its own), or why there is no picture."""

    content: bytes = b""
    width: int | None = None
    problem: str = ""


def attempt(draw: Callable[[], Picture]) -> Picture:
    """Return the picture that a function draws, or one that says why there is none."""
    try:
        return draw()
    # The report is written without this picture, whatever the error: images, weights or numbers.
    except Exception as error:
        return Picture(problem=reason(error))


def reason(error: Exception) -> str:
    """Return an error's message in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def radiological_slice(volume: NDArray[Voxel], k: int) -> NDArray[Voxel]:
    """Return axial slice `k` of a RAS volume (x, y, z) for display.

    The patient's right is on the viewer's left and anterior is up when the result, shape
    (rows, columns), is drawn from the upper left corner.
    """
    return volume[::-1, ::-1, k].T


def fullest_slice(mask: NDArray[np.bool_], *, default: int) -> int:
    """Return the index of the axial slice with most voxels of a mask (x, y, z), or a default for none."""
    voxels = np.count_nonzero(mask, axis=(0, 1))
    return int(np.argmax(voxels)) if voxels.any() else default


def view_of(shown: NDArray[np.bool_], *, spacing: tuple[float, ...], pixels_per_mm: float) -> View:
    """Return the view that holds every voxel of a mask of shape (x, y, z), with a margin.

    All is shown if the mask is empty. The scale differs if the longer side would be outside of
    `SMALLEST_PANEL` and `LARGEST_PANEL`. The spacing is that of x, y and, if given, z.
    """
    flat = radiological_slice(np.asarray(shown.any(axis=2, keepdims=True)), 0)
    box = bounding_box(flat[:, :, None]) if flat.any() else (slice(0, flat.shape[0]), slice(0, flat.shape[1]))
    rows, columns = (
        slice(max(0, part.start - round(MARGIN_MM / step)), min(length, part.stop + round(MARGIN_MM / step)))
        for part, length, step in zip(box, flat.shape, (spacing[1], spacing[0]), strict=False)
    )
    width, height = (columns.stop - columns.start) * spacing[0], (rows.stop - rows.start) * spacing[1]
    longer = max(width, height)
    scale = min(max(pixels_per_mm, SMALLEST_PANEL / longer), LARGEST_PANEL / longer)
    return View(box=(rows, columns), size=(max(1, round(width * scale)), max(1, round(height * scale))))


def draw_panels(panels: Sequence[Panel], view: View, *, columns: int = MOST_COLUMNS) -> Image.Image:
    """Return one or more panels row by row, all with the same view."""
    return tile([_draw(panel, view) for panel in panels], columns=columns)


def tile(images: Sequence[Image.Image], *, columns: int) -> Image.Image:
    """Return pictures row by row on black, each in a cell of the largest one's size."""
    columns = min(columns, len(images))
    width, height = max(image.width for image in images), max(image.height for image in images)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP))
    for i, image in enumerate(images):
        sheet.paste(image, ((i % columns) * (width + GAP), (i // columns) * (height + GAP)))
    return sheet


def encode(image: Image.Image) -> Picture:
    """Return an image as a WebP file."""
    content = BytesIO()
    image.save(content, "WEBP", quality=QUALITY, method=3)
    return Picture(content=content.getvalue())


def save_png(image: Image.Image, path: Path) -> None:
    """Write an image as PNG, atomically."""
    with atomic_path(path) as partial:
        image.save(partial, "PNG", compress_level=3)


def to_grey(volume: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a scan from 0 to 255.

    Black is 0 or, in normalised scans, whose background is negative, their 1st percentile; white is the
    99.5th percentile of what is brighter than black.
    """
    sample = volume[::3, ::3, ::3].astype(np.float32)
    black = min(0.0, float(np.percentile(sample, 1)))
    inside = sample[sample > black]
    white = float(np.percentile(inside, 99.5)) if inside.size else black + 1
    scaled = (volume.astype(np.float32) - black) * (255 / (white - black))
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def gate_panels(case: "GatedCase", *, colour: str = PREDICTION_COLOUR) -> Image.Image:
    """Draw a case's channels, every gate and the prediction, on the axial slice with the most tumour.

    A gate is drawn over the first channel: dark where it suppresses, outlined. Gates and prediction are of
    one pass over the whole image. `colour` is the prediction's.
    """
    scans = [to_grey(channel.transpose(2, 1, 0)) for channel in case.image]
    prediction = case.prediction.transpose(2, 1, 0)
    contours = [Contour(mask=prediction, colour=colour, name=PREDICTION)]
    if case.reference is not None:
        reference = case.reference.transpose(2, 1, 0)
        contours.insert(0, Contour(mask=reference, colour=REFERENCE_COLOUR, width=3, name=REFERENCE))
    k = fullest_slice(contours[0].mask, default=fullest_slice(prediction, default=prediction.shape[2] // 2))
    titles = ("T1ce", "FLAIR") if len(scans) == 2 else [f"channel {i}" for i in range(len(scans))]  # noqa: PLR2004
    panels = [Panel(grey=scan, k=k, title=title) for title, scan in zip(titles, scans, strict=True)]
    for name, gate in case.gates.items():
        is_open, title = gate.transpose(2, 1, 0), f"gate {name}, {gate.mean():.1%} open"
        outline = [Contour(mask=is_open, colour=GATE_COLOUR)]
        panels.append(Panel(grey=scans[0], k=k, title=title, contours=outline, lit=is_open))
    panels.append(Panel(grey=scans[0], k=k, title=case.name, contours=contours))
    shown = np.logical_or.reduce([scans[0] > 0, *(contour.mask for contour in contours)])
    view = view_of(shown, spacing=case.spacing[::-1], pixels_per_mm=2)
    return draw_panels(panels, view, columns=-(-len(panels) // 2))


def _draw(panel: Panel, view: View) -> Image.Image:
    plane = _shown(panel.grey, panel.k, view)
    if panel.lit is not None:
        plane *= np.where(_shown(panel.lit, panel.k, view), 1, SUPPRESSED)
    picture = np.asarray(Image.fromarray(plane).resize(view.size, Image.Resampling.BICUBIC))
    colours = np.repeat(picture[:, :, None].clip(0, 255), 3, axis=2)
    for contour in panel.contours:
        ink = _ink(_shown(contour.mask, panel.k, view), view, contour.width)[:, :, None]
        colours = colours * (1 - ink) + np.array(rgb(contour.colour), dtype=np.float32) * ink
    image = Image.fromarray(np.rint(colours).astype(np.uint8))
    _write(image, panel)
    return image


def _shown(volume: NDArray[Any], k: int, view: View) -> NDArray[np.float32]:
    return np.ascontiguousarray(radiological_slice(volume, k)[view.box], dtype=np.float32)


def _ink(mask: NDArray[np.float32], view: View, width: float) -> NDArray[np.float32]:
    """Return how much of each pixel a mask's contour covers, 0 to 1.

    The contour is where the mask, interpolated between the voxels' centres, is one half; how far a
    pixel is from it follows from the value and its gradient. Scan and mask are resized alike, so
    the two fit.
    """
    if not mask.any():
        return np.zeros(view.size[::-1], dtype=np.float32)
    field = np.asarray(Image.fromarray(mask).resize(view.size, Image.Resampling.BILINEAR))
    slope = np.hypot(*np.gradient(field)) if min(field.shape) > 1 else np.ones_like(field)
    distance = np.abs(field - 0.5) / np.maximum(slope, 1e-6)
    return np.clip(width / 2 + 0.5 - distance, 0, 1).astype(np.float32)


def _write(image: Image.Image, panel: Panel) -> None:
    width, height = image.size
    draw = ImageDraw.Draw(image)
    size = max(11, height // 26)
    texts = [
        ((4, 2), panel.title, "la", "white"),
        ((4, height / 2), "R", "lm", "white"),
        ((width - 4, height / 2), "L", "rm", "white"),
    ]
    named = [contour for contour in reversed(panel.contours) if contour.name]
    for place, contour in enumerate(named):
        texts.append(((4, height - 4 - place * (size + 3)), contour.name, "lb", contour.colour))
    font = ImageFont.load_default(size=size)
    for at, text, anchor, colour in texts:
        draw.text(
            at, printable(text), anchor=anchor, fill=colour, font=font, stroke_width=1, stroke_fill="black"
        )
