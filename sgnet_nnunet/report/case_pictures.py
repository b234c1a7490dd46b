"""The volumes of one case as they are drawn: on one grid, turned to RAS, each file read once."""

import gzip
import json
import tempfile
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.measurement import Figures
from sgnet_nnunet.evaluation.pairs import bounding_box, mask_of
from sgnet_nnunet.evaluation.results import PredictedCase, Results, Target
from sgnet_nnunet.evaluation.statistics import rows_of
from sgnet_nnunet.files import read_json, write_text
from sgnet_nnunet.nifti import read_image, read_labels, spacing_of
from sgnet_nnunet.report.figures import REFERENCE, REFERENCE_COLOUR
from sgnet_nnunet.report.slices import Contour, Panel, View, draw_panels, encode, to_grey, view_of


@dataclass(frozen=True, eq=False, kw_only=True)
class CaseVolumes:
    """One case: its images, the reference and every model's prediction.

    All arrays have one shape (x, y, z), their axes as near to right, anterior, superior as the
    grid allows.

    Attributes:
        images: The channels; empty if there is no image on the masks' grid.
        channels: Names of the channels.
        reference: Reference mask, with the data set's values.
        predictions: Predicted masks by model; one that is missing has no voxel.
        affine: 4x4 matrix from voxel index to world millimetres, of all arrays.
    """

    images: tuple[NDArray[np.generic], ...]
    channels: tuple[str, ...]
    reference: NDArray[np.generic]
    predictions: dict[str, NDArray[np.generic]]
    affine: NDArray[np.float64]


def load_case(answers: Sequence[PredictedCase]) -> CaseVolumes:
    """Read the files of one case.

    Args:
        answers: The case as each of the models predicted it, one or more.

    Raises:
        InputFileError: A file cannot be read.
    """
    first = answers[0]
    reference = read_labels(first.reference).oriented()
    images = [read_image(path).oriented() for path in first.images]
    fitting = [image.data for image in images if image.data.shape == reference.data.shape]
    usable = len(fitting) == len(images)
    blank = np.zeros(reference.data.shape, dtype=np.uint8)
    return CaseVolumes(
        images=tuple(fitting) if usable else (),
        channels=channel_names(first.images) if usable else (),
        reference=reference.data,
        predictions={
            answer.model: blank
            if answer.prediction is None
            else read_labels(answer.prediction).oriented().data
            for answer in answers
        },
        affine=reference.affine,
    )


def channel_names(images: Sequence[Path]) -> tuple[str, ...]:
    """Return the names that `dataset.json` beside the images' folder gives them, else their numbers.

    Raises:
        InputFileError: If that file is damaged.
    """
    names: dict[str, Any] = {}
    description = images[0].parent.parent / "dataset.json" if images else None
    if description is not None and description.is_file():
        names = read_json(description).get("channel_names", {})
    return tuple(str(names.get(str(i), f"channel {i}")) for i in range(len(images)))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A case that is shown large.

    Attributes:
        model: Name of the model.
        label: Name of the label or region.
        role: `best`, `median` or `worst`.
        case: Name of the case.
        dice: Its Dice.
    """

    model: str
    label: str
    role: str
    case: str
    dice: float


def choose(figures: Figures) -> tuple[Choice, ...]:
    """Return each model's best, median and worst case by Dice, label by label, no case twice.

    Cases without a Dice, both masks being empty, are not chosen; of an even number of cases the
    better of the middle two is the median.
    """
    return tuple(
        choice
        for target in figures.results.targets
        for model in figures.results.models
        for choice in _choose(figures, model.name, target.name)
    )


def _choose(figures: Figures, model: str, label: str) -> list[Choice]:
    dice = rows_of(figures.per_case, model=model, label=label)["dice"].dropna()
    # A stable sort keeps equal cases in the order of their names.
    ranked = dice.sort_values(ascending=False, kind="stable")
    last = len(ranked) - 1
    places = {last: "worst", 0: "best"} if last >= 0 else {}
    places.setdefault(last // 2, "median")
    return [
        Choice(
            model=model, label=label, role=places[i], case=str(ranked.index[i]), dice=float(ranked.iloc[i])
        )
        for i in sorted(places)
        if last >= 0
    ]


COMPRESSION = 6


def write_case(
    folder: Path,
    name: str,
    volumes: CaseVolumes,
    scans: Sequence[NDArray[np.uint8]],
    *,
    masks: Mapping[str, NDArray[np.bool_]],
) -> None:
    """Write the script with one case's volumes, `cases/NAME.js`.

    Args:
        folder: The viewer's folder.
        name: Name of the case.
        volumes: Its channels' names and its grid.
        scans: Its images, 0 to 255.
        masks: Its masks, by what they are called.
    """
    # Background around the head is half of a scan.
    filled = np.logical_or.reduce([*(scan > 0 for scan in scans), *masks.values()])
    box = bounding_box(filled) if scans and filled.any() else (slice(None),) * 3
    affine = volumes.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start or 0 for part in box]
    content = {
        "name": name,
        "centre": _centre(list(masks.values()), volumes.affine),
        "images": [
            {"name": channel, "data": _encode(scan[box], affine)}
            for channel, scan in zip(volumes.channels, scans, strict=True)
        ],
        "masks": [
            {"name": title, "voxels": int(mask.sum()), "data": _encode(mask[box].astype(np.uint8), affine)}
            for title, mask in masks.items()
        ],
    }
    (folder / "cases").mkdir(parents=True, exist_ok=True)
    write_text(folder / "cases" / f"{name}.js", f"showCase({json.dumps(content)});\n")


def _centre(masks: Sequence[NDArray[np.bool_]], affine: NDArray[np.float64]) -> list[float]:
    """Return a point of the first mask that has voxels, on the axial slice that holds most of it, in mm.

    It is the voxel nearest to the mean of those on the slice; without a mask, the middle of the grid.
    """
    for mask in masks:
        if mask.any():
            k = int(np.argmax(np.count_nonzero(mask, axis=(0, 1))))
            places = np.argwhere(mask[:, :, k])
            nearest = places[np.argmin(((places - places.mean(axis=0)) ** 2).sum(axis=1))]
            return [float(mm) for mm in apply_affine(affine, [*nearest, k])]
    return [float(mm) for mm in apply_affine(affine, np.array(masks[0].shape) // 2)]


def _encode(data: NDArray[np.uint8], affine: NDArray[np.float64]) -> str:
    """Return a volume as `.nii.gz` in base64, the same bytes for the same volume."""
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    return b64encode(gzip.compress(image.to_bytes(), COMPRESSION, mtime=0)).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class GatePictures:
    """Pictures of the gates, and why there are none.

    Attributes:
        pictures: PNG files by model and case.
        skipped: For each model that has gates but no pictures, a sentence.
    """

    pictures: dict[tuple[str, str], bytes]
    skipped: tuple[str, ...]


def gates_of(results: Results, choices: Sequence[Choice]) -> GatePictures:
    """Run every gated model on its chosen cases, each with the weights of the fold that predicted it.

    This takes the network's time on a CPU for each case, or less on a GPU if there is one.

    Args:
        results: The models and their cases.
        choices: What is shown large.
    """
    pictures: dict[tuple[str, str], bytes] = {}
    skipped = []
    for model in results.models:
        if model.folder is None or "SGNet" not in model.folder.name:
            continue
        wanted = {choice.case for choice in choices if choice.model == model.name}
        cases = [case for case in results.cases if case.model == model.name and case.name in wanted]
        if not cases:
            continue
        try:
            pictures |= {(model.name, name): png for name, png in _look(model.folder, cases)}
        # Any trouble with weights or images only costs the reader these pictures.
        except (SGNetError, RuntimeError, OSError, KeyError, ValueError) as error:
            skipped.append(f"The gates of {model.name} are not shown: {' '.join(str(error).split())}.")
    return GatePictures(pictures=pictures, skipped=tuple(skipped))


def _look(folder: Path, cases: Sequence[PredictedCase]) -> Iterator[tuple[str, bytes]]:
    # PyTorch takes seconds to import.
    import torch  # noqa: PLC0415

    from sgnet_nnunet.inference.gate_maps import look_at_case, open_gated_model  # noqa: PLC0415
    from sgnet_nnunet.report.slices import draw_gates  # noqa: PLC0415

    device = "cuda" if torch.cuda.is_available() else "cpu"
    predictors: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for case in cases:
            if not case.images:
                raise SGNetError(f"the images of {case.name} are not at hand")
            if case.fold not in predictors:
                predictors[case.fold] = open_gated_model(folder, fold=case.fold, device=device)
            if not predictors[case.fold].gate_names:
                return
            picture = Path(scratch) / "gates.png"
            seen = look_at_case(predictors[case.fold], case.name, list(case.images), reference=case.reference)
            draw_gates(seen, picture)
            yield case.name, picture.read_bytes()


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
        self.reference = masks[0]
        self.predictions = dict(zip(volumes.predictions, masks[1:], strict=True))
        self.scans = scans or (self.reference.astype(np.uint8) * REFERENCE_GREY,)
        self.channels = volumes.channels or ("no image",)

    def thumbnail(self, colours: dict[str, str]) -> bytes:
        """Draw every channel with the contours of the reference and of all models."""
        k = self._slice(*self.predictions.values())
        models = [Contour(mask=mask, colour=colours[model]) for model, mask in self.predictions.items()]
        panels = self._panels(k, (Contour(mask=self.reference, colour=REFERENCE_COLOUR, width=3), *models))
        return encode(draw_panels(panels, self._view(THUMBNAIL_PIXELS_PER_MM)), quality=QUALITY)

    def overlay(self, model: str, colour: str) -> bytes:
        """Draw the bare first channel, every channel with contours, and where the two masks differ most."""
        found = self.predictions[model]
        k = self._slice(found)
        contours = (
            Contour(mask=self.reference, colour=REFERENCE_COLOUR, width=3.2),
            Contour(mask=found, colour=colour, width=1.6),
        )
        worst = _fullest(found ^ self.reference, default=k)
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
        return self.reference.shape[2]

    def _panels(self, k: int, contours: tuple[Contour, ...]) -> list[Panel]:
        return [
            Panel(grey=scan, k=k, title=channel, contours=contours)
            for channel, scan in zip(self.channels, self.scans, strict=True)
        ]

    def _slice(self, *predictions: NDArray[np.bool_]) -> int:
        """Return the slice with most of the reference; without one, that with most of the predictions."""
        found = np.zeros(self.reference.shape, dtype=bool)
        for mask in predictions if not self.reference.any() else ():
            found |= mask
        return _fullest(self.reference, default=_fullest(found, default=self._slices // 2))

    def _view(self, pixels_per_mm: float) -> View:
        shown = self.scans[0] > 0
        for mask in (self.reference, *self.predictions.values()):
            shown |= mask
        return view_of(shown, spacing=self.spacing, pixels_per_mm=pixels_per_mm)


def _fullest(mask: NDArray[np.bool_], *, default: int) -> int:
    voxels = np.count_nonzero(mask, axis=(0, 1))
    return int(np.argmax(voxels)) if voxels.any() else default
