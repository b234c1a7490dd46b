"""`sgnet onnx`."""

from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.cli.console import out


def onnx(
    model: Annotated[
        Path, typer.Argument(help="nnU-Net's folder of the training, TRAINER__PLANS__CONFIGURATION.")
    ],
    output: Annotated[Path, typer.Option("-o", help="File to write.")] = Path("model.onnx"),
    fold: Annotated[str, typer.Option("-f", help="Fold whose weights to take: a number, or all.")] = "0",
    checkpoint: Annotated[str, typer.Option("-chk", help="Checkpoint's name.")] = "checkpoint_final.pth",
) -> None:
    """Write a trained network as ONNX, checked against PyTorch with onnxruntime."""
    from sgnet_nnunet.export.onnx import export_onnx  # noqa: PLC0415 - PyTorch takes seconds
    from sgnet_nnunet.inference.model import load_predictor  # noqa: PLC0415

    predictor = load_predictor(model, fold=fold, checkpoint=checkpoint)
    channels = len(predictor.dataset_json["channel_names"])
    difference = export_onnx(predictor.network, output, input_channels=channels)
    out.print(
        f"{output}: onnxruntime agrees with PyTorch to {difference:.1g}", soft_wrap=True, highlight=False
    )
