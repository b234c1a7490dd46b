"""The operating point: the threshold of a model's masks, which lesions it removes, and their confidence."""

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import read_json
from sgnet_nnunet.inference.component_rejector import Rejector, Scene, rejected
from sgnet_nnunet.inference.plan import FEWEST_LABELS_OF_UINT16, Labels
from sgnet_nnunet.nifti import at_least
from sgnet_nnunet.nnunet import KEPT_BY_ZIP
from sgnet_nnunet.schemas import Header, check

if TYPE_CHECKING:
    from sgnet_nnunet.lesions import Lesions

logger = logging.getLogger(__name__)

FILE_NAME = "operating_point.json"
FORMAT = "sgnet operating point"
VERSION = 4
VERSION_OF_REJECTOR = 5
"""Of files with a rejector: programs that cannot apply it refuse them."""

DEFAULT_THRESHOLD = 0.5
"""Probability above which nnU-Net's own segmentation is foreground, of one label or a region."""

COPY = "sgnet_operating_point"
"""Key of the file's content in each fold's `KEPT_BY_ZIP`."""

SURE = 1e-6
"""Probabilities closer to 0 or 1 count as this far from it: their logits would be infinite."""

_TUNE_AGAIN = "run sgnet tune again, or predict with --operating-point none"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Platt scaling of a lesion's mean probability: 1 / (1 + exp(-(slope * logit + intercept))).

    The slope is the inverse of a temperature. Source: Platt, Advances in Large Margin Classifiers, 1999.

    Raises:
        ValueError: If the slope is negative, or a number is not finite.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        if not (isfinite(self.slope) and isfinite(self.intercept) and self.slope >= 0):
            raise ValueError(f"slope must be at least 0, both finite; got {self.slope}, {self.intercept}")

    def confidence(self, mean_probability: ArrayLike) -> NDArray[np.float64]:
        """Return the probability that a lesion is one, by the mean probability of its voxels; any shape."""
        scores = self.slope * logit_of(mean_probability) + self.intercept
        return np.asarray(0.5 * (1 + np.tanh(scores / 2)))  # which does not overflow


def logit_of(probability: ArrayLike) -> NDArray[np.float64]:
    """Return the logits of probabilities, those of 0 and 1 cut off."""
    clipped = np.clip(np.asarray(probability, dtype=np.float64), SURE, 1 - SURE)
    return np.asarray(np.log(clipped / (1 - clipped)))


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold on the foreground probability, and which lesions above it are removed.

    Voxels with a higher probability are foreground. A lesion is removed if it is both smaller than the
    minimum volume in mm3 and of a lower mean probability than the minimum; 1, the default, removes all small
    ones. Of the others the rejector removes what it scores too low.

    Raises:
        ValueError: If the threshold is not between 0 and 1, the volume is negative or not finite, or the
            minimum mean probability is not above 0 and at most 1.
    """

    threshold: float
    min_lesion_volume_mm3: float = 0.0
    min_mean_probability: float = 1.0
    calibration: Calibration | None = None
    rejector: Rejector | None = None

    def __post_init__(self) -> None:
        volume = self.min_lesion_volume_mm3
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold must be between 0 and 1; got {self.threshold}")
        if not (isfinite(volume) and volume >= 0):
            raise ValueError(f"min_lesion_volume_mm3 must be finite and at least 0; got {volume}")
        if not 0 < self.min_mean_probability <= 1:
            raise ValueError(
                f"min_mean_probability must be above 0, up to 1; got {self.min_mean_probability}"
            )

    def __str__(self) -> str:
        removed = removal(self.min_lesion_volume_mm3, self.min_mean_probability)
        by_score = "" if self.rejector is None else "; a component rejector"
        return f"threshold {self.threshold:g}, {removed}{by_score}"

    def as_json(self, *, whole: bool = True) -> dict[str, Any]:
        """Return the point as JSON can hold it; of a rejector its `summary` unless it is to be `whole`."""
        content = asdict(self)
        if self.rejector is None:
            del content["rejector"]
        elif not whole:
            content["rejector"] = self.rejector.summary()
        return content


def removal(volume_mm3: float, mean_probability: float) -> str:
    """Return in words which lesions a minimum volume and a minimum mean probability remove."""
    if not volume_mm3:
        return "no lesion removed"
    unsure = f" and of a mean probability below {mean_probability:g}" if mean_probability < 1 else ""
    return f"lesions below {volume_mm3:g} mm3{unsure} removed"


def is_kept(
    volumes_mm3: ArrayLike, mean_probabilities: ArrayLike, minimum_mm3: ArrayLike, minimum_mean: ArrayLike
) -> NDArray[np.bool_]:
    """Return which lesions are kept at a minimum volume and a minimum mean probability; all broadcast."""
    minimum = np.asarray(minimum_mean)
    sure = (np.asarray(mean_probabilities) >= minimum) & (minimum < 1)
    return np.asarray(at_least(volumes_mm3, minimum_mm3) | sure)


def foreground_probability(probabilities: NDArray[np.floating], labels: Labels) -> NDArray[np.floating]:
    """Return the probability that a voxel is foreground of any class, shape (z, y, x).

    It is the probability of the one foreground class, 1 minus that of the background with several
    classes, and the highest one with regions: it exceeds a threshold exactly where one region does.

    Args:
        probabilities: Shape (heads, z, y, x), or any other order of the last three axes.
        labels: The model's labels or regions.
    """
    if labels.has_regions:
        return np.asarray(probabilities.max(axis=0))
    return probabilities[1] if len(probabilities) == 2 else 1 - probabilities[0]  # noqa: PLR2004


def apply_operating_point(
    probabilities: NDArray[np.floating],
    point: OperatingPoint,
    labels: Labels,
    spacing: tuple[float, ...],
    *,
    scene: Scene | None = None,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the segmentation at an operating point: values of labels, shape (z, y, x).

    A foreground voxel gets the most probable foreground class. With regions, each one is thresholded
    and written in nnU-Net's `regions_class_order`. A lesion is a 26-connected component of the
    foreground of any class, and is removed whole.

    Args:
        probabilities: Shape (heads, z, y, x).
        point: The operating point.
        labels: The model's labels or regions.
        spacing: Voxel size in mm along z, y, x.
        scene: The preprocessed image, which a rejector needs.
    """
    lesions, kept = lesions_at(foreground_probability(probabilities, labels), point, spacing, scene=scene)
    return segmentation_at(probabilities, point, labels, np.append(False, kept)[lesions.labels])


def lesions_at(
    foreground: NDArray[np.floating],
    point: OperatingPoint,
    spacing: tuple[float, ...],
    *,
    scene: Scene | None = None,
) -> "tuple[Lesions, NDArray[np.bool_]]":
    """Return the lesions above a point's threshold, and which of them the point keeps, shape (lesions,).

    Args:
        foreground: Probability of any foreground, of three axes in any order.
        point: The operating point.
        spacing: Voxel size in mm along these axes.
        scene: The preprocessed image, for arrays of these axes, which a rejector needs.

    Raises:
        ValueError: If the point has a rejector and there is no scene.
        SGNetError: If a feature of the rejector is not known, see `component_rejector.rejected`.
    """
    # SciPy behind it takes a fifth of a second to import.
    from sgnet_nnunet.lesions import find_lesions  # noqa: PLC0415

    lesions = find_lesions(foreground > point.threshold, spacing=spacing)
    minimum = point.min_mean_probability
    # The means take a moment, and most points need none.
    means = lesions.mean_of(foreground) if minimum < 1 else 0.0
    kept = is_kept(lesions.volumes_mm3, means, point.min_lesion_volume_mm3, minimum)
    if point.rejector is not None:
        if scene is None:
            raise ValueError("an operating point with a rejector needs the scene")
        kept &= ~rejected(point.rejector, lesions, foreground, scene, spacing)
    return lesions, kept


def segmentation_at(
    probabilities: NDArray[np.floating], point: OperatingPoint, labels: Labels, foreground: NDArray[np.bool_]
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the values of labels, (z, y, x), of voxels that are foreground at an operating point.

    The probabilities have the shape (heads, z, y, x); see `apply_operating_point`.
    """
    wide = len(labels.foreground_labels) >= FEWEST_LABELS_OF_UINT16
    segmentation = np.zeros(foreground.shape, dtype=np.uint16 if wide else np.uint8)
    segmentation[foreground] = _classes(probabilities[:, foreground], point.threshold, labels)
    return segmentation


def _classes(probabilities: NDArray[np.floating], threshold: float, labels: Labels) -> NDArray[np.intp]:
    """Return the class of foreground voxels; shapes (heads, n) and (n,)."""
    if not labels.has_regions:
        return probabilities[1:].argmax(axis=0) + 1
    classes = np.zeros(probabilities.shape[1], dtype=np.intp)
    for region, value in zip(probabilities, labels.regions_class_order, strict=True):
        classes[region > threshold] = value
    return classes


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """The networks and settings that probabilities are predicted with.

    Attributes:
        model: The data set's name and the model folder's, `DATASET/TRAINER__PLANS__CONFIGURATION`.
        engine: `tiled`, `whole` or `sparse`.
        folds: Folds whose networks are averaged, sorted.
        weights_sha256: Combined checksum of the folds' checkpoints, see `combine_checksums`.
        mirroring: Whether predictions of mirrored images are averaged.
        precision: What OpenVINO computes in, `f32` or `bf16`; `f32` for PyTorch on any device.
        step_size: Step of the engine `tiled` in patches; the others have none.
    """

    model: str
    engine: str
    folds: tuple[str, ...]
    weights_sha256: str
    mirroring: bool = False
    precision: str = "f32"
    step_size: float = 0.5


def combine_checksums(checksums: Iterable[str]) -> str:
    """Return one checksum for the checkpoints of several folds, given in the sorted order of the folds."""
    return hashlib.sha256("\n".join(checksums).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class OperatingPointRecord:
    """What the file of `sgnet tune` says: the operating point, and what it was tuned for.

    The folds are those that predicted their own validation cases; the point is meant for the average of
    their networks.
    """

    point: OperatingPoint
    tuned_for: Provenance

    def why_not(self, provenance: Provenance) -> str:
        """Return why the point must not be applied to probabilities, "" if it may."""
        was, now = asdict(self.tuned_for), asdict(provenance)
        for values in (was, now):
            values["folds"] = " ".join(sorted(values["folds"]))
            if values["engine"] != "tiled":  # the other two give the same probabilities
                values |= {"engine": "whole or sparse", "step_size": None}
        name = next((name for name in was if was[name] != now[name]), None)
        return "" if name is None else f"was tuned with {name} {was[name]}, this prediction has {now[name]}"


def point_file(model_folder: Path) -> Path | None:
    """Return the file of a model's own operating point, else one with its `COPY`, else None."""
    if (own := model_folder / FILE_NAME).exists():
        return own
    others = sorted(model_folder.glob(f"fold_*/{KEPT_BY_ZIP}"))
    return next((path for path in others if COPY in read_json(path, remedy="delete it")), None)


def read_operating_point(path: Path) -> OperatingPointRecord:
    """Read the operating point that `sgnet tune` has written.

    Raises:
        InputFileError: If the file cannot be read, or was not written by this version of `sgnet tune`.
    """
    content = read_json(path, remedy=_TUNE_AGAIN)
    content = content.get(COPY, content)
    header = check(path, content, Header, remedy=_TUNE_AGAIN)
    version = header.version
    if header.format != FORMAT:
        raise InputFileError(
            path, "is not an operating point of sgnet tune", "name a file that sgnet tune wrote"
        )
    if version == 1:
        problem = "was tuned by version 0.1, for tiled and mirrored predictions of single folds"
        raise InputFileError(path, problem, _TUNE_AGAIN)
    # 2 lacks precision and step size, which `sgnet tune` left at the defaults; 3 the mean probability.
    if version not in {2, 3, VERSION, VERSION_OF_REJECTOR}:
        problem = f"has version {version}; this program reads {VERSION} and {VERSION_OF_REJECTOR}"
        raise InputFileError(path, problem, _TUNE_AGAIN)
    return check(path, content, OperatingPointRecord, remedy=_TUNE_AGAIN)


def find_operating_point(
    requested: str, model_folder: Path, *, provenance: Callable[[], Provenance]
) -> OperatingPoint | None:
    """Return the operating point to predict at; None for nnU-Net's own segmentation.

    Args:
        requested: A file of `sgnet tune`; `none`; or `auto` for the model's own, if any (`point_file`).
        model_folder: nnU-Net's folder of the training, or one of `sgnet export`.
        provenance: Returns the networks and settings of the prediction; called only if there is a point,
            since checksums of weights take a moment.

    Raises:
        InputFileError: If the file cannot be used, or the point was tuned for other networks or settings.
    """
    path = point_file(model_folder) if requested == "auto" else Path(requested)
    if path is None or requested == "none":
        logger.info("no operating point: nnU-Net's own segmentation")
        return None
    record = read_operating_point(path)
    if reason := record.why_not(provenance()):
        raise InputFileError(path, reason, f"predict as it was tuned, {_TUNE_AGAIN}")
    logger.info("operating point of %s: %s", path, record.point)
    if path.name == KEPT_BY_ZIP:
        logger.warning("that is a copy: nnU-Net's zip leaves out %s", model_folder / FILE_NAME)
    if len(record.tuned_for.folds) > 1:
        logger.info("it was tuned on each fold's validation cases and is applied to the folds' average")
    return record.point


def warn_of_unused_points(requested: str, model_folders: Iterable[Path]) -> None:
    """Say that operating points, which are tuned for single models, are not applied to an average.

    Raises:
        SGNetError: If a file is requested, not `auto` or `none`: it was tuned for one model.
    """
    if requested not in {"auto", "none"}:
        problem = "is for a single model, not for an average of several -m"
        raise SGNetError(f"--operating-point {requested}: {problem}; leave it out")
    tuned = [folder.name for folder in model_folders if point_file(folder)]
    if tuned and requested == "auto":
        logger.warning(
            "operating points are for single models and are not applied to an average of models: "
            "those of %s are not used",
            ", ".join(tuned),
        )


def name_of_model(model_folder: Path) -> str:
    """Return the data set's name and the model folder's, `DATASET/TRAINER__PLANS__CONFIGURATION`.

    Raises:
        InputFileError: If `plans.json` is missing, is not JSON or names no data set.
    """
    path = model_folder / "plans.json"
    dataset = read_json(path).get("dataset_name")
    if not dataset or not isinstance(dataset, str):
        raise InputFileError(path, "has no dataset_name", "name the folder of a trained model")
    # The folder may be named by a relative path, whose last part can be "." or "..".
    return f"{dataset}/{model_folder.resolve().name}"
