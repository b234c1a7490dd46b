"""One case at every threshold: all that is needed to count its lesions for any smallest volume."""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.lesion_metrics import Lesions, find_lesions, match_lesions
from sgnet_nnunet.evaluation.operating_point import OperatingPoint, foreground_probability, is_kept
from sgnet_nnunet.evaluation.pairs import bounding_box
from sgnet_nnunet.evaluation.results import PredictedCase
from sgnet_nnunet.files import read_json
from sgnet_nnunet.nnunet import ModelName
from sgnet_nnunet.parallel import run_jobs

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

BELOW_DEFAULT = 0.49
"""nnU-Net's own foreground has a higher foreground probability than this: it takes the largest of all."""

SMALLEST_SHARE = 0.1
"""Share of a predicted lesion that must lie in the reference's; less of it is a flood, not a find.

Any common voxel will do at nnU-Net's own threshold, as in `evaluation.detection`. But the lower the
threshold, the more of what is predicted runs together, until one lesion fills the brain, meets every
lesion of the reference and leaves no false positive: the best of all by that rule alone.
"""


@dataclass(frozen=True, eq=False)
class Level:
    """The lesions of one mask beside those of the reference.

    A predicted lesion is true if a tenth of it or more (`SMALLEST_SHARE`) lies in the reference's
    lesions, else it is false. A lesion of the reference is found if it meets a true one.

    Attributes:
        found_mm3: Volume in mm3 of the largest true lesion that meets each lesion of the reference, 0
            where none does, shape (reference lesions,). If smaller lesions than this are removed, the
            reference's lesion is still found.
        false_mm3: Volumes in mm3 of the false lesions, shape (false positives,).
    """

    found_mm3: NDArray[np.float64]
    false_mm3: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CaseLevels:
    """One case, cut at many thresholds.

    Attributes:
        lesions: Lesions of the reference.
        default: nnU-Net's own segmentation.
        levels: One for each threshold.
    """

    lesions: int
    default: Level
    levels: tuple[Level, ...]


def levels_of(
    probabilities: NDArray[np.floating],
    reference: NDArray[np.bool_],
    *,
    thresholds: Sequence[float],
    label_manager: "LabelManager",
    spacing: tuple[float, ...],
) -> CaseLevels:
    """Cut a case at every threshold.

    Args:
        probabilities: As nnU-Net saves them, shape (classes or regions, z, y, x).
        reference: Where the reference has foreground of any kind, shape (z, y, x).
        thresholds: Thresholds on the foreground probability.
        label_manager: nnU-Net's for the model.
        spacing: Voxel size in mm along z, y, x.
    """
    lowest = min(*thresholds, BELOW_DEFAULT)
    box = bounding_box((foreground_probability(probabilities, label_manager) > lowest) | reference)
    inside = np.ascontiguousarray(probabilities[(slice(None), *box)])
    lesions = find_lesions(reference[box], spacing=spacing)
    default, *levels = (
        _level(mask, lesions, spacing=spacing) for mask in _masks(inside, thresholds, label_manager)
    )
    return CaseLevels(lesions.number, default, tuple(levels))


def _masks(
    probabilities: NDArray[np.floating], thresholds: Sequence[float], label_manager: "LabelManager"
) -> Iterator[NDArray[np.bool_]]:
    yield label_manager.convert_probabilities_to_segmentation(probabilities) > 0
    foreground = foreground_probability(probabilities, label_manager)
    yield from (foreground > threshold for threshold in thresholds)


def _level(mask: NDArray[np.bool_], reference: Lesions, *, spacing: tuple[float, ...]) -> Level:
    match = match_lesions(find_lesions(mask, spacing=spacing), reference)
    voxels, volumes = match.prediction.voxels, match.prediction.volumes_mm3
    inside = np.bincount(match.predicted, weights=match.common, minlength=voxels.size)
    true = inside >= SMALLEST_SHARE * voxels
    found = np.zeros(reference.number)
    np.maximum.at(found, match.actual, np.where(true, volumes, 0)[match.predicted])
    return Level(found, volumes[~true])


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The operating points to choose from.

    Attributes:
        thresholds: Thresholds on the foreground probability, rising.
        volumes_mm3: Smallest volumes in mm3 of a lesion that is kept, rising; 0 removes nothing.
    """

    thresholds: tuple[float, ...] = (0.02, *(round(0.05 * step, 2) for step in range(1, 20)), 0.98)
    volumes_mm3: tuple[float, ...] = (0.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0)

    def point(self, index: tuple[int, int]) -> OperatingPoint:
        """Return the point at an index of (threshold, volume)."""
        return OperatingPoint(
            threshold=self.thresholds[index[0]], min_lesion_volume_mm3=self.volumes_mm3[index[1]]
        )


@dataclass(frozen=True, eq=False)
class Tally:
    """Lesions counted over cases, at one operating point or at many.

    Attributes:
        found: Lesions of the reference that are found; any shape.
        false: False positives; the same shape.
        lesions: Lesions of the reference.
        cases: Cases.
    """

    found: NDArray[np.intp]
    false: NDArray[np.intp]
    lesions: int
    cases: int

    @property
    def sensitivity(self) -> NDArray[np.float64]:
        """Share of the reference's lesions that are found; NaN if it has none."""
        return self.found / (self.lesions or np.nan)

    @property
    def false_positives_per_case(self) -> NDArray[np.float64]:
        """False positives per case."""
        return np.asarray(self.false / self.cases, dtype=np.float64)

    @property
    def f1(self) -> NDArray[np.float64]:
        """Lesion F1 as `evaluation.detection.LesionF1`, over all cases; 0 if there is no lesion at all."""
        return 2 * self.found / np.maximum(self.found + self.lesions + self.false, 1)


@dataclass(frozen=True, eq=False)
class Counts:
    """Lesions of each case, at one operating point or at each of a grid.

    Attributes:
        lesions: Lesions of the reference, shape (cases,).
        found: Those that are found, shape (cases,) or (cases, thresholds, volumes).
        false: False positives; the same shape.
    """

    lesions: NDArray[np.intp]
    found: NDArray[np.intp]
    false: NDArray[np.intp]

    @property
    def pooled(self) -> Tally:
        """All cases' lesions together, shape () or (thresholds, volumes)."""
        return Tally(
            np.asarray(self.found.sum(axis=0)),
            np.asarray(self.false.sum(axis=0)),
            int(self.lesions.sum()),
            self.lesions.size,
        )

    def of(self, cases: NDArray[np.bool_]) -> "Counts":
        """Return the counts of some of the cases."""
        return Counts(self.lesions[cases], self.found[cases], self.false[cases])

    def at(self, points: NDArray[np.intp]) -> "Counts":
        """Return each case's counts at its own point.

        Args:
            points: Index of (threshold, volume) of each case's point, shape (cases, 2).
        """
        where = (np.arange(self.lesions.size), points[:, 0], points[:, 1])
        return Counts(self.lesions, self.found[where], self.false[where])


def count(cases: Sequence[CaseLevels], volumes_mm3: Sequence[float]) -> Counts:
    """Count the lesions of one or more cases at each of their thresholds and each smallest volume.

    Args:
        cases: The cases, cut at the same thresholds.
        volumes_mm3: Smallest volumes in mm3 of a lesion that is kept.
    """
    volumes = np.asarray(volumes_mm3, dtype=np.float64)
    return Counts(
        _lesions(cases),
        np.array([[_found(level, volumes) for level in case.levels] for case in cases], dtype=np.intp),
        np.array([[_false(level, volumes) for level in case.levels] for case in cases], dtype=np.intp),
    )


def count_default(cases: Sequence[CaseLevels]) -> Counts:
    """Count the lesions of one or more cases in nnU-Net's own segmentation."""
    nothing = np.zeros(1)
    return Counts(
        _lesions(cases),
        np.array([_found(case.default, nothing)[0] for case in cases], dtype=np.intp),
        np.array([_false(case.default, nothing)[0] for case in cases], dtype=np.intp),
    )


def _lesions(cases: Sequence[CaseLevels]) -> NDArray[np.intp]:
    return np.array([case.lesions for case in cases], dtype=np.intp)


def _found(level: Level, volumes_mm3: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return how many lesions of the reference are found, shape (volumes,)."""
    met = level.found_mm3[level.found_mm3 > 0]
    return np.count_nonzero(is_kept(met[:, None], volumes_mm3), axis=0)


def _false(level: Level, volumes_mm3: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return how many false positives are left, shape (volumes,)."""
    return np.count_nonzero(is_kept(level.false_mm3[:, None], volumes_mm3), axis=0)


ROUNDING = 1e-4
"""A softmax in 32 bits may say 1.0000001."""

_READ_ERRORS = (OSError, EOFError, ValueError, KeyError, RuntimeError, AssertionError, zlib.error)


@dataclass(frozen=True, eq=False)
class ModelFiles:
    """What nnU-Net keeps beside a model's folds.

    Attributes:
        folder: Folder of the training, TRAINER__PLANS__CONFIGURATION.
        plans: Its plans.
        label_manager: Its labels or regions.
    """

    folder: Path
    plans: "PlansManager"
    label_manager: "LabelManager"

    @property
    def name(self) -> str:
        """The data set's name and the folder's, which tell models apart."""
        return f"{self.plans.dataset_name}/{self.folder.name}"


@dataclass(frozen=True, eq=False)
class SavedCase:
    """One case in the reader's axes, which for NIfTI are z, y, x.

    Attributes:
        probabilities: Shape (classes or regions, z, y, x).
        reference: Where the reference has foreground of any kind, shape (z, y, x).
        spacing: Voxel size in mm along z, y, x.
    """

    probabilities: NDArray[np.floating]
    reference: NDArray[np.bool_]
    spacing: tuple[float, ...]


def read_model(folder: Path) -> ModelFiles:
    """Read the plans and labels of a model.

    Raises:
        InputFileError: If `plans.json` or `dataset.json` is missing or is not JSON.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415

    plans = PlansManager(read_json(folder / "plans.json"))
    # The folder may be named by a relative path, whose last part can be "." or "..".
    return ModelFiles(folder.resolve(), plans, plans.get_label_manager(read_json(folder / "dataset.json")))


def read_case(case: PredictedCase, model: ModelFiles) -> SavedCase:
    """Read a case of a model's fold validation.

    Both arrays have the axes of nnU-Net's reader, by which the reference is read as the images were:
    nnU-Net resamples probabilities to that grid before it saves them.

    Raises:
        InputFileError: If a file is missing or cannot be read, if the probabilities are not between 0
            and 1, or if the two do not fit together.
    """
    path = probabilities_path(case, model)
    probabilities = _read_probabilities(path, model)
    reference, spacing = _read_reference(case.reference, model)
    if probabilities.shape[1:] != reference.shape:
        raise InputFileError(
            path,
            f"has the shape {probabilities.shape[1:]} (z, y, x), its reference {case.reference} "
            f"{reference.shape}",
            f"predict it again with {prediction_command(case, model)}",
        )
    return SavedCase(probabilities, reference, spacing)


def probabilities_path(case: PredictedCase, model: ModelFiles) -> Path:
    """Return the `.npz` of a case that was predicted with `--npz`.

    Raises:
        InputFileError: If there is none.
    """
    path = case.probabilities or model.folder / f"fold_{case.fold}" / "validation" / f"{case.name}.npz"
    if not path.is_file():
        raise InputFileError(path, "there is no such file", f"run {prediction_command(case, model)}")
    return path


def prediction_command(case: PredictedCase, model: ModelFiles) -> str:
    """Return the command that predicts a case's fold with probabilities, and trains it if need be."""
    name = ModelName.parse(model.folder.name)
    trained = (model.folder / f"fold_{case.fold}").is_dir()
    return f"{name.train_command(model.plans.dataset_name, case.fold, validate=trained)} --npz"


def _read_probabilities(path: Path, model: ModelFiles) -> NDArray[np.floating]:
    try:
        with np.load(path) as archive:
            probabilities = np.asarray(archive["probabilities"])
    except (*_READ_ERRORS, zipfile.BadZipFile) as error:
        raise InputFileError(
            path, f"cannot be read as nnU-Net's probabilities ({_one_line(error)})", "predict it again"
        ) from error
    heads = model.label_manager.num_segmentation_heads
    if probabilities.ndim != 4 or len(probabilities) != heads:  # noqa: PLR2004
        raise InputFileError(
            path,
            f"holds an array of shape {probabilities.shape}, (classes or regions, z, y, x) with {heads} of "
            "the first is needed",
            "predict it again with this model",
        )
    lowest, highest = float(probabilities.min()), float(probabilities.max())
    # A NaN among them makes both NaN, and no comparison with NaN holds.
    if not (lowest >= -ROUNDING and highest <= 1 + ROUNDING):
        raise InputFileError(
            path,
            f"holds values from {lowest:g} to {highest:g}, which are no probabilities",
            "look at the training's log for NaN, then train and predict again",
        )
    return probabilities


def _read_reference(path: Path, model: ModelFiles) -> tuple[NDArray[np.bool_], tuple[float, ...]]:
    try:
        values, properties = model.plans.image_reader_writer_class().read_seg(str(path))
    except (*_READ_ERRORS, ImageFileError) as error:
        raise InputFileError(
            path, f"cannot be read ({_one_line(error)})", "run nnUNetv2_plan_and_preprocess again"
        ) from error
    return np.asarray(values[0] > 0), tuple(float(step) for step in properties["spacing"])


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True, eq=False)
class Froc:
    """A free-response ROC curve, its points in the order of rising thresholds.

    Lesions are pooled over all cases; `operating_point.levels` says which are found and which false.

    Attributes:
        thresholds: Thresholds on the foreground probability, shape (points,).
        sensitivity: Share of the reference's lesions that are found, shape (points,).
        false_positives_per_case: False positives per case, shape (points,).
        min_lesion_volume_mm3: Predicted lesions of a smaller volume in mm3 were removed.
    """

    thresholds: NDArray[np.float64]
    sensitivity: NDArray[np.float64]
    false_positives_per_case: NDArray[np.float64]
    min_lesion_volume_mm3: float = 0.0


def froc_of(
    cases: Sequence[PredictedCase], *, model_folder: Path, grid: Grid | None = None, workers: int = 1
) -> Froc | None:
    """Return one model's curve over its cases, nothing removed.

    It is None if a case has no probabilities, or if the data set has an ignore label.

    Args:
        cases: All cases of one model.
        model_folder: nnU-Net's folder of its training, TRAINER__PLANS__CONFIGURATION.
        grid: Its thresholds are the points of the curve; those of `sgnet tune` by default.
        workers: Processes; each holds one case's probabilities.

    Raises:
        InputFileError: As `operating_point.saved.read_case`.
    """
    grid = grid or Grid()
    if not cases or any(case.probabilities is None for case in cases):
        return None
    if read_model(model_folder).label_manager.has_ignore_label:
        return None
    levels = cut_cases(cases, model_folder=model_folder, thresholds=grid.thresholds, workers=workers)
    return froc_at(count(levels, (0.0,)), Grid(thresholds=grid.thresholds, volumes_mm3=(0.0,)), volume=0)


def froc_at(counts: Counts, grid: Grid, *, volume: int) -> Froc:
    """Return the curve at one of the grid's smallest volumes, given by its index."""
    tally = counts.pooled
    return Froc(
        np.array(grid.thresholds),
        tally.sensitivity[:, volume],
        tally.false_positives_per_case[:, volume],
        grid.volumes_mm3[volume],
    )


def cut_cases(
    cases: Sequence[PredictedCase],
    *,
    model_folder: Path,
    thresholds: Sequence[float],
    workers: int = 1,
    on_done: Callable[[PredictedCase], object] = lambda _: None,
) -> list[CaseLevels]:
    """Read each case and cut it at every threshold; the results are in the order of the cases.

    Args:
        cases: Cases of one model.
        model_folder: nnU-Net's folder of its training.
        thresholds: Thresholds on the foreground probability.
        workers: Processes; each holds one case's probabilities.
        on_done: Called with each case as it is finished.

    Raises:
        InputFileError: As `operating_point.saved.read_case`.
        SGNetError: If the data set has an ignore label: nobody knows what lies below it.
    """
    if read_model(model_folder).label_manager.has_ignore_label:
        raise SGNetError(
            f"{model_folder}: the data set has an ignore label, and a lesion found there is neither true "
            "nor false; tune on cases without"
        )
    cut = partial(_cut_case, model_folder=model_folder, thresholds=tuple(thresholds))
    levels: dict[PredictedCase, CaseLevels] = {}
    for case, outcome in run_jobs(cut, cases, workers=workers):
        levels[case] = outcome
        on_done(case)
    return [levels[case] for case in cases]


def _cut_case(case: PredictedCase, *, model_folder: Path, thresholds: tuple[float, ...]) -> CaseLevels:
    model = read_model(model_folder)
    saved = read_case(case, model)
    return levels_of(
        saved.probabilities,
        saved.reference,
        thresholds=thresholds,
        label_manager=model.label_manager,
        spacing=saved.spacing,
    )
