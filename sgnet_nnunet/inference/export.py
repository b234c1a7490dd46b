"""Export of trained models as ONNX files and as folders for OpenVINO, compared with PyTorch.

An export whose logits differ is deleted. Closed gates hide the decoder's values: each export is compared a
second time with gates partly open.
"""

import copy
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from sgnet_nnunet.errors import InputFileError, SGNetError, needs_extra
from sgnet_nnunet.files import atomic_folder, atomic_path, checksum_of, read_json, write_json
from sgnet_nnunet.inference.exported import FILE_NAME, FORMAT, VERSION, content_checksum, open_network
from sgnet_nnunet.inference.operating_point import COPY, name_of_model, point_file
from sgnet_nnunet.inference.operating_point import FILE_NAME as OPERATING_POINT
from sgnet_nnunet.inference.runtimes import import_openvino
from sgnet_nnunet.inference.torch_engines import runs_on_blocks, stage_models
from sgnet_nnunet.inference.trained_model import TrainedModel, check_weights, load_trained_model
from sgnet_nnunet.networks.gates import HardSpatialGate, on_grid_of
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.nnunet import CHECKPOINT

OPSET = 18  # the lowest that PyTorch's exporter writes without converting
DIVISOR = 16  # every network here takes spatial sizes that are multiples of it; SG-Net of 8 too
LARGEST_FACTOR = 64  # sizes up to DIVISOR times this are declared

TOLERANCE = 1e-3
"""Largest difference of a logit to PyTorch's that still passes; 1e-5 is usual."""

TIES = 1e-4
"""Largest share of voxels at which the finest gate may decide otherwise: its score was at the threshold."""

CHECKED_SIZE = (32, 64, 96)
"""z, y, x in voxels of the image that is compared; several blocks, the last ones cut."""


def export_onnx(network: nn.Module, path: Path, *, input_channels: int) -> float:
    """Write a network as ONNX with dynamic batch and spatial sizes, and check it with onnxruntime.

    The input is called `image`, shape (batch, input_channels, z, y, x), preprocessed as the plan says;
    the output `logits`, shape (batch, heads, z, y, x).

    The network is on the CPU, and is left in evaluation mode; the file is written whole or not at all.
    Returns the largest difference of a logit between PyTorch and onnxruntime, on two sizes.

    Raises:
        SGNetError: If the extra is not installed, a weight is not finite, or onnxruntime's logits differ.
    """
    check_weights(path, network.state_dict())
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
        difference = _onnx_difference(network, partial.read_bytes(), (example, other))
        if not difference <= TOLERANCE:
            raise SGNetError(
                f"{path}: onnxruntime's logits differ from PyTorch's by {difference:.2g}, more than "
                f"{TOLERANCE:g}; nothing was written, please report it with your versions of both"
            )
    return difference


def partly_open(network: Any, image: torch.Tensor) -> Iterator[Any]:  # noqa: ANN401 - modules
    """Yield copies of a network whose gates are open, on an image, around a half or 5 % of their scores.

    Each threshold is in the widest gap of a twentieth of the scores, so that rounding decides no voxel.
    """
    for share in (0.5, 0.05):
        probe = copy.deepcopy(network).eval()
        gates = (part for part in probe.modules() if isinstance(part, HardSpatialGate))
        for index, gate in enumerate(gates):
            probe.return_gates = True
            with torch.inference_mode():
                decisions = probe(image).decisions
            score = decisions[index].score
            inside = on_grid_of(decisions[index - 1].mask, score) if index else torch.ones_like(score) > 0
            scores = score[inside].unique()
            highest = scores[int((1 - share) * len(scores)) :][: len(scores) // 20 + 2]
            if len(highest) > 1:
                widest = highest.diff().argmax()
                gate.score_threshold = highest[widest : widest + 2].double().mean().item()
            probe.return_gates = False
        yield probe


def _onnx_difference(network: nn.Module, file: bytes, images: Sequence[torch.Tensor]) -> float:
    """Return the largest difference of a logit to an ONNX file's, also with the gates of `partly_open`."""
    import onnx  # noqa: PLC0415

    differences = [_difference(network, file, image) for image in images]
    for probe in partly_open(network, images[0]):
        model = onnx.load_from_string(file)
        for bias in model.graph.initializer:
            if bias.name.endswith("hard_gate.score.bias"):
                # In the file the threshold is one of many constants. Lowering the scores is the same.
                name = bias.name.removesuffix(".score.bias")
                gates: list[Any] = [each.get_submodule(name) for each in (network, probe)]
                shift = gates[0].score_threshold - gates[1].score_threshold
                values = (onnx.numpy_helper.to_array(bias) + shift).astype(np.float32)
                bias.CopyFrom(onnx.numpy_helper.from_array(values, bias.name))
        differences.append(_difference(probe, model.SerializeToString(), images[0]))
    return float(np.max(differences))


def _difference(network: nn.Module, file: bytes, image: torch.Tensor) -> float:
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": image.numpy()})
    with torch.inference_mode():
        expected = network(image).numpy()
    return float(np.abs(logits - expected).max())


def export_openvino(
    model_folder: Path,
    output: Path,
    *,
    folds: Sequence[str],
    checkpoint: str = CHECKPOINT,
    trust: bool = False,
) -> float:
    """Write a trained model for OpenVINO, with nnU-Net's files next to the networks.

    The folder `output` is written whole or not at all; it must not exist yet, or be empty. Returns the
    largest difference of a logit to PyTorch's. For `trust` see `inference.trust`.

    Raises:
        InputFileError: If the weights are not there or not finite, or the folder is in use.
        SGNetError: If OpenVINO is not installed, the network is another one than an SG-Net, or what was
            written computes something else.
    """
    openvino = import_openvino()
    if output.is_symlink() or (output.exists() and (not output.is_dir() or any(output.iterdir()))):
        raise InputFileError(output, "is there already", "name another folder by -o, or delete it")
    networks: dict[str, SGNet] = {}
    checksums: dict[str, str] = {}
    with atomic_folder(output) as partial:
        for fold in folds:
            trained = load_trained_model(model_folder, folds=(fold,), checkpoint=checkpoint, trust=trust)
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
    for name in ("plans.json", "dataset.json"):
        if (trained.folder / name).is_file():
            shutil.copy(trained.folder / name, folder / name)
    if point := point_file(trained.folder):
        tuned = read_json(point)
        write_json(folder / OPERATING_POINT, tuned.get(COPY, tuned))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": name_of_model(trained.folder),
        "configuration": trained.configuration,
        "mirroring_axes": list(trained.mirroring_axes),
        "background_head": next(iter(networks.values())).background_head,
        "folds": {fold: network.geometry.as_dict() for fold, network in networks.items()},
        "weights_sha256": checksums,
        "files_sha256": {path.relative_to(folder).as_posix(): checksum_of(path) for path in files},
    }
    content = json.loads(json.dumps(content))  # tuples become lists, as they will be read
    write_json(folder / FILE_NAME, content | {"content_sha256": content_checksum(content)})


def _check(network: SGNet, folder: Path, fold: str) -> float:
    """Return the largest difference of a logit to PyTorch's; an SGNetError if too large, or gates differ."""
    generator, channels = torch.Generator().manual_seed(0), network.input_channels
    coarse = torch.rand(1, channels, *(length // 8 for length in CHECKED_SIZE), generator=generator)
    # Smooth, with a detail of one voxel: neither a constant image nor noise opens gates as a brain does.
    image = F.interpolate(coarse, size=CHECKED_SIZE, mode="trilinear")
    image = (image + 0.1 * torch.rand(image.shape, generator=generator)).clamp(0, 1)
    engine = open_network(folder / f"fold_{fold}", network.geometry, skip=network.geometry.can_skip)
    checked = []
    for probe in (network.eval(), *partly_open(network, image)):
        engine.geometry = geometry = probe.geometry  # the same but for the thresholds
        with torch.inference_mode():
            expected = probe(image)[0].numpy()
        logits = engine.logits(image[0].numpy())
        background = np.asarray(geometry.background, dtype=np.float32)[:, None, None, None]
        closed, expected_closed = ((values == background).all(axis=0) for values in (logits, expected))
        difference = float(np.abs(logits - expected)[:, closed == expected_closed].max(initial=0))
        ties = float((closed != expected_closed).mean())
        if not difference <= TOLERANCE or ties > TIES:
            raise SGNetError(
                f"{folder.name}: OpenVINO's logits differ from PyTorch's by {difference:.2g} (at most "
                f"{TOLERANCE:g} is allowed), its gates at {ties:.2%} of the voxels; nothing was written, "
                "please report it with your versions of both"
            )
        checked.append(difference)
    return max(checked)
