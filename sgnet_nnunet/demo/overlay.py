"""Pictures of a case: both images, the truth and the prediction, as a radiologist sees them."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from sgnet_nnunet.io.atomic import atomic_path
from sgnet_nnunet.pictures.slices import (
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    dark_figure,
    draw_contour,
    draw_name,
    draw_scan,
)


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


def draw_overlay(cases: list[CaseFiles], path: Path) -> None:
    """Draw one row a case: T1ce, FLAIR, truth on FLAIR, prediction on FLAIR.

    Each row shows the axial slice that holds most of the truth.

    Args:
        cases: The cases, one or more.
        path: PNG file to write.
    """
    titles = ("T1ce", "FLAIR", "truth", "prediction")
    figure, grid = dark_figure(rows=len(cases), columns=len(titles))
    for row, case in zip(grid, cases, strict=True):
        files = (case.t1ce, case.flair, case.truth, case.prediction)
        scans = [nib.as_closest_canonical(nib.load(file)) for file in files]
        t1ce, flair, truth, prediction = (np.asarray(scan.dataobj, dtype=float) for scan in scans)
        x, y, _ = scans[0].header.get_zooms()
        k = int(np.argmax((truth > 0).sum(axis=(0, 1))))
        for axes, title, image in zip(row, titles, (t1ce, flair, flair, flair), strict=True):
            draw_scan(axes, image, k, title=title, aspect=y / x)
        draw_contour(row[2], truth > 0, k, colour=TRUTH_COLOUR)
        draw_contour(row[3], prediction > 0, k, colour=PREDICTION_COLOUR)
        draw_name(row[0], case.name)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=110)
