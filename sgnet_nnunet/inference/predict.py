"""Predicting a folder of images with a trained model."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference.gates import find_cases
from sgnet_nnunet.inference.predictor import Predictor
from sgnet_nnunet.operating_point.point import OperatingPoint
from sgnet_nnunet.operating_point.record import FILE_NAME, read_record
from sgnet_nnunet.operating_point.saved import read_model

logger = logging.getLogger(__name__)

GPU_PROCESSES = 3
"""nnU-Net's own default of processes; beside a GPU they have cores to run on."""


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """How to predict; the defaults are fit for a CPU.

    Attributes:
        folds: Folds whose networks are averaged; none for all that are trained.
        checkpoint: File name of the weights.
        device: cpu, cuda or mps; None for cuda if there is one, else cpu.
        step_size: Step of the sliding window in patches.
        mirroring: Also predict mirrored images, and average: up to 8 times slower.
        preprocessing_processes: Processes that preprocess; None for 0 without a GPU.
        export_processes: Processes that resample and write; None for 0 without a GPU.
        continue_prediction: Keep the masks that are there already.
        save_probabilities: Also write each case's probabilities as `.npz`.
    """

    folds: tuple[str, ...] = ()
    checkpoint: str = "checkpoint_final.pth"
    device: str | None = None
    step_size: float = 0.5
    mirroring: bool = False
    preprocessing_processes: int | None = None
    export_processes: int | None = None
    continue_prediction: bool = False
    save_probabilities: bool = False


def find_model_folder(dataset: str, name: str) -> Path:
    """Return the folder of a training in `nnUNet_results`.

    Args:
        dataset: Number or name of the data set.
        name: TRAINER__PLANS__CONFIGURATION.

    Raises:
        SGNetError: If `nnUNet_results` is not set, or has no such data set.
    """
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


def find_operating_point(wanted: str, model_folder: Path) -> OperatingPoint | None:
    """Return the operating point to predict at.

    Args:
        wanted: A file of `sgnet tune`; `none`; or `auto` for the one in the model's folder, if any.
        model_folder: nnU-Net's folder of the training.

    Raises:
        InputFileError: If the file cannot be used.
        SGNetError: If it was tuned for another model.
    """
    path = model_folder / FILE_NAME if wanted == "auto" else Path(wanted)
    if wanted == "none" or (wanted == "auto" and not path.exists()):
        logger.info("no operating point: nnU-Net's own segmentation")
        return None
    record, model = read_record(path), read_model(model_folder).name
    if record.model != model:
        raise SGNetError(
            f"{path}: was tuned for {record.model}, not for {model}; tune this model with sgnet tune, or "
            "predict with --operating-point none"
        )
    logger.info("operating point of %s: %s", path, record.point)
    logger.info("it was chosen as nnU-Net validates: one fold's network at a time, mirrored (-f 0 --tta)")
    return record.point


def predict_folder(
    images: Path,
    output: Path,
    *,
    model_folder: Path,
    operating_point: OperatingPoint | None = None,
    options: PredictionOptions | None = None,
) -> int:
    """Predict every case of a folder, and return how many there are.

    Args:
        images: nnU-Net's folder of images.
        output: Folder to write the masks to.
        model_folder: nnU-Net's folder of the training.
        operating_point: Where to cut; None for nnU-Net's own segmentation.
        options: How to predict.

    Raises:
        InputFileError: If weights or images are missing, or an image cannot be read.
        SGNetError: If no fold is trained, or the device is not there.
    """
    options = options or PredictionOptions()
    device = _device(options.device)
    predictor = _load(model_folder, options, device)
    predictor.operating_point = operating_point
    description = predictor.dataset_json
    channels = len(description["channel_names"])
    cases = find_cases(images, file_ending=description["file_ending"], channels=channels)
    processes = GPU_PROCESSES if device == "cuda" else 0
    preprocessing, export = options.preprocessing_processes, options.export_processes
    predictor.predict_from_files(
        str(images),
        str(output),
        save_probabilities=options.save_probabilities,
        overwrite=not options.continue_prediction,
        num_processes_preprocessing=processes if preprocessing is None else preprocessing,
        num_processes_segmentation_export=processes if export is None else export,
    )
    return len(cases)


def _load(model_folder: Path, options: PredictionOptions, device: str) -> Predictor:
    folds = options.folds or _trained_folds(model_folder, options.checkpoint)
    for fold in folds:
        weights = model_folder / f"fold_{fold}" / options.checkpoint
        if not weights.is_file():
            raise InputFileError(
                weights, "there is no such file", "name a trained model, its -f and its -chk"
            )
    predictor = Predictor(
        tile_step_size=options.step_size,
        use_mirroring=options.mirroring,
        perform_everything_on_device=device == "cuda",
        device=torch.device(device),
    )
    predictor.initialize_from_trained_model_folder(str(model_folder), folds, options.checkpoint)
    return predictor


def _trained_folds(model_folder: Path, checkpoint: str) -> tuple[str, ...]:
    """Return the numbered folds that have weights, else the fold `all`."""
    folds = sorted(
        path.parent.name.removeprefix("fold_") for path in model_folder.glob(f"fold_*/{checkpoint}")
    )
    if not folds:
        raise InputFileError(
            model_folder, f"holds no fold_*/{checkpoint}", "train the model, or name another -d, -tr, -p, -c"
        )
    return tuple(fold for fold in folds if fold != "all") or ("all",)


def _device(name: str | None) -> str:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name is None:
        return "cuda" if there["cuda"] else "cpu"
    if not there.get(name):
        usable = " or ".join(device for device, usable in there.items() if usable)
        raise SGNetError(f"-device {name}: there is none here; give {usable}")
    return name
