"""`sgnet predict`."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.cli.console import out
from sgnet_nnunet.errors import SGNetError


def predict(
    images: Annotated[Path, typer.Option("-i", help="Folder of images, named as for nnU-Net (_0000 etc.).")],
    output: Annotated[Path, typer.Option("-o", help="Folder to write the masks to.")],
    dataset: Annotated[
        str | None, typer.Option("-d", help="Data set of the model, its number or name.")
    ] = None,
    trainer: Annotated[str, typer.Option("-tr", help="Trainer.")] = "nnUNetTrainer",
    plans: Annotated[str, typer.Option("-p", help="Plans.")] = "nnUNetPlans",
    configuration: Annotated[str, typer.Option("-c", help="Configuration.")] = "3d_fullres",
    model: Annotated[
        Path | None,
        typer.Option(
            "-m", help="The model's folder, TRAINER__PLANS__CONFIGURATION, instead of -d, -tr, -p, -c."
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
    step_size: Annotated[
        float, typer.Option("-step_size", min=0.1, max=1, help="Step of the sliding window, in patches.")
    ] = 0.5,
    mirroring: Annotated[
        bool, typer.Option("--tta/--disable_tta", help="Average over mirrored images, up to 8 times slower.")
    ] = False,
    preprocessing_processes: Annotated[
        int | None, typer.Option("-npp", min=0, help="Processes that preprocess; 3 with a GPU, else none.")
    ] = None,
    export_processes: Annotated[
        int | None, typer.Option("-nps", min=0, help="Processes that write; 3 with a GPU, else none.")
    ] = None,
    continue_prediction: Annotated[
        bool, typer.Option("--continue_prediction", help="Keep the masks that are there already.")
    ] = False,
    save_probabilities: Annotated[
        bool, typer.Option("--save_probabilities", help="Also write probabilities, as .npz.")
    ] = False,
    operating_point: Annotated[
        str,
        typer.Option(help="A file of sgnet tune, none, or auto for the one in the model's folder, if any."),
    ] = "auto",
) -> None:
    """Predict a folder of images, as nnUNetv2_predict does, at the model's operating point."""
    # PyTorch takes seconds to import.
    from sgnet_nnunet.inference.predict import (  # noqa: PLC0415
        PredictionOptions,
        find_model_folder,
        find_operating_point,
        predict_folder,
    )

    logging.getLogger("sgnet_nnunet").setLevel(logging.INFO)
    if (model is None) == (dataset is None):
        raise SGNetError("name the model either by -d (with -tr, -p and -c) or by its folder, -m")
    folder = model or find_model_folder(str(dataset), f"{trainer}__{plans}__{configuration}")
    cases = predict_folder(
        images,
        output,
        model_folder=folder,
        operating_point=find_operating_point(operating_point, folder),
        options=PredictionOptions(
            folds=tuple(folds or ()),
            checkpoint=checkpoint,
            device=device,
            step_size=step_size,
            mirroring=mirroring,
            preprocessing_processes=preprocessing_processes,
            export_processes=export_processes,
            continue_prediction=continue_prediction,
            save_probabilities=save_probabilities,
        ),
    )
    out.print(f"{cases} masks in {output}", soft_wrap=True, highlight=False)
