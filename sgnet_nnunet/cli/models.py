"""`sgnet export`."""

from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.cli.console import out, progress_bar
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
    from sgnet_nnunet.inference.export import export_openvino  # noqa: PLC0415 - PyTorch takes seconds

    difference = export_openvino(model, output, folds=wanted, checkpoint=checkpoint)
    out.print(
        f"{output}: OpenVINO agrees with PyTorch to {difference:.1g}; predict with sgnet predict -m {output}",
        soft_wrap=True,
        highlight=False,
    )


def _export_onnx(model: Path, output: Path, fold: str, checkpoint: str) -> float:
    from sgnet_nnunet.inference.export import export_onnx  # noqa: PLC0415 - PyTorch takes seconds
    from sgnet_nnunet.inference.trained_model import load_predictor  # noqa: PLC0415

    predictor = load_predictor(model, fold=fold, checkpoint=checkpoint)
    channels = len(predictor.dataset_json["channel_names"])
    return export_onnx(predictor.network, output, input_channels=channels)


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
    from sgnet_nnunet.inference.gate_maps import look_at_case  # noqa: PLC0415
    from sgnet_nnunet.inference.trained_model import load_predictor  # noqa: PLC0415
    from sgnet_nnunet.nnunet import find_cases  # noqa: PLC0415
    from sgnet_nnunet.report.slices import draw_gates  # noqa: PLC0415

    predictor = load_predictor(model, fold=fold, checkpoint=checkpoint, device=device)
    ending = predictor.dataset_json["file_ending"]
    cases = find_cases(images, file_ending=ending, channels=len(predictor.dataset_json["channel_names"]))
    output.mkdir(parents=True, exist_ok=True)
    with progress_bar() as progress:
        task = progress.add_task("gates", total=len(cases))
        for name, files in cases.items():
            reference = None if labels is None else labels / f"{name}{ending}"
            draw_gates(look_at_case(predictor, name, files, reference=reference), output / f"{name}.png")
            progress.advance(task)
    out.print(f"{len(cases)} pictures in {output}", soft_wrap=True, highlight=False)
