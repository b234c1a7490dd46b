"""`sgnet predict`."""

import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.cli.console import Checkpoint, Device, Folds, PointFile, Trust, err, progress_bar, say
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference import EngineName, PrecisionName, RuntimeName
from sgnet_nnunet.inference.predictor import PredictionOptions
from sgnet_nnunet.inference.predictor import predict as predict_folder
from sgnet_nnunet.inference.shipped import find_models
from sgnet_nnunet.nnunet import CHECKPOINT, find_model_folder, prints_to_log

_model = partial(typer.Option, rich_help_panel="Model")
_network = partial(typer.Option, rich_help_panel="Network")
_limits = partial(typer.Option, rich_help_panel="Memory, tiles, mirroring")
_cases = partial(typer.Option, rich_help_panel="Cases and files")


def predict(
    images: Annotated[
        Path, typer.Option("-i", metavar="FOLDER", help="Images, named as for nnU-Net (_0000 etc.).")
    ],
    output: Annotated[Path, typer.Option("-o", metavar="FOLDER", help="Folder to write the masks to.")],
    dataset: Annotated[str | None, _model("-d", metavar="ID", help="Data set, its number or name.")] = None,
    trainer: Annotated[str, _model("-tr", metavar="NAME", help="Trainer.")] = "SGNetTrainer",
    plans: Annotated[str, _model("-p", metavar="NAME", help="Plans.")] = "nnUNetPlans",
    configuration: Annotated[str, _model("-c", metavar="NAME", help="Configuration.")] = "3d_fullres",
    models: Annotated[
        list[Path] | None,
        _model(
            "-m",
            metavar="FOLDER",
            help="Model's folder, trained or exported, instead of -d, -tr, -p and -c; several are averaged. "
            "Without -m and -d: synthetic, the model in the package.",
        ),
    ] = None,
    folds: Folds = None,
    checkpoint: Checkpoint = CHECKPOINT,
    trust: Trust = False,
    operating_point: PointFile = "auto",
    device: Device = None,
    engine: Annotated[
        EngineName,
        _network(
            metavar="NAME",
            help="tiled (nnU-Net's sliding window), whole (the image at once), sparse (only where gates "
            "are open), or auto: the fastest one that the network supports.",
        ),
    ] = "auto",
    runtime: Annotated[
        RuntimeName, _network(metavar="NAME", help="torch, openvino or auto: OpenVINO on a CPU that has it.")
    ] = "auto",
    precision: Annotated[PrecisionName, _network(metavar="NAME", help="f32 or bf16, with OpenVINO.")] = "f32",
    max_memory: Annotated[
        float | None,
        _limits(
            min=0.1, metavar="GB", help="Memory limit, of the GPU if there is one; by default what is free."
        ),
    ] = None,
    step_size: Annotated[
        float,
        _limits(
            "-step_size", min=0.1, max=1, metavar="SHARE", help="Step of the sliding window, in patches."
        ),
    ] = 0.5,
    mirroring: Annotated[
        bool, _limits("--tta/--disable_tta", help="Average over mirrored images, up to 8 times slower.")
    ] = False,
    continue_prediction: Annotated[
        bool, _cases("--continue_prediction", help="Keep the masks that exist already.")
    ] = False,
    save_probabilities: Annotated[
        bool, _cases("--save_probabilities", help="Also write probabilities, as .npz.")
    ] = False,
    num_parts: Annotated[
        int, _cases("--num-parts", "-num_parts", min=1, metavar="N", help="Parts to divide the cases into.")
    ] = 1,
    part_id: Annotated[
        int, _cases("--part-id", "-part_id", min=0, metavar="N", help="The part to predict, from 0.")
    ] = 0,
    preprocessing_threads: Annotated[
        int | None,
        _cases(
            "-npp", min=0, max=1024, metavar="N", help="Cases to preprocess at a time; 1, or 3 with a GPU."
        ),
    ] = None,
    export_threads: Annotated[
        int | None,
        _cases("-nps", min=0, max=1024, metavar="N", help="Cases to write at a time; 1, or 3 with a GPU."),
    ] = None,
) -> None:
    """Predict a folder of images, as nnUNetv2_predict does, at the model's operating point."""
    logging.getLogger("sgnet_nnunet").setLevel(logging.INFO)
    if models and dataset is not None:
        raise SGNetError("name the model either by -d (with -tr, -p and -c) or by its folder, -m")
    options = PredictionOptions(
        folds=tuple(folds or ()),
        checkpoint=checkpoint,
        device=device,
        engine=engine,
        runtime=runtime,
        precision=precision,
        max_memory=None if max_memory is None else round(max_memory * 1e9),
        step_size=step_size,
        mirroring=mirroring,
        trust=trust,
        preprocessing_threads=preprocessing_threads,
        export_threads=export_threads,
        continue_prediction=continue_prediction,
        save_probabilities=save_probabilities,
        num_parts=num_parts,
        part_id=part_id,
    )
    if dataset is None:
        folders = find_models(models or (), options)
    else:
        folders = [find_model_folder(dataset, f"{trainer}__{plans}__{configuration}")]
    bar = progress_bar()
    with prints_to_log(), bar if err.is_terminal else nullcontext():
        cases = predict_folder(
            images,
            output,
            model_folders=folders,
            operating_point=operating_point,
            options=options,
            on_start=lambda total: bar.add_task("predicting", total=total),
            on_done=lambda: bar.advance(bar.task_ids[0]),
        )
    say(f"{cases} masks written to {output}")
