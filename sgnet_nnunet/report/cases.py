"""The pictures of one case: a thumbnail with every model, and what is shown large."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.io.volume import spacing_of
from sgnet_nnunet.report.palette import REFERENCE, TRUTH_COLOUR
from sgnet_nnunet.report.panels import Contour, Panel, View, draw_panels, encode, to_grey, view_of
from sgnet_nnunet.report.viewer_case import write_case
from sgnet_nnunet.report.volumes import CaseVolumes, load_case
from sgnet_nnunet.results.case import PredictedCase, Target
from sgnet_nnunet.results.read_pair import mask_of

THUMBNAIL_PIXELS_PER_MM, OVERLAY_PIXELS_PER_MM = 2.2, 2.4
QUALITY = 80
"""Of WebP's compression, 0 to 100; below it thin contours lose their colour."""

REFERENCE_GREY = 90
"""Grey of the reference's inside where there is no image, on black."""


@dataclass(frozen=True, kw_only=True)
class CaseJob:
    """What to draw of one case.

    Attributes:
        answers: The case as each of the models predicted it.
        targets: The labels or regions that are judged.
        known_values: Every value that a mask may have.
        ignored_value: Value of the reference's voxels that count in neither mask; None if there is none.
        colours: Each model's colour.
        large: Models and labels that the case is shown large for.
        viewer: Folder to write the case's volumes to, for the viewer; None for none.
    """

    answers: tuple[PredictedCase, ...]
    targets: tuple[Target, ...]
    known_values: frozenset[int]
    ignored_value: int | None
    colours: dict[str, str]
    large: tuple[tuple[str, str], ...] = ()
    viewer: Path | None = None


@dataclass(frozen=True, kw_only=True)
class CasePictures:
    """Pictures of one case, as WebP files.

    Attributes:
        thumbnails: By label.
        large: By model and label.
    """

    thumbnails: dict[str, bytes]
    large: dict[tuple[str, str], bytes]


def draw_case(job: CaseJob) -> CasePictures:
    """Draw a case's pictures, and write its volumes for the viewer if they are wanted.

    Raises:
        InputFileError: An image cannot be read.
    """
    volumes = load_case(job.answers)
    scans = tuple(to_grey(image) for image in volumes.images)
    masks = {target.name: _masks(job, target, volumes) for target in job.targets}
    if job.viewer is not None:
        shown = [np.logical_or.reduce(each) for each in zip(*masks.values(), strict=True)]
        titles = (REFERENCE, *volumes.predictions)
        write_case(
            job.viewer, job.answers[0].name, volumes, scans, masks=dict(zip(titles, shown, strict=True))
        )
    sketches = {label: _Sketch(volumes, scans, each) for label, each in masks.items()}
    return CasePictures(
        thumbnails={label: sketch.thumbnail(job.colours) for label, sketch in sketches.items()},
        large={
            (model, label): sketches[label].overlay(model, job.colours[model]) for model, label in job.large
        },
    )


def _masks(job: CaseJob, target: Target, volumes: CaseVolumes) -> list[NDArray[np.bool_]]:
    """Return the reference's mask of a target, then the predictions' in their order."""
    values = (volumes.reference, *volumes.predictions.values())
    masks = [mask_of(target, each, known=job.known_values) for each in values]
    if job.ignored_value is not None:
        counted = volumes.reference != job.ignored_value
        masks = [mask & counted for mask in masks]
    return masks


class _Sketch:
    """Pictures of one label of a case."""

    def __init__(
        self, volumes: CaseVolumes, scans: tuple[NDArray[np.uint8], ...], masks: list[NDArray[np.bool_]]
    ) -> None:
        self.spacing = spacing_of(volumes.affine)
        self.truth = masks[0]
        self.predictions = dict(zip(volumes.predictions, masks[1:], strict=True))
        self.scans = scans or (self.truth.astype(np.uint8) * REFERENCE_GREY,)
        self.channels = volumes.channels or ("no image",)

    def thumbnail(self, colours: dict[str, str]) -> bytes:
        """Draw every channel with the contours of the truth and of all models."""
        k = self._slice(*self.predictions.values())
        models = [Contour(mask=mask, colour=colours[model]) for model, mask in self.predictions.items()]
        panels = self._panels(k, (Contour(mask=self.truth, colour=TRUTH_COLOUR, width=3), *models))
        return encode(draw_panels(panels, self._view(THUMBNAIL_PIXELS_PER_MM)), quality=QUALITY)

    def overlay(self, model: str, colour: str) -> bytes:
        """Draw the bare first channel, every channel with contours, and where the two masks differ most."""
        found = self.predictions[model]
        k = self._slice(found)
        contours = (
            Contour(mask=self.truth, colour=TRUTH_COLOUR, width=3.2),
            Contour(mask=found, colour=colour, width=1.6),
        )
        worst = _fullest(found ^ self.truth, default=k)
        panels = [
            Panel(grey=self.scans[0], k=k, title=f"{self.channels[0]}, slice {k + 1} of {self._slices}"),
            *self._panels(k, contours),
            Panel(
                grey=self.scans[0],
                k=worst,
                title=f"largest disagreement, slice {worst + 1}",
                contours=contours,
            ),
        ]
        return encode(draw_panels(panels, self._view(OVERLAY_PIXELS_PER_MM)), quality=QUALITY)

    @property
    def _slices(self) -> int:
        return self.truth.shape[2]

    def _panels(self, k: int, contours: tuple[Contour, ...]) -> list[Panel]:
        return [
            Panel(grey=scan, k=k, title=channel, contours=contours)
            for channel, scan in zip(self.channels, self.scans, strict=True)
        ]

    def _slice(self, *predictions: NDArray[np.bool_]) -> int:
        """Return the slice with most of the truth; without one, that with most of the predictions."""
        found = np.zeros(self.truth.shape, dtype=bool)
        for mask in predictions if not self.truth.any() else ():
            found |= mask
        return _fullest(self.truth, default=_fullest(found, default=self._slices // 2))

    def _view(self, pixels_per_mm: float) -> View:
        shown = self.scans[0] > 0
        for mask in (self.truth, *self.predictions.values()):
            shown |= mask
        return view_of(shown, spacing=self.spacing, pixels_per_mm=pixels_per_mm)


def _fullest(mask: NDArray[np.bool_], *, default: int) -> int:
    voxels = np.count_nonzero(mask, axis=(0, 1))
    return int(np.argmax(voxels)) if voxels.any() else default
