"""`sgnet export`."""

from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.cli.console import out
from sgnet_nnunet.errors import SGNetError


def export(
    model: Annotated[
        Path, typer.Argument(help="nnU-Net's folder of the training, TRAINER__PLANS__CONFIGURATION.")
    ],
    output: Annotated[Path, typer.Option("-o", help="A file *.onnx, or a new folder for OpenVINO.")] = Path(
        "openvino"
    ),
    folds: Annotated[
        list[str] | None,
        typer.Option("-f", help="Folds to write: numbers, or all (the fold of that name); 0 by default."),
    ] = None,
    checkpoint: Annotated[str, typer.Option("-chk", help="Checkpoint's name.")] = "checkpoint_final.pth",
) -> None:
    """Write a trained model as ONNX, or as a folder that sgnet predict runs without PyTorch."""
    wanted = folds or ["0"]
    if output.suffix == ".onnx":
        if len(wanted) > 1:
            raise SGNetError(f"-o {output}: an ONNX file holds one fold; name one by -f")
        difference = _export_onnx(model, output, wanted[0], checkpoint)
        out.print(
            f"{output}: onnxruntime agrees with PyTorch to {difference:.1g}", soft_wrap=True, highlight=False
        )
        return
    if output.suffix:
        raise SGNetError(f"-o {output}: name a file that ends in .onnx, or a folder")
    from sgnet_nnunet.export.openvino import export_openvino  # noqa: PLC0415 - PyTorch takes seconds

    difference = export_openvino(model, output, folds=wanted, checkpoint=checkpoint)
    out.print(
        f"{output}: OpenVINO agrees with PyTorch to {difference:.1g}; predict with sgnet predict -m {output}",
        soft_wrap=True,
        highlight=False,
    )


def _export_onnx(model: Path, output: Path, fold: str, checkpoint: str) -> float:
    from sgnet_nnunet.export.onnx import export_onnx  # noqa: PLC0415 - PyTorch takes seconds
    from sgnet_nnunet.inference.model import load_predictor  # noqa: PLC0415

    predictor = load_predictor(model, fold=fold, checkpoint=checkpoint)
    channels = len(predictor.dataset_json["channel_names"])
    return export_onnx(predictor.network, output, input_channels=channels)
