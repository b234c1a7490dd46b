"""`sgnet export`, `sgnet gates` and `sgnet weights`."""

from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.cli.console import MODEL_FOLDER, TRUST, progress_bar, say
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.files import check_output_files, checksum_of, make_folder
from sgnet_nnunet.nnunet import CHECKPOINT


def export(
    model: Annotated[Path, typer.Argument(help=MODEL_FOLDER)],
    output: Annotated[
        Path, typer.Option("-o", metavar="PATH", help="A file *.onnx, or a new folder for OpenVINO.")
    ] = Path("openvino"),
    folds: Annotated[
        list[str],
        typer.Option("-f", metavar="FOLD...", help="Folds: numbers, or all (the fold of that name)."),
    ] = ["0"],  # noqa: B006 - Typer wants a list, and copies it
    checkpoint: Annotated[str, typer.Option("-chk", metavar="NAME", help="Checkpoint's name.")] = CHECKPOINT,
    trust: Annotated[bool, typer.Option("--trust", help=TRUST)] = False,
) -> None:
    """Write a trained model as ONNX, or as a folder that `sgnet predict` runs without PyTorch."""
    if output.suffix not in {"", ".onnx"}:
        raise SGNetError(f"-o {output}: expected a file that ends in .onnx, or a folder")
    if output.suffix and len(folds) > 1:
        raise SGNetError(f"-o {output}: an ONNX file holds one fold; name one by -f")
    from sgnet_nnunet.inference.export import export_onnx, export_openvino  # noqa: PLC0415 - imports PyTorch

    if output.suffix:
        check_output_files(output.parent, [output.name])
        from sgnet_nnunet.inference.trained_model import load_trained_model  # noqa: PLC0415

        trained = load_trained_model(model, folds=folds, checkpoint=checkpoint, trust=trust)
        channels = len(trained.description.channels)
        difference = export_onnx(trained.network, output, input_channels=channels)
        say(f"{output}: largest difference of a logit between onnxruntime and PyTorch: {difference:.1g}")
        return
    difference = export_openvino(model, output, folds=folds, checkpoint=checkpoint, trust=trust)
    say(
        f"{output}: largest difference of a logit between OpenVINO and PyTorch: {difference:.1g}; "
        f"predict with sgnet predict -m {output}"
    )


def gates(
    model: Annotated[Path, typer.Argument(help=MODEL_FOLDER)],
    images: Annotated[
        Path, typer.Option("-i", metavar="FOLDER", help="Folder of images, as for nnUNetv2_predict.")
    ],
    output: Annotated[
        Path, typer.Option("-o", metavar="FOLDER", help="Folder to write one picture a case to.")
    ],
    labels: Annotated[
        Path | None, typer.Option("-l", metavar="FOLDER", help="Folder of reference masks to outline.")
    ] = None,
    fold: Annotated[
        str, typer.Option("-f", metavar="FOLD", help="Fold of the weights: a number, or all.")
    ] = "0",
    checkpoint: Annotated[str, typer.Option("-chk", metavar="NAME", help="Checkpoint's name.")] = CHECKPOINT,
    device: Annotated[str, typer.Option("-device", metavar="NAME", help="cpu, cuda or mps.")] = "cpu",
    trust: Annotated[bool, typer.Option("--trust", help=TRUST)] = False,
) -> None:
    """Draw the gate masks of a trained SG-Net: T1ce, FLAIR, each gate, and the prediction."""
    # PyTorch takes seconds to import.
    from sgnet_nnunet.inference.gate_maps import GatedModel, look_at_case  # noqa: PLC0415
    from sgnet_nnunet.nnunet import find_cases  # noqa: PLC0415
    from sgnet_nnunet.report.slices import gate_panels, save_png  # noqa: PLC0415

    gated = GatedModel(model, fold=fold, checkpoint=checkpoint, device=device, trust=trust)
    description = gated.trained.description
    ending = description.file_ending
    cases = find_cases(images, file_ending=ending, channels=len(description.channels))
    make_folder(output, [f"{name}.png" for name in cases])
    with progress_bar() as progress:
        task = progress.add_task("gates", total=len(cases))
        for name, files in cases.items():
            reference = None if labels is None else labels / f"{name}{ending}"
            found = look_at_case(gated, name, files, reference=reference)
            save_png(gate_panels(found), output / f"{name}.png")
            progress.advance(task)
    say(f"{len(cases)} pictures in {output}")


def weights() -> None:
    """Print where the model in the package is, and the command that fine-tunes it."""
    from sgnet_nnunet.inference.shipped import OPENVINO, shipped_model  # noqa: PLC0415

    model = shipped_model()
    rows = {
        "model card": model.card,
        "trained model": model.trained,
        "for OpenVINO": model.folder / OPENVINO,
        "safetensors": model.weights,
        "SHA-256": checksum_of(model.weights),
    }
    say(f"{model.name}, trained on phantom patients alone; research use only")
    for name, value in rows.items():
        say(f"{name:15}{value}")
    say(
        "fine-tune:     nnUNetv2_train DATASET 3d_fullres FOLD -tr SGNetTrainer "
        f"-pretrained_weights {model.checkpoint}"
    )
