"""`sgnet predict`."""

import logging
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.cli.console import err, out, progress_bar
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.predictor import PredictionOptions
from sgnet_nnunet.inference.predictor import predict as predict_folder
from sgnet_nnunet.nnunet import find_model_folder, prints_to_log


class Engine(str, Enum):
    """How the network gets at the image."""

    AUTO = "auto"
    TILED = "tiled"
    WHOLE = "whole"
    SPARSE = "sparse"


class Runtime(str, Enum):
    """What runs the network."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"


class Precision(str, Enum):
    """What OpenVINO computes in."""

    F32 = "f32"
    BF16 = "bf16"


def predict(
    images: Annotated[Path, typer.Option("-i", help="Folder of images, named as for nnU-Net (_0000 etc.).")],
    output: Annotated[Path, typer.Option("-o", help="Folder to write the masks to.")],
    dataset: Annotated[
        str | None, typer.Option("-d", help="Data set of the model, its number or name.")
    ] = None,
    trainer: Annotated[str, typer.Option("-tr", help="Trainer.")] = "nnUNetTrainer",
    plans: Annotated[str, typer.Option("-p", help="Plans.")] = "nnUNetPlans",
    configuration: Annotated[str, typer.Option("-c", help="Configuration.")] = "3d_fullres",
    models: Annotated[
        list[Path] | None,
        typer.Option(
            "-m",
            help="The model's folder, TRAINER__PLANS__CONFIGURATION or one of sgnet export, instead of -d, "
            "-tr, -p, -c; several are averaged.",
        ),
    ] = None,
    folds: Annotated[
        list[str] | None,
        typer.Option("-f", help="Folds to average: one or several numbers; all that are trained by default."),
    ] = None,
    checkpoint: Annotated[str, typer.Option("-chk", help="Checkpoint's name.")] = "checkpoint_final.pth",
    device: Annotated[
        str | None, typer.Option("-device", help="cpu, cuda or mps; cuda by default if there is one.")
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(
            help="Tiled is nnU-Net's sliding window; whole takes the image at once; sparse too, and computes "
            "only where gates are open; auto is the fastest that is exact for the network."
        ),
    ] = Engine.AUTO,
    runtime: Annotated[
        Runtime, typer.Option(help="What runs the network; auto is OpenVINO on a CPU that has it.")
    ] = Runtime.AUTO,
    precision: Annotated[Precision, typer.Option(help="What OpenVINO computes in.")] = Precision.F32,
    max_memory: Annotated[
        float | None,
        typer.Option(min=0.1, help="Memory for the network in GB; what is free by default."),
    ] = None,
    step_size: Annotated[
        float, typer.Option("-step_size", min=0.1, max=1, help="Step of the sliding window, in patches.")
    ] = 0.5,
    mirroring: Annotated[
        bool, typer.Option("--tta/--disable_tta", help="Average over mirrored images, up to 8 times slower.")
    ] = False,
    preprocessing_threads: Annotated[
        int | None,
        typer.Option("-npp", min=0, help="Cases to read and preprocess at a time; 1, or 3 with a GPU."),
    ] = None,
    export_threads: Annotated[
        int | None,
        typer.Option("-nps", min=0, help="Cases to resample and write at a time; 1, or 3 with a GPU."),
    ] = None,
    continue_prediction: Annotated[
        bool, typer.Option("--continue_prediction", help="Keep the masks that are there already.")
    ] = False,
    save_probabilities: Annotated[
        bool, typer.Option("--save_probabilities", help="Also write probabilities, as .npz.")
    ] = False,
    num_parts: Annotated[
        int, typer.Option("--num-parts", "-num_parts", min=1, help="Parts to deal the cases out to.")
    ] = 1,
    part_id: Annotated[
        int, typer.Option("--part-id", "-part_id", min=0, help="The part to predict, from 0.")
    ] = 0,
    operating_point: Annotated[
        str,
        typer.Option(help="A file of sgnet tune, none, or auto for the one in the model's folder, if any."),
    ] = "auto",
) -> None:
    """Predict a folder of images, as nnUNetv2_predict does, at the model's operating point."""
    logging.getLogger("sgnet_nnunet").setLevel(logging.INFO)
    if bool(models) == (dataset is not None):
        raise SGNetError("name the model either by -d (with -tr, -p and -c) or by its folder, -m")
    options = PredictionOptions(
        folds=tuple(folds or ()),
        checkpoint=checkpoint,
        device=device,
        engine=engine.value,
        runtime=runtime.value,
        precision=precision.value,
        max_memory=None if max_memory is None else round(max_memory * 1e9),
        step_size=step_size,
        mirroring=mirroring,
        preprocessing_threads=preprocessing_threads,
        export_threads=export_threads,
        continue_prediction=continue_prediction,
        save_probabilities=save_probabilities,
        num_parts=num_parts,
        part_id=part_id,
    )
    if models is None:
        models = [find_model_folder(str(dataset), f"{trainer}__{plans}__{configuration}")]
    bar = progress_bar()
    with prints_to_log(), bar if err.is_terminal else nullcontext():
        cases = predict_folder(
            images,
            output,
            model_folders=models,
            operating_point=operating_point,
            options=options,
            on_start=lambda total: bar.add_task("predicting", total=total),
            on_done=lambda: bar.advance(bar.task_ids[0]),
        )
    out.print(f"{cases} masks in {output}", soft_wrap=True, highlight=False)
