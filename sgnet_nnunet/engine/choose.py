"""Which engine and runtime a network gets."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sgnet_nnunet.engine.dense import DenseEngine, is_fully_convolutional, torch_run
from sgnet_nnunet.engine.engine import Engine, Ensemble
from sgnet_nnunet.engine.openvino_runtime import OpenVINORuntime, Precision
from sgnet_nnunet.engine.precision import at_precision
from sgnet_nnunet.engine.slabs import SlabEngine
from sgnet_nnunet.engine.staged import StagedEngine
from sgnet_nnunet.engine.stages import can_be_staged, describe, stages_of
from sgnet_nnunet.engine.torch_runtime import TorchRuntime
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.networks.sgnet import SGNet

logger = logging.getLogger(__name__)


def build_engine(
    network: nn.Module,
    weights: Sequence[Mapping[str, Tensor]],
    *,
    wanted: str = "auto",
    runtime: str = "auto",
    precision: str = "f32",
    device: torch.device,
    max_memory: int | None = None,
) -> Engine | None:
    """Return the engine for a network, or None for nnU-Net's sliding window (`tiled`).

    `auto` takes the fastest that changes nothing: `sparse` where the gates allow it, else `whole` for a
    network whose logits do not depend on the size of what it is shown, else `tiled`.

    Args:
        network: The network.
        weights: Weights of one or more folds; their logits are averaged.
        wanted: `tiled`, `whole`, `sparse` or `auto`.
        runtime: `torch`, `openvino` or `auto`, which is OpenVINO on a CPU if it is installed.
        precision: What OpenVINO computes in; see `precision.at_precision`.
        device: Where to compute.
        max_memory: Bytes that the process may take in all; None for what is free.

    Raises:
        SGNetError: If the network, or this machine, does not allow what is wanted.
    """
    engine = _engine_for(network, wanted, device)
    if engine == "tiled":
        if runtime == "openvino" or precision != "f32":
            raise SGNetError(
                "the tiled engine is nnU-Net's own and runs in PyTorch; leave out --runtime and --precision, "
                "or choose --engine whole"
            )
        logger.info("engine: tiled (nnU-Net's sliding window), runtime: torch")
        return None
    runtime = _runtime_for(runtime, device)
    if precision != "f32" and runtime != "openvino":
        raise SGNetError(
            f"--precision {precision} needs --runtime openvino (pip install 'sgnet-nnunet[cpu]') on a CPU"
        )
    logger.info("engine: %s, runtime: %s on %s, precision: %s", engine, runtime, device.type, precision)
    folds: list[Engine] = []
    for one in weights:
        network.load_state_dict(dict(one))
        build = partial(_build, network.eval(), engine, runtime, device, max_memory)
        background_head = getattr(network, "background_head", True)
        folds.append(at_precision(precision, build, background_head=background_head))
    return folds[0] if len(folds) == 1 else Ensemble(folds)


def _engine_for(network: nn.Module, wanted: str, device: torch.device) -> str:
    name = type(network).__name__
    whole = is_fully_convolutional(network)
    sparse = isinstance(network, SGNet) and can_be_staged(network) and describe(network).can_skip
    if wanted == "auto":
        return "sparse" if sparse and device.type == "cpu" else "whole" if whole else "tiled"
    if wanted == "whole" and not whole:
        raise SGNetError(
            f"--engine whole: what {name} says of a voxel depends on the size of the tile (its norms do); "
            "use --engine tiled"
        )
    if wanted == "sparse" and not sparse:
        raise SGNetError(
            f"--engine sparse: {name} has no nested admission gate at every level of its decoder; "
            "use --engine auto"
        )
    if wanted == "sparse" and device.type != "cpu":
        raise SGNetError(f"--engine sparse runs on the CPU, not on {device.type}; use --engine whole there")
    return wanted


def _runtime_for(wanted: str, device: torch.device) -> str:
    if wanted == "openvino" and device.type != "cpu":
        raise SGNetError(f"--runtime openvino runs on the CPU, not on {device.type}; use --runtime torch")
    if wanted != "auto":
        return wanted
    return "openvino" if device.type == "cpu" and find_spec("openvino") else "torch"


def _build(
    network: nn.Module,
    engine: str,
    runtime: str,
    device: torch.device,
    max_memory: int | None,
    precision: Precision,
) -> Engine:
    if device.type == "cpu" and isinstance(network, SGNet) and can_be_staged(network):
        if runtime == "torch":
            stages: TorchRuntime | OpenVINORuntime = TorchRuntime(stages_of(network))
        else:
            from sgnet_nnunet.engine.convert import staged_models  # noqa: PLC0415

            stages = OpenVINORuntime(staged_models(network), precision=precision)
        staged = StagedEngine(describe(network), stages, skip=engine == "sparse")
        return SlabEngine(staged, max_memory=max_memory)
    channels, heads = _channels_and_heads(network)
    run = torch_run(network, device) if runtime == "torch" else _openvino_run(network, channels, precision)
    return DenseEngine(run, channels=channels, heads=heads)


def _openvino_run(
    network: nn.Module, channels: int, precision: Precision
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    from sgnet_nnunet.engine.convert import to_openvino  # noqa: PLC0415

    example = (torch.zeros(1, channels, 64, 64, 64),)
    model = to_openvino(network, example, [[1, channels, -1, -1, -1]])
    stage = OpenVINORuntime({"network": model}, precision=precision).whole_stage("network")
    return lambda image: stage(image)[0]


def _channels_and_heads(network: nn.Module) -> tuple[int, int]:
    """Return a network's channels and heads, from its first and last convolution."""
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv3d)]
    return convolutions[0].in_channels, convolutions[-1].out_channels
