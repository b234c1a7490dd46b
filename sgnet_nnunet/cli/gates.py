"""`sgnet gates`."""

from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.cli.console import out, progress_bar


def gates(
    model: Annotated[
        Path, typer.Argument(help="nnU-Net's folder of the training, TRAINER__PLANS__CONFIGURATION.")
    ],
    images: Annotated[Path, typer.Option("-i", help="Folder of images, as for nnUNetv2_predict.")],
    output: Annotated[Path, typer.Option("-o", help="Folder to write a picture a case to.")],
    labels: Annotated[
        Path | None, typer.Option("-l", help="Folder of reference masks, for their outlines.")
    ] = None,
    fold: Annotated[str, typer.Option("-f", help="Fold whose weights to take: a number, or all.")] = "0",
    checkpoint: Annotated[str, typer.Option("-chk", help="Checkpoint's name.")] = "checkpoint_final.pth",
    device: Annotated[str, typer.Option("-device", help="cpu, cuda or mps.")] = "cpu",
) -> None:
    """Draw what the gates of a trained SG-Net admit: T1ce, FLAIR, the gates, the prediction."""
    # PyTorch takes seconds to import.
    from sgnet_nnunet.inference.gates import look_at_case  # noqa: PLC0415
    from sgnet_nnunet.inference.model import load_predictor  # noqa: PLC0415
    from sgnet_nnunet.pictures.gates import draw_gates  # noqa: PLC0415
    from sgnet_nnunet.standalone.cases import find_cases  # noqa: PLC0415

    predictor = load_predictor(model, fold=fold, checkpoint=checkpoint, device=device)
    ending = predictor.dataset_json["file_ending"]
    cases = find_cases(images, file_ending=ending, channels=len(predictor.dataset_json["channel_names"]))
    output.mkdir(parents=True, exist_ok=True)
    with progress_bar() as progress:
        task = progress.add_task("gates", total=len(cases))
        for name, files in cases.items():
            truth = None if labels is None else labels / f"{name}{ending}"
            draw_gates(look_at_case(predictor, name, files, truth=truth), output / f"{name}.png")
            progress.advance(task)
    out.print(f"{len(cases)} pictures in {output}", soft_wrap=True, highlight=False)
