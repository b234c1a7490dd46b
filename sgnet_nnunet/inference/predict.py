"""Predicting a folder of images with a trained model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sgnet_nnunet.inference.load import load_for_prediction
from sgnet_nnunet.inference.options import PredictionOptions
from sgnet_nnunet.inference.preprocessing import CaseFiles
from sgnet_nnunet.inference.prints import prints_to_log
from sgnet_nnunet.operating_point.point import OperatingPoint
from sgnet_nnunet.standalone.cases import find_cases

GPU_PROCESSES = 3
"""nnU-Net's own default of processes; beside a GPU they have cores to run on."""


def predict_folder(
    images: Path,
    output: Path,
    *,
    model_folder: Path,
    operating_point: OperatingPoint | None = None,
    options: PredictionOptions | None = None,
    on_start: Callable[[int], object] = lambda _: None,
    on_done: Callable[[], object] = lambda: None,
) -> int:
    """Predict every case of a folder, and return how many there are.

    Args:
        images: nnU-Net's folder of images.
        output: Folder to write the masks to.
        model_folder: nnU-Net's folder of the training.
        operating_point: Where to cut; None for nnU-Net's own segmentation.
        options: How to predict.
        on_start: Called with the number of cases that will be predicted.
        on_done: Called after each case.

    Raises:
        InputFileError: If weights or images are missing, an image cannot be read, or a mask not written.
        SGNetError: If the model, the device, the engine or the runtime cannot be used.
    """
    options = options or PredictionOptions()
    with prints_to_log():
        predictor = load_for_prediction(model_folder, options)
        predictor.operating_point, predictor.on_case = operating_point, on_done
        cases = cases_of_part(images, output, dataset=predictor.dataset_json, options=options)
        missing = [files for files, done in cases if not done]
        on_start(len(missing))
        processes = GPU_PROCESSES if predictor.device.type == "cuda" else 0
        preprocessing, export = options.preprocessing_processes, options.export_processes
        if missing:
            predictor.predict_from_files(
                [list(files.images) for files in missing],
                [files.output for files in missing],
                save_probabilities=options.save_probabilities,
                num_processes_preprocessing=processes if preprocessing is None else preprocessing,
                num_processes_segmentation_export=processes if export is None else export,
            )
    return len(cases)


def cases_of_part(
    images: Path, output: Path, *, dataset: dict[str, Any], options: PredictionOptions
) -> list[tuple[CaseFiles, bool]]:
    """Return the cases of this run's part, in nnU-Net's order, and whether each may stay as it is.

    Args:
        images: nnU-Net's folder of images.
        output: Folder of the masks.
        dataset: The content of the model's `dataset.json`.
        options: How to predict.

    Raises:
        InputFileError: If the folder has no case, or a case lacks a channel.
    """
    ending: str = dataset["file_ending"]
    found = find_cases(images, file_ending=ending, channels=len(dataset["channel_names"]))
    part = list(found.items())[options.part_id :: options.num_parts]
    endings = (ending, ".npz") if options.save_probabilities else (ending,)
    # nnU-Net makes the folder of the first output, which has none in a relative path such as "a".
    folder = output.absolute()
    return [
        (
            CaseFiles(tuple(map(str, paths)), str(folder / name)),
            options.continue_prediction and all((folder / f"{name}{end}").is_file() for end in endings),
        )
        for name, paths in part
    ]
