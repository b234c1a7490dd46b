"""Where a model lies, and the operating point to predict at."""

import logging
import os
from pathlib import Path

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.operating_point.point import OperatingPoint
from sgnet_nnunet.operating_point.record import FILE_NAME, read_record
from sgnet_nnunet.operating_point.saved import read_model

logger = logging.getLogger(__name__)


def find_model_folder(dataset: str, name: str) -> Path:
    """Return the folder of a training in `nnUNet_results`.

    Args:
        dataset: Number or name of the data set.
        name: TRAINER__PLANS__CONFIGURATION.

    Raises:
        SGNetError: If `nnUNet_results` is not set, or has no such data set.
    """
    from nnunetv2.utilities.dataset_name_id_conversion import (  # noqa: PLC0415
        maybe_convert_to_dataset_name,
    )

    results = os.environ.get("nnUNet_results")  # noqa: SIM112 - its name
    if not results:
        raise SGNetError(
            "nnUNet_results is not set; run: export nnUNet_results=/path/to/nnUNet_results, or name the "
            "model's folder by -m"
        )
    try:
        return Path(results, maybe_convert_to_dataset_name(dataset), name)
    except (RuntimeError, ValueError) as error:
        raise SGNetError(
            f"data set {dataset}: not exactly one has that number; give -d the whole name, or the model's "
            "folder by -m"
        ) from error


def find_operating_point(
    wanted: str, model_folder: Path, *, model: str | None = None
) -> OperatingPoint | None:
    """Return the operating point to predict at.

    Args:
        wanted: A file of `sgnet tune`; `none`; or `auto` for the one in the model's folder, if any.
        model_folder: nnU-Net's folder of the training, or one of `sgnet export`.
        model: The data set's name and the model folder's; None to read them in the folder.

    Raises:
        InputFileError: If the file cannot be used.
        SGNetError: If it was tuned for another model.
    """
    path = model_folder / FILE_NAME if wanted == "auto" else Path(wanted)
    if wanted == "none" or (wanted == "auto" and not path.exists()):
        logger.info("no operating point: nnU-Net's own segmentation")
        return None
    record, model = read_record(path), model or read_model(model_folder).name
    if record.model != model:
        raise SGNetError(
            f"{path}: was tuned for {record.model}, not for {model}; tune this model with sgnet tune, or "
            "predict with --operating-point none"
        )
    logger.info("operating point of %s: %s", path, record.point)
    logger.info("it was chosen as nnU-Net validates: one fold's network at a time, mirrored (-f 0 --tta)")
    return record.point
