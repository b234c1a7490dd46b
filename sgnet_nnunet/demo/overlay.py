"""Pictures of a case: both images, the truth and the prediction, as a radiologist sees them."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.io.atomic import atomic_path

TRUTH_COLOUR, PREDICTION_COLOUR = "#37d67a", "#ff5c5c"


@dataclass(frozen=True)
class CaseFiles:
    """The files of one predicted case.

    Attributes:
        name: Name of the case.
        t1ce: T1ce image.
        flair: FLAIR image on the same grid.
        truth: Reference mask on the same grid.
        prediction: Predicted mask on the same grid.
    """

    name: str
    t1ce: Path
    flair: Path
    truth: Path
    prediction: Path


def radiological_slice(volume: NDArray[np.generic], k: int) -> NDArray[np.generic]:
    """Return axial slice `k` of a RAS volume (x, y, z) for display.

    The patient's right is on the viewer's left and anterior is up when the result, shape
    (rows, columns), is drawn from the upper left corner.
    """
    return volume[::-1, ::-1, k].T


def draw_overlay(cases: list[CaseFiles], path: Path) -> None:
    """Draw one row a case: T1ce, FLAIR, truth on FLAIR, prediction on FLAIR.

    Each row shows the axial slice that holds most of the truth.

    Args:
        cases: The cases, one or more.
        path: PNG file to write.
    """
    # pyplot would open a window system; the object interface draws without one.
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    titles = ("T1ce", "FLAIR", "truth", "prediction")
    figure = Figure(figsize=(12, 3.4 * len(cases)), facecolor="black", layout="constrained")
    FigureCanvasAgg(figure)
    for row, case in zip(figure.subplots(len(cases), 4, squeeze=False), cases, strict=True):
        files = (case.t1ce, case.flair, case.truth, case.prediction)
        scans = [nib.as_closest_canonical(nib.load(file)) for file in files]
        t1ce, flair, truth, prediction = (np.asarray(scan.dataobj, dtype=float) for scan in scans)
        x, y, _ = scans[0].header.get_zooms()
        k = int(np.argmax((truth > 0).sum(axis=(0, 1))))
        for axis, title, image in zip(row, titles, (t1ce, flair, flair, flair), strict=True):
            top = np.percentile(image[image > 0], 99.5) if (image > 0).any() else 1
            axis.imshow(radiological_slice(image, k), cmap="gray", vmin=0, vmax=top, aspect=y / x)
            axis.set_title(title, color="white", fontsize=11)
            axis.axis("off")
            axis.text(0.02, 0.5, "R", color="white", transform=axis.transAxes)
        for axis, mask, colour in ((row[2], truth, TRUTH_COLOUR), (row[3], prediction, PREDICTION_COLOUR)):
            shown = radiological_slice(mask > 0, k)
            if shown.any():
                axis.contour(shown, levels=[0.5], colors=colour, linewidths=1.2)
        row[0].text(0.02, 0.02, case.name, color="white", fontsize=8, transform=row[0].transAxes)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=110)
