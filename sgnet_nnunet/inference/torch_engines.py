"""SG-Net cut into stages that a runtime runs on blocks: the PyTorch side.

A stage's convolutions take no padding: their inputs come with a halo, which is zero outside the
image as the network's own padding is, so that a block's result is the network's there. Inputs and
results have their channels last, shape (blocks, z, y, x, channels).
"""

import copy
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import fuse_conv_bn_eval

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.engines import (
    BYTES,
    ChunkedEngine,
    Engine,
    Ensemble,
    MemoryNeed,
    free_host_memory,
)
from sgnet_nnunet.inference.runtimes import (
    OpenVINORuntime,
    Precision,
    checked_precision,
    import_openvino,
    usable_cores,
)
from sgnet_nnunet.inference.sparse import Arrays, BlockSparseEngine, Stage, input_shapes
from sgnet_nnunet.networks import WholeImageNetwork, allows_whole_image
from sgnet_nnunet.networks.gates import HardSpatialGate
from sgnet_nnunet.networks.geometry import NetworkGeometry
from sgnet_nnunet.networks.sgnet import ConvBlock, SGNet, UpBlock

if TYPE_CHECKING:
    import openvino

FEWEST_LEVELS = 3


def can_be_staged(network: nn.Module) -> TypeGuard[SGNet]:
    """Whether the staged engine can run a network."""
    return isinstance(network, SGNet) and len(network.encoder) >= FEWEST_LEVELS


def stages_of(network: SGNet) -> dict[str, nn.Module]:
    """Return the stages of a network in evaluation mode, by name, its batch norms folded in."""
    network = copy.deepcopy(network).cpu().float().eval()
    scores = [block.hard_gate for block in network.decoder if isinstance(block, UpBlock)]
    stages: dict[str, nn.Module] = {"stem": Stem(network), "deep": Deep(network, scores[0])}
    for block, score, level in zip(
        network.decoder, [*scores[1:], None], reversed(range(len(network.decoder))), strict=True
    ):
        stages[f"up{level}"] = Up(network, block, level, score)
    return {name: stage.eval().requires_grad_(requires_grad=False) for name, stage in stages.items()}


def example_inputs(geometry: NetworkGeometry) -> dict[str, tuple[Tensor, ...]]:
    """Return a small input of each stage, for what traces it."""
    features = geometry.features

    def zeros(length: int, channels: int) -> Tensor:
        return torch.zeros(1, length, length, length, channels)

    inputs = {
        "stem": (zeros(4 + 6, geometry.channels), zeros(2 + 2, 1)),
        "deep": (zeros(geometry.divisor, features[1]),),
    }
    for level in range(len(features) - 1):
        fine = zeros(4 + 2, features[level]) if level else zeros(4 + 4, geometry.channels)
        inputs[f"up{level}"] = (zeros(2 + 2, features[level + 1]), zeros(4 + 2, 1), fine)
    return inputs


class Stem(nn.Module):
    """The encoder's first two levels: image to the feature at half the resolution, and that pooled.

    The image has a halo of 3 voxels; `inside` tells, at half the resolution and with a halo of 1, what
    lies in the volume.
    """

    def __init__(self, network: SGNet) -> None:
        super().__init__()
        self.first, self.second = (_unpadded(network.encoder[level]) for level in (0, 1))
        self.pool = network.pool

    def forward(self, image: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Return the skip feature at half, and the input of `Deep` at a quarter of the resolution."""
        pooled = self.pool(F.relu(self.first(_channels_first(image)))) * _channels_first(inside)
        skip = F.relu(self.second(pooled))
        return _channels_last(skip), _channels_last(self.pool(skip))


class Deep(nn.Module):
    """The rest of the encoder, on a whole volume; its convolutions pad."""

    def __init__(self, network: SGNet, score: HardSpatialGate | None) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_fused(block) for block in list(network.encoder)[2:])
        self.pool = network.pool
        self.score = score

    def forward(self, pooled: Tensor) -> tuple[Tensor, ...]:
        """Return the feature of each level, finest first, then the first gate's score if there is one."""
        feature = _channels_first(pooled)
        features: list[Tensor] = []
        for convolution in self.levels:
            feature = F.relu(convolution(self.pool(feature) if features else feature))
            features.append(feature)
        scores = [] if self.score is None else [self.score.combined_score(feature)]
        return tuple(_channels_last(result) for result in (*features, *scores))


class Up(nn.Module):
    """A decoder level: the coarser feature with a halo of 1, where the gate is open, the skip feature.

    At full resolution the image, with a halo of 2, stands in for the skip feature, which is computed
    from it, and the result is the logits.
    """

    def __init__(self, network: SGNet, block: nn.Module, level: int, score: HardSpatialGate | None) -> None:
        super().__init__()
        assert isinstance(block, UpBlock)  # noqa: S101 - for the type checker
        # The padding of a transposed convolution crops: here the halo's outer voxel.
        self.upsample = copy.deepcopy(block.upsample)
        self.upsample.padding = (1, 1, 1)
        self.convolution = _unpadded(block.conv)
        self.skip_gate = block.skip_gate
        self.from_image = None if level else _unpadded(network.encoder[0])
        self.head = None if level else network.head
        self.score = score

    def forward(self, coarse: Tensor, admitted: Tensor, skip: Tensor) -> tuple[Tensor, ...]:
        """Return the feature (or the logits) of the block, then the next gate's score if there is one."""
        upsampled, fine = self.upsample(_channels_first(coarse)), _channels_first(skip)
        if self.from_image is not None:
            fine = F.relu(self.from_image(fine))
        if self.skip_gate is not None:
            fine, _ = self.skip_gate(fine)
        is_open = _channels_first(admitted) > 0
        joined = torch.cat((upsampled, fine), dim=1)
        feature = F.relu(self.convolution(torch.where(is_open, joined, torch.zeros_like(joined))))
        results = [feature if self.head is None else self.head(feature)]
        if self.score is not None:
            results.append(self.score.combined_score(feature))
        return tuple(_channels_last(result) for result in results)


def _channels_first(feature: Tensor) -> Tensor:
    return feature.permute(0, 4, 1, 2, 3)


def _channels_last(feature: Tensor) -> Tensor:
    return feature.permute(0, 2, 3, 4, 1)


def _first(block: nn.Module) -> nn.Conv3d:
    assert isinstance(block, ConvBlock)  # noqa: S101 - for the type checker
    convolution = block[0]
    assert isinstance(convolution, nn.Conv3d)  # noqa: S101
    return convolution


def _fused(block: nn.Module) -> nn.Conv3d:
    """Return the convolution of a block with its batch norm folded in."""
    convolution = _first(block)
    fused: nn.Conv3d = fuse_conv_bn_eval(convolution, block[1])  # type: ignore[index]
    return fused


def _unpadded(block: nn.Module) -> nn.Conv3d:
    convolution = _fused(block)
    convolution.padding = (0, 0, 0)
    return convolution


class TorchRuntime:
    """Runs a network's stages with PyTorch.

    Args:
        stages: From `stages.stages_of`.
        threads: Threads to compute with; None for the cores that this process may use.
    """

    def __init__(self, stages: Mapping[str, nn.Module], *, threads: int | None = None) -> None:
        self.stages = stages
        self.threads = threads or usable_cores()

    def block_stage(self, name: str) -> Stage:
        """Return a stage that computes with the thread that calls it alone."""
        return self._stage(name, threads=1)

    def whole_stage(self, name: str) -> Stage:
        """Return a stage that computes with all threads."""
        return self._stage(name, threads=self.threads)

    def _stage(self, name: str, *, threads: int) -> Stage:
        module = self.stages[name]

        def run(*inputs: NDArray[np.float32]) -> Arrays:
            # PyTorch keeps the number, and whether gradients are requested, for each thread.
            torch.set_num_threads(threads)
            with torch.inference_mode():
                results = module(*(torch.from_numpy(array) for array in inputs))
            return [result.numpy() for result in results]

        return run


def staged_models(network: SGNet) -> "dict[str, openvino.Model]":
    """Return the stages of a network as models of OpenVINO, by name.

    Raises:
        SGNetError: If OpenVINO is not installed.
    """
    geometry = network.geometry
    examples, shapes = example_inputs(geometry), input_shapes(geometry)
    return {
        name: to_openvino(stage, examples[name], shapes[name]) for name, stage in stages_of(network).items()
    }


def to_openvino(
    module: nn.Module, example: tuple[torch.Tensor, ...], shapes: list[list[int]]
) -> "openvino.Model":
    """Return a module as a model of OpenVINO.

    Args:
        module: In evaluation mode, on the CPU.
        example: Inputs to trace it with.
        shapes: Shapes of the model's inputs; -1 for an axis of any length.

    Raises:
        SGNetError: If OpenVINO is not installed.
    """
    openvino = import_openvino()
    from openvino.frontend import FrontEndManager  # noqa: PLC0415
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: PLC0415

    # openvino.convert_model does this too, and reports to its makers that it did.
    frontend = FrontEndManager().load_by_framework("pytorch")
    # The conversion fails where it is called with inference mode on.
    with torch.inference_mode(mode=False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # tracing is what OpenVINO's decoder takes
        traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced, example_input=example)
        model = frontend.convert(frontend.load(decoder))
    ports = zip(model.inputs, shapes, strict=True)
    model.reshape({port: openvino.PartialShape(shape) for port, shape in ports})
    return model


class DenseEngine:
    """Runs a network once over the whole image.

    Args:
        run: Takes an image, shape (1, channels, z, y, x), and returns logits, (1, heads, z, y, x).
        sizes: The network, for its sizes.
        memory: What `run` takes.
    """

    def __init__(
        self,
        run: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        sizes: WholeImageNetwork,
        memory: MemoryNeed,
    ) -> None:
        self.run = run
        self.channels = sizes.input_channels
        self.heads = sizes.num_classes
        self.divisor = sizes.divisor
        self.margin = sizes.margin
        self.memory = memory

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of an image, shape (channels, z, y, x), as (heads, z, y, x)."""
        _, z, y, x = image.shape
        padding = [(0, 0), *((0, -length % self.divisor) for length in (z, y, x))]
        padded = np.pad(np.asarray(image, dtype=np.float32), padding)
        return self.run(padded[None])[0, :, :z, :y, :x]


def torch_run(
    network: nn.Module, device: torch.device
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return a function that runs a network with PyTorch, in half precision on a GPU as nnU-Net does.

    Args:
        network: Moved to the device; its weights must not change afterwards.
        device: Where to compute.

    Raises:
        MemoryError: By the function, if the device runs out of memory.
    """
    network = network.to(device).eval()

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            with torch.inference_mode(), torch.autocast(device.type, enabled=device.type == "cuda"):
                logits: torch.Tensor = network(torch.from_numpy(image).to(device))
                return logits.float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            short = str(error).split(".")[0]
        # Outside of the handler, whose traceback would keep the tensors.
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise MemoryError(short)

    return run


def sizes_of(network: Any) -> WholeImageNetwork:  # noqa: ANN401 - a module, whose attributes have no types
    """Return the sizes that a network of `networks.whole_image` has."""
    sizes: WholeImageNetwork = network
    return sizes


def activation_memory(network: nn.Module, device: torch.device) -> MemoryNeed:
    """Return the memory that one pass of a network takes: the results of all its layers.

    That is more than are needed at once, to leave room for what the layers need while they run.

    Args:
        network: A `WholeImageNetwork` on the CPU, in evaluation mode.
        device: Where it will run.
    """
    floats = 0

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal floats
        floats += output.numel() if isinstance(output, Tensor) else 0

    layers = [module for module in network.modules() if not any(module.children())]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    sizes = sizes_of(network)
    image = torch.zeros(1, sizes.input_channels, *[2 * sizes.divisor] * 3)
    with torch.inference_mode():
        network(image)
    for hook in hooks:
        hook.remove()
    per_voxel = BYTES * (floats / image[0, 0].numel() + sizes.input_channels)
    # On a device, a chunk's logits are among the layers' results, and the whole image's elsewhere.
    return MemoryNeed(fixed=0, per_voxel=per_voxel, per_logit=BYTES if device.type == "cpu" else 0)


def free_device_memory(device: torch.device) -> Callable[[int | None], float]:
    """Return a function like `engines.free_host_memory` for a device."""
    if device.type != "cuda":
        return free_host_memory

    def free(max_memory: int | None) -> float:
        taken = torch.cuda.memory_allocated(device)
        # What PyTorch has reserved and does not use is free for it too.
        available = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - taken
        return float(available if max_memory is None else min(max_memory - taken, available))

    return free


logger = logging.getLogger(__name__)


def build_engine(
    network: nn.Module,
    weights: Sequence[Mapping[str, Tensor]],
    *,
    requested: str = "auto",
    runtime: str = "auto",
    precision: str = "f32",
    device: torch.device,
    max_memory: int | None = None,
) -> Engine | None:
    """Return the engine for a network, or None for nnU-Net's sliding window (`tiled`).

    `auto` takes the fastest that changes nothing: `sparse` where the gates allow it, else `whole` for a
    network that is registered for it (`networks.whole_image`), else `tiled`.

    Args:
        network: The network; it is copied, and its own weights stay as they are.
        weights: Weights of one or more folds; their logits are averaged.
        requested: `tiled`, `whole`, `sparse` or `auto`.
        runtime: `torch`, `openvino` or `auto`, which is OpenVINO on a CPU if it is installed.
        precision: What OpenVINO computes in, `f32` or `bf16`.
        device: Where to compute.
        max_memory: Bytes that may be taken in all, of the device if it is a GPU, else by the process;
            None for what is free.

    Raises:
        SGNetError: If the network, or this machine, does not allow what is requested.
    """
    # nnU-Net may have compiled it.
    network = getattr(network, "_orig_mod", network)
    precision = checked_precision(precision)
    engine = choose_engine(network, requested, device)
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
    for fold_weights in weights:
        own = copy.deepcopy(network).cpu().eval()
        own.load_state_dict(dict(fold_weights))
        folds.append(_build(own, engine, runtime, device, max_memory, precision))
    return folds[0] if len(folds) == 1 else Ensemble(folds)


def choose_engine(network: nn.Module, requested: str, device: torch.device) -> str:
    """Return the name of the engine that `build_engine` builds: `tiled`, `whole` or `sparse`.

    Raises:
        SGNetError: If the network or the device does not allow what is requested.
    """
    name = type(network).__name__
    whole = allows_whole_image(network)
    sparse = whole and can_be_staged(network) and network.geometry.can_skip
    if requested == "auto":
        return "sparse" if sparse and device.type == "cpu" else "whole" if whole else "tiled"
    if requested == "whole" and not whole:
        raise SGNetError(
            f"--engine whole: {name} is not registered as a network whose logits are independent of the "
            "size of its input; use --engine tiled"
        )
    if requested == "sparse" and not sparse:
        raise SGNetError(
            f"--engine sparse: {name} has no nested hard spatial gate at every level of its decoder; "
            "use --engine auto"
        )
    if requested == "sparse" and device.type != "cpu":
        raise SGNetError(f"--engine sparse runs on the CPU, not on {device.type}; use --engine whole there")
    return requested


def _runtime_for(requested: str, device: torch.device) -> str:
    if requested == "openvino" and device.type != "cpu":
        raise SGNetError(f"--runtime openvino runs on the CPU, not on {device.type}; use --runtime torch")
    if requested != "auto":
        return requested
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
            stages = OpenVINORuntime(staged_models(network), precision=precision)
        blocks = BlockSparseEngine(network.geometry, stages, skip=engine == "sparse")
        return ChunkedEngine(blocks, max_memory=max_memory)
    memory = activation_memory(network, device)
    run = torch_run(network, device) if runtime == "torch" else _openvino_run(network, precision)
    dense = DenseEngine(run, sizes_of(network), memory)
    return ChunkedEngine(dense, max_memory=max_memory, free_memory=free_device_memory(device))


def _openvino_run(
    network: nn.Module, precision: Precision
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    channels = sizes_of(network).input_channels
    example = (torch.zeros(1, channels, 64, 64, 64),)
    model = to_openvino(network, example, [[1, channels, -1, -1, -1]])
    stage = OpenVINORuntime({"network": model}, precision=precision).whole_stage("network")
    return lambda image: stage(image)[0]
