"""Trained models as ONNX files, and as folders for OpenVINO; what computes other logits is not kept."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from sgnet_nnunet.errors import InputFileError, SGNetError, needs_extra
from sgnet_nnunet.evaluation.operating_point import FILE_NAME as OPERATING_POINT
from sgnet_nnunet.evaluation.operating_point import name_of_model
from sgnet_nnunet.files import atomic_folder, atomic_path, checksum_of, write_json
from sgnet_nnunet.inference.exported import FILE_NAME, FORMAT, VERSION, open_exported
from sgnet_nnunet.inference.runtimes import import_openvino
from sgnet_nnunet.inference.torch_engines import runs_on_blocks, stage_models
from sgnet_nnunet.inference.trained_model import TrainedModel, load_trained_model
from sgnet_nnunet.networks.sgnet import SGNet

OPSET = 18  # the lowest that PyTorch's exporter writes without converting
DIVISOR = 16  # every network here takes spatial sizes that are multiples of it; SG-Net of 8 too
LARGEST_FACTOR = 64  # sizes up to DIVISOR times this are declared

TOLERANCE = 1e-3
"""Largest difference of a logit to PyTorch's that still passes; 1e-5 is usual."""

TIES = 1e-4
"""Largest share of voxels at which the finest gate may decide otherwise: its score was at the threshold."""

CHECKED_SIZE = (40, 56, 72)
"""z, y, x in voxels of the image that is compared; several blocks, the last ones cut."""


def export_onnx(network: nn.Module, path: Path, *, input_channels: int) -> float:
    """Write a network as ONNX with dynamic batch and spatial sizes, and check it with onnxruntime.

    The input is called `image`, shape (batch, input_channels, z, y, x), preprocessed as the plan says;
    the output `logits`, shape (batch, heads, z, y, x).

    The network is on the CPU, and is left in evaluation mode; the file is written whole or not at all.
    Returns the largest difference of a logit between PyTorch and onnxruntime, on two sizes.

    Raises:
        SGNetError: If the extra is not installed, or onnxruntime computes something else.
    """
    with needs_extra("onnx"):
        import onnxruntime  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415
    network.eval()
    generator = torch.Generator().manual_seed(0)
    # No axis of one voxel at the bottleneck: the exporter would take it for a constant.
    example = torch.rand(1, input_channels, 2 * DIVISOR, 3 * DIVISOR, 4 * DIVISOR, generator=generator)
    sizes = {
        axis: DIVISOR * torch.export.Dim(name, min=1, max=LARGEST_FACTOR)
        for axis, name in ((2, "z"), (3, "y"), (4, "x"))
    }
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1), **sizes},),
        input_names=["image"],
        output_names=["logits"],
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise SGNetError(f"{path}: PyTorch {torch.__version__} exported nothing; upgrade to 2.6 or newer")
    with atomic_path(path) as partial:
        program.save(str(partial), external_data=False)
        other = torch.rand(2, input_channels, DIVISOR, 2 * DIVISOR, 2 * DIVISOR, generator=generator)
        difference = max(_difference(network, partial, image) for image in (example, other))
        if not difference <= TOLERANCE:
            raise SGNetError(
                f"{path}: onnxruntime's logits differ from PyTorch's by {difference:.2g}, more than "
                f"{TOLERANCE:g}; nothing was written, please report it with your versions of both"
            )
    return difference


def _difference(network: nn.Module, path: Path, image: torch.Tensor) -> float:
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": image.numpy()})
    with torch.inference_mode():
        expected = network(image).numpy()
    return float(np.abs(logits - expected).max())


def export_openvino(
    model_folder: Path, output: Path, *, folds: Sequence[str], checkpoint: str = "checkpoint_final.pth"
) -> float:
    """Write a trained model for OpenVINO, with nnU-Net's files next to the networks.

    The folder `output` is written whole or not at all; it must not exist yet, or be empty. Returns the
    largest difference of a logit to PyTorch's.

    Raises:
        InputFileError: If the weights are not there, or the folder is in use.
        SGNetError: If OpenVINO is not installed, the network is another one than an SG-Net, or what was
            written computes something else.
    """
    openvino = import_openvino()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputFileError(output, "is there already", "name another folder by -o, or delete it")
    networks: dict[str, SGNet] = {}
    checksums: dict[str, str] = {}
    with atomic_folder(output) as partial:
        for fold in folds:
            trained = load_trained_model(model_folder, folds=(fold,), checkpoint=checkpoint)
            if not runs_on_blocks(trained.network):
                raise SGNetError(
                    f"{type(trained.network).__name__} is not an SG-Net of three or more levels; write it as "
                    "ONNX (-o model.onnx), or predict with the trained model itself"
                )
            networks[fold] = trained.network
            checksums[fold] = checksum_of(trained.checkpoints[fold])
            target = partial / f"fold_{fold}"
            target.mkdir()
            for name, stage in stage_models(trained.network).items():
                openvino.save_model(stage, str(target / f"{name}.xml"), compress_to_fp16=False)
        _describe(partial, trained, networks=networks, checksums=checksums)
        return max(_check(network, partial, fold) for fold, network in networks.items())


def _describe(
    folder: Path, trained: TrainedModel, *, networks: dict[str, SGNet], checksums: dict[str, str]
) -> None:
    """Write `export.json`, and copy the files of nnU-Net and `sgnet tune` that describe the model."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": name_of_model(trained.folder),
        "configuration": trained.configuration,
        "mirroring_axes": list(trained.mirroring_axes),
        "background_head": next(iter(networks.values())).background_head,
        "folds": {fold: network.geometry.as_dict() for fold, network in networks.items()},
        "weights_sha256": checksums,
    }
    write_json(folder / FILE_NAME, content)
    for name in ("plans.json", "dataset.json", OPERATING_POINT):
        if (trained.folder / name).is_file():
            shutil.copy(trained.folder / name, folder / name)


def _check(network: SGNet, folder: Path, fold: str) -> float:
    """Return the largest difference of a logit to PyTorch's; an SGNetError if too large, or gates differ."""
    generator = torch.Generator().manual_seed(0)
    engine = open_exported(folder, folds=(fold,))
    coarse = torch.rand(1, engine.channels, *(length // 8 for length in CHECKED_SIZE), generator=generator)
    # Smooth, with a detail of one voxel: neither a constant image nor noise opens gates as a brain does.
    image = F.interpolate(coarse, size=CHECKED_SIZE, mode="trilinear")
    image = (image + 0.1 * torch.rand(image.shape, generator=generator)).clamp(0, 1)
    with torch.inference_mode():
        expected = network.eval()(image)[0].numpy()
    logits = engine.logits(image[0].numpy())
    background = np.asarray(network.geometry.background, dtype=np.float32)[:, None, None, None]
    closed, expected_closed = ((each == background).all(axis=0) for each in (logits, expected))
    difference = float(np.abs(logits - expected)[:, closed == expected_closed].max())
    ties = float((closed != expected_closed).mean())
    if not difference <= TOLERANCE or ties > TIES:
        raise SGNetError(
            f"{folder.name}: OpenVINO's logits differ from PyTorch's by {difference:.2g} (at most "
            f"{TOLERANCE:g} is allowed), its gates at {ties:.2%} of the voxels; nothing was written, please "
            "report it with your versions of both"
        )
    return difference
