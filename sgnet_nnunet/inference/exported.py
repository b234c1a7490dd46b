"""Predicting a folder of images with an exported model, without PyTorch."""

from collections.abc import Callable
from pathlib import Path

from sgnet_nnunet.engine.engine import Engine
from sgnet_nnunet.engine.exported import open_exported, read_export
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.find import find_operating_point
from sgnet_nnunet.inference.mirroring import Mirrored
from sgnet_nnunet.inference.options import PredictionOptions
from sgnet_nnunet.standalone.pipeline import Options, predict_folder
from sgnet_nnunet.standalone.plan import read_plan

FOR_TRAINED_MODELS = {
    "checkpoint": "-chk",
    "step_size": "-step_size",
    "preprocessing_processes": "-npp",
    "export_processes": "-nps",
}
"""Options that an exported model has no use for, by their flags."""


def predict_exported(
    images: Path,
    output: Path,
    *,
    model_folder: Path,
    operating_point: str,
    options: PredictionOptions,
    on_start: Callable[[int], object] = lambda _: None,
    on_done: Callable[[], object] = lambda: None,
) -> int:
    """Predict every case of a folder, and return how many were predicted.

    Args:
        images: nnU-Net's folder of images.
        output: Folder to write the masks to.
        model_folder: Written by `sgnet export`.
        operating_point: A file of `sgnet tune`; `none`; or `auto` for the one in the model's folder.
        options: How to predict.
        on_start: Called with the number of cases that will be predicted.
        on_done: Called after each case.

    Raises:
        InputFileError: If a file is missing or damaged.
        SGNetError: If an option is for trained models, or the model does not allow it.
    """
    refuse_options(options)
    export = read_export(model_folder)
    axes = export.mirroring_axes if options.mirroring else ()

    def open_engine() -> Engine:
        engine = open_exported(
            model_folder,
            folds=options.folds,
            precision=options.precision,
            engine=options.engine,
            max_memory=options.max_memory,
        )
        return Mirrored(engine, axes) if axes else engine

    return predict_folder(
        images,
        output,
        plan=read_plan(model_folder, export.configuration),
        open_engine=open_engine,
        point=find_operating_point(operating_point, model_folder, model=export.model),
        options=Options(
            continue_prediction=options.continue_prediction,
            save_probabilities=options.save_probabilities,
            num_parts=options.num_parts,
            part_id=options.part_id,
        ),
        on_start=on_start,
        on_done=on_done,
    )


def refuse_options(options: PredictionOptions) -> None:
    """Check that nothing is asked of an exported model that only a trained one can do.

    Raises:
        SGNetError: If an option is for trained models.
    """
    default = PredictionOptions()
    given = [
        flag
        for name, flag in FOR_TRAINED_MODELS.items()
        if getattr(options, name) not in {getattr(default, name), 0}
    ]
    given += [f"--engine {options.engine}"] if options.engine == "tiled" else []
    given += [f"--runtime {options.runtime}"] if options.runtime == "torch" else []
    given += [f"-device {options.device}"] if options.device not in {None, "cpu"} else []
    if given:
        raise SGNetError(
            f"{', '.join(given)}: not for an exported model, which runs in OpenVINO on the CPU; leave it "
            "out, or name the trained model's folder"
        )
