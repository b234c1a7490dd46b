"""A case's probabilities and its reference, as nnU-Net wrote and reads them."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.io.json_object import read_json
from sgnet_nnunet.results.case import PredictedCase
from sgnet_nnunet.results.model_name import ModelName

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

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
