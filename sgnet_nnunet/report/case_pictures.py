"""The pictures of one case: its volumes on one grid, thumbnails, large pictures and gates."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.comparison import Comparison
from sgnet_nnunet.evaluation.pairs import check_same_grid, mask_of
from sgnet_nnunet.evaluation.results import PredictedCase, Results, Target
from sgnet_nnunet.evaluation.statistics import rows_of
from sgnet_nnunet.files import read_json
from sgnet_nnunet.nifti import read_image, read_labels, spacing_of
from sgnet_nnunet.report.figures import PREDICTION, REFERENCE, REFERENCE_COLOUR
from sgnet_nnunet.report.slices import (
    Contour,
    Panel,
    Picture,
    attempt,
    draw_panels,
    encode,
    fullest_slice,
    gate_panels,
    reason,
    to_grey,
    view_of,
)
from sgnet_nnunet.report.viewer import write_case

if TYPE_CHECKING:
    import pandas as pd

    from sgnet_nnunet.inference.gate_maps import GatedModel

logger = logging.getLogger(__name__)

REFERENCE_GREY = 90  # of the reference's inside where there is no image, on black


@dataclass(frozen=True, eq=False, kw_only=True)
class CaseVolumes:
    """One case: the images that can be drawn, what is wrong with the others, and the masks with their values.

    All arrays have one shape (x, y, z) and one 4x4 affine from voxel index to world millimetres, their axes
    as near to right, anterior, superior as the grid allows. A missing prediction has no voxel.
    """

    images: dict[str, NDArray[np.generic]]  # by channel
    problems: dict[str, str]  # by channel
    reference: NDArray[np.generic]
    predictions: dict[str, NDArray[np.generic]]  # by model
    affine: NDArray[np.float64]


def load_case(answers: Sequence[PredictedCase]) -> CaseVolumes:
    """Read one case as each model predicted it; an image that is unusable or on another grid is left out.

    Raises:
        InputFileError: A mask cannot be read.
    """
    first = answers[0]
    reference = read_labels(first.reference).oriented()
    images, problems = {}, {}
    for name, path in zip(channel_names(first.images), first.images, strict=True):
        try:
            image = read_image(path).oriented()
            check_same_grid(path, image, first.reference, reference)
        except InputFileError as error:
            problems[name] = str(error)
            continue
        images[name] = image.data
    blank = np.zeros(reference.data.shape, dtype=np.uint8)
    predictions = {
        answer.model: read_labels(answer.prediction).oriented().data if answer.prediction else blank
        for answer in answers
    }
    return CaseVolumes(
        images=images,
        problems=problems,
        reference=reference.data,
        predictions=predictions,
        affine=reference.affine,
    )


def channel_names(images: Sequence[Path]) -> tuple[str, ...]:
    """Return the channels' names in the data set's `dataset.json`, else their numbers; no name twice."""
    names: dict[str, Any] = {}
    # The names are titles only: a file that cannot be read is reported by what needs its labels.
    with suppress(InputFileError, IndexError):
        names = read_json(images[0].parent.parent / "dataset.json").get("channel_names", {})
    found = [str(names.get(str(i), f"channel {i}")) for i in range(len(images))]
    return tuple(name if found.count(name) == 1 else f"{name} {i}" for i, name in enumerate(found))


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A case that is shown enlarged, as the `best`, `median` or `worst` of a model and label."""

    model: str
    label: str
    role: str
    case: str
    dice: float


def choose(comparison: Comparison, per_case: "pd.DataFrame") -> tuple[Choice, ...]:
    """Return each model's best, median and worst case by Dice, label by label, no case twice.

    Cases without a Dice, both masks being empty, are not chosen; of an even number of cases the
    better of the middle two is the median.
    """
    choices = []
    for label, model in product(comparison.labels, comparison.models):
        dice = rows_of(per_case, model=model.name, label=label)["dice"].dropna()
        # A stable sort keeps equal cases in the order of their names.
        ranked = list(dice.sort_values(ascending=False, kind="stable").items())
        last = len(ranked) - 1
        roles = {last // 2: "median", last: "worst", 0: "best"} if ranked else {}
        for place, role in sorted(roles.items()):
            case, value = ranked[place]
            choices.append(Choice(model=model.name, label=label, role=role, case=str(case), dice=value))
    return tuple(choices)


def gates_of(
    results: Results, choices: Sequence[Choice], *, colours: Mapping[str, str]
) -> dict[tuple[str, str], Picture]:
    """Draw the gates of every gated model on its chosen cases, with the weights of the case's fold.

    A model whose network cannot be built is left out with a warning. Each case takes the network's time on
    a CPU, or less on a GPU if there is one. The pictures are by model and case.
    """
    pictures: dict[tuple[str, str], Picture] = {}
    for model in results.models:
        chosen = {choice.case for choice in choices if choice.model == model.name}
        if not (chosen and model.folder and _has_gates(model.folder, trust=results.trust)):
            continue
        load = lru_cache(partial(_load, model.folder, trust=results.trust))
        for case in results.cases:
            if case.model == model.name and case.name in chosen:
                picture = attempt(partial(_gate_picture, case, load, colours[model.name]))
                pictures[model.name, case.name] = picture
    return pictures


def _has_gates(folder: Path, *, trust: bool) -> bool:
    from sgnet_nnunet.inference.gate_maps import has_gates  # noqa: PLC0415 - PyTorch

    try:
        return has_gates(folder, trust=trust)
    except SGNetError as error:
        logger.warning("%s: gates are not drawn: %s", folder.name, error)
        return False


def _load(folder: Path, fold: str, *, trust: bool) -> "GatedModel":
    # PyTorch takes seconds to import.
    import torch  # noqa: PLC0415

    from sgnet_nnunet.inference.gate_maps import GatedModel  # noqa: PLC0415

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return GatedModel(folder, fold=fold, device=device, trust=trust)


def _gate_picture(case: PredictedCase, load: "Callable[[str], GatedModel]", colour: str) -> Picture:
    from sgnet_nnunet.inference.gate_maps import look_at_case  # noqa: PLC0415 - PyTorch

    if not case.images:
        raise SGNetError(f"{case.name} has no images")
    found = look_at_case(load(case.fold), case.name, case.images, reference=case.reference)
    return encode(gate_panels(found, colour=colour))


@dataclass(frozen=True, kw_only=True)
class CaseJob:
    """What to draw of one case, as each of the models predicted it.

    Attributes:
        results: What the values of the masks mean; its own cases are not read.
        large: Models and labels that the case is shown enlarged for.
        viewer: Folder to write the case's volumes to, for the viewer; None for none.
    """

    answers: tuple[PredictedCase, ...]
    results: Results
    colours: dict[str, str]
    large: tuple[tuple[str, str], ...] = ()
    viewer: Path | None = None

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.answers[0].name


@dataclass(frozen=True, kw_only=True)
class CasePictures:
    """Pictures of one case, and what could not be drawn and why."""

    thumbnails: dict[str, Picture]  # by label
    large: dict[tuple[str, str], Picture]  # by model and label
    problems: tuple[str, ...] = ()


def draw_case(job: CaseJob) -> CasePictures:
    """Draw a case's pictures, and write its volumes for the viewer if that is asked for.

    Errors in the case's files are not raised: the picture's `problem` holds the message.
    """
    try:
        volumes = load_case(job.answers)
        scans = {name: to_grey(image) for name, image in volumes.images.items()}
        masks = {target.name: _masks(job.results, target, volumes) for target in job.results.targets}
    except Exception as error:
        return no_pictures(job, error)
    problems = [f"{channel}: {problem}" for channel, problem in volumes.problems.items()]
    if job.viewer is not None:
        shown = [np.logical_or.reduce(each) for each in zip(*masks.values(), strict=True)]
        by_title = dict(zip((REFERENCE, *volumes.predictions), shown, strict=True))
        try:
            write_case(job.viewer, job.name, scans, affine=volumes.affine, masks=by_title, notes=problems)
        except OSError as error:
            problems.append(f"viewer: {reason(error)}")
    sketches = {label: _Sketch(volumes, scans, each) for label, each in masks.items()}
    thumbnails = {label: attempt(partial(each.thumbnail, job.colours)) for label, each in sketches.items()}
    large = {
        (model, label): attempt(partial(sketches[label].overlay, model, job.colours[model]))
        for model, label in job.large
    }
    problems += [each.problem for each in (*thumbnails.values(), *large.values()) if each.problem]
    return CasePictures(thumbnails=thumbnails, large=large, problems=tuple(dict.fromkeys(problems)))


def no_pictures(job: CaseJob, error: Exception) -> CasePictures:
    """Return the pictures of a case that cannot be drawn."""
    lost = Picture(problem=reason(error))
    thumbnails = {target.name: lost for target in job.results.targets}
    return CasePictures(thumbnails=thumbnails, large=dict.fromkeys(job.large, lost), problems=(lost.problem,))


def _masks(results: Results, target: Target, volumes: CaseVolumes) -> list[NDArray[np.bool_]]:
    """Return the reference's mask of a target, then the predictions' in their order."""
    values = (volumes.reference, *volumes.predictions.values())
    masks = [mask_of(target, each, known=results.known_values) for each in values]
    if results.ignored_value is not None:
        counted = volumes.reference != results.ignored_value
        masks = [mask & counted for mask in masks]
    return masks


class _Sketch:
    """Pictures of one label of a case."""

    def __init__(
        self, volumes: CaseVolumes, scans: dict[str, NDArray[np.uint8]], masks: list[NDArray[np.bool_]]
    ) -> None:
        self.reference, *found = masks
        self.predictions = dict(zip(volumes.predictions, found, strict=True))
        self.scans = scans or {"no image": self.reference.astype(np.uint8) * REFERENCE_GREY}
        self.channel, self.first = next(iter(self.scans.items()))
        self.shown = np.logical_or.reduce([self.first > 0, *masks])
        self.spacing = spacing_of(volumes.affine)

    def thumbnail(self, colours: dict[str, str]) -> Picture:
        """Draw every channel with the contours of the reference and of all models."""
        k = self._slice(np.logical_or.reduce(list(self.predictions.values())))
        models = [Contour(mask=mask, colour=colours[model]) for model, mask in self.predictions.items()]
        panels = self._panels(k, (Contour(mask=self.reference, colour=REFERENCE_COLOUR, width=3), *models))
        return self._picture(panels, pixels_per_mm=2.2)

    def overlay(self, model: str, colour: str) -> Picture:
        """Draw the bare first channel, every channel with contours, and where the two masks differ most."""
        found = self.predictions[model]
        k = self._slice(found)
        contours = (
            Contour(mask=self.reference, colour=REFERENCE_COLOUR, width=3.2, name=REFERENCE),
            Contour(mask=found, colour=colour, width=1.6, name=PREDICTION),
        )
        worst = fullest_slice(found ^ self.reference, default=k)
        title = f"largest disagreement, slice {worst + 1}"
        panels = [
            Panel(grey=self.first, k=k, title=f"{self.channel}, slice {k + 1} of {found.shape[2]}"),
            *self._panels(k, contours),
            Panel(grey=self.first, k=worst, title=title, contours=contours),
        ]
        return self._picture(panels, pixels_per_mm=2.4)

    def _panels(self, k: int, contours: Sequence[Contour]) -> list[Panel]:
        return [Panel(grey=scan, k=k, title=title, contours=contours) for title, scan in self.scans.items()]

    def _slice(self, found: NDArray[np.bool_]) -> int:
        """Return the slice with most of the reference; without one, that with most of a prediction."""
        return fullest_slice(self.reference, default=fullest_slice(found, default=found.shape[2] // 2))

    def _picture(self, panels: list[Panel], *, pixels_per_mm: float) -> Picture:
        view = view_of(self.shown, spacing=self.spacing, pixels_per_mm=pixels_per_mm)
        return encode(draw_panels(panels, view))
