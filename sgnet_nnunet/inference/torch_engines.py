"""The engines of a trained network, which PyTorch has loaded; and its stages for OpenVINO.

`build_engine` chooses. An SG-Net on a CPU is run on blocks (`inference.sparse`), by PyTorch or OpenVINO;
another registered network, or one on a GPU, in one dense pass; everything else by nnU-Net's sliding window.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.engines import (
    BYTES,
    NOT_SPARSE,
    ChunkedEngine,
    Engine,
    MemoryNeed,
    average_of,
    free_host_memory,
)
from sgnet_nnunet.inference.runtimes import OpenVINORuntime, check_precision, import_openvino, usable_cores
from sgnet_nnunet.inference.sparse import Arrays, Blocks, BlockSparseEngine, Stage, input_shapes
from sgnet_nnunet.networks import allows_whole_image
from sgnet_nnunet.networks.sgnet import ConvBlock, SGNet, UpBlock

if TYPE_CHECKING:
    import openvino

FEWEST_LEVELS = 3  # of the encoder, for an SG-Net to be run on blocks

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

    `auto` takes the first of `KINDS` that the network and the device allow.

    Args:
        network: The network; it is copied, and its own weights stay as they are.
        weights: Weights of one or more folds; their logits are averaged.
        requested: One of `inference.EngineName`.
        runtime: `torch`, `openvino` or `auto`, which is OpenVINO on a CPU if it is installed.
        precision: What OpenVINO computes in, `f32` or `bf16`.
        device: Where to compute.
        max_memory: Bytes that may be taken in all, of the device if it is a GPU, else by the process;
            None for what is free.

    Raises:
        SGNetError: If the network, or this machine, does not allow what is requested.
    """
    network = _uncompiled(network)
    check_precision(precision)
    engine = choose_engine(network, requested, device)
    build = KINDS[engine].build
    if build is None:
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
        folds.append(build(own, runtime, precision, device, max_memory))
    return average_of(folds)


def choose_engine(network: nn.Module, requested: str, device: torch.device) -> str:
    """Return the name of the engine that `build_engine` builds: `sparse`, `whole` or `tiled`.

    Raises:
        SGNetError: If the network or the device does not allow what is requested.
    """
    network = _uncompiled(network)
    if requested == "auto":
        return next(name for name, kind in KINDS.items() if kind.why_not(network, device) is None)
    reason = KINDS[requested].why_not(network, device)
    if reason is not None:
        raise SGNetError(f"--engine {requested}: {reason}")
    return requested


def _uncompiled(network: nn.Module) -> nn.Module:
    """Return the network that nnU-Net may have compiled (`nnUNet_compile`)."""
    original: nn.Module = getattr(network, "_orig_mod", network)
    return original


def _runtime_for(requested: str, device: torch.device) -> str:
    if requested == "openvino" and device.type != "cpu":
        raise SGNetError(f"--runtime openvino runs on the CPU, not on {device.type}; use --runtime torch")
    if requested != "auto":
        return requested
    return "openvino" if device.type == "cpu" and find_spec("openvino") else "torch"


class EngineKind(NamedTuple):
    """A kind of engine.

    Attributes:
        why_not: Returns why a network cannot be run so on a device; None if it can.
        build: Returns the engine of a network with its weights, for a runtime, precision, device and
            `max_memory`; None for nnU-Net's sliding window.
    """

    why_not: Callable[[nn.Module, torch.device], str | None]
    build: Callable[[nn.Module, str, str, torch.device, int | None], Engine] | None


def _why_not_sparse(network: nn.Module, device: torch.device) -> str | None:
    if not (runs_on_blocks(network) and network.geometry.can_skip):
        return f"{type(network).__name__} {NOT_SPARSE}"
    if device.type != "cpu":
        return f"sparse runs on the CPU, not on {device.type}; use --engine whole there"
    return None


def _why_not_whole(network: nn.Module, _device: torch.device) -> str | None:
    if allows_whole_image(network):
        return None
    return (
        f"{type(network).__name__} is not registered as a network whose logits are independent of the size "
        "of its input; use --engine tiled"
    )


def _build_sparse(
    network: nn.Module,
    runtime: str,
    precision: str,
    _device: torch.device,
    max_memory: int | None,
    *,
    skip: bool = True,
) -> Engine:
    assert isinstance(network, SGNet)  # noqa: S101 - for the type checker
    if runtime == "torch":
        stages: TorchRuntime | OpenVINORuntime = TorchRuntime(stages_of(network))
    else:
        stages = OpenVINORuntime(stage_models(network), precision=precision)
    return ChunkedEngine(BlockSparseEngine(network.geometry, stages, skip=skip), max_memory=max_memory)


def _build_whole(
    network: nn.Module, runtime: str, precision: str, device: torch.device, max_memory: int | None
) -> Engine:
    if device.type == "cpu" and runs_on_blocks(network):
        return _build_sparse(network, runtime, precision, device, max_memory, skip=False)
    memory = activation_memory(network, device)
    run = torch_run(network, device) if runtime == "torch" else _openvino_run(network, precision)
    dense = DenseEngine(run, network, memory)
    return ChunkedEngine(dense, max_memory=max_memory, free_memory=free_device_memory(device))


KINDS = {
    "sparse": EngineKind(_why_not_sparse, _build_sparse),
    "whole": EngineKind(_why_not_whole, _build_whole),
    "tiled": EngineKind(lambda _network, _device: None, None),
}
"""The engines of `inference.EngineName`, the fastest first."""


def runs_on_blocks(network: nn.Module) -> TypeGuard[SGNet]:
    """Whether the block-sparse engine can run a network."""
    return type(network) is SGNet and len(network.encoder) >= FEWEST_LEVELS


class _Stage(nn.Module):
    """One stage of a network, whose inputs and results have their channels last.

    The network is no submodule: tracing would take in its other stages too.
    """

    def __init__(self, run: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.run = run

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the results, shape (blocks, z, y, x, channels)."""
        results = self.run(*(tensor.permute(0, 4, 1, 2, 3) for tensor in inputs))
        return tuple(result.permute(0, 2, 3, 4, 1) for result in results)


def stages_of(network: SGNet) -> dict[str, nn.Module]:
    """Return the stages of a network in evaluation mode, by name, its batch norms folded in."""
    network = copy.deepcopy(network).cpu().float().eval().requires_grad_(requires_grad=False)
    for block in [module for module in network.modules() if isinstance(module, ConvBlock)]:
        block.fold_norm()
    runs: dict[str, Callable[..., tuple[Tensor, ...]]] = {"stem": _stem, "deep": _deep}
    for level in reversed(range(len(network.decoder))):
        runs[f"up{level}"] = partial(_up, level=level)
    return {name: _Stage(partial(run, network)) for name, run in runs.items()}


def _stem(network: SGNet, image: Tensor, inside: Tensor) -> tuple[Tensor, ...]:
    """Return the feature at half the resolution, and that pooled to a quarter; see `SGNet.stem`.

    The image has a halo of 3 voxels, `inside` one of 1.
    """
    _, half = network.stem(image, inside, padding=0)
    return half, network.pool(half)


def _deep(network: SGNet, pooled: Tensor) -> tuple[Tensor, ...]:
    """Return the feature of each level, finest first, then the first gate's score if there is one."""
    features = network.deep(pooled)
    return (*features, *_scores(network, len(network.decoder) - 1, features[-1]))


def _up(network: SGNet, coarse: Tensor, mask: Tensor, skip: Tensor, *, level: int) -> tuple[Tensor, ...]:
    """Return the feature of a decoder level, then the next gate's score if there is one.

    The resolution is 1 / 2 ** `level`; at level 0 the result is the logits.

    Args:
        network: The network.
        coarse: With a halo of 1 voxel.
        mask: 1 where the level's gate is open, 0 elsewhere and outside the image; with a halo of 1.
        skip: The skip feature, with a halo of 1; at level 0 the image it is computed from, with one of 2.
        level: The level.
    """
    if level == 0:
        skip = network.encoder[0](skip, padding=0)
    feature, _ = _decoder_block(network, level).merge(coarse, skip, mask > 0, padding=0)
    return (network.head(feature),) if level == 0 else (feature, *_scores(network, level - 1, feature))


def _scores(network: SGNet, level: int, coarse: Tensor) -> list[Tensor]:
    gate = _decoder_block(network, level).hard_gate
    return [] if gate is None else [gate.combined_score(coarse)]


def _decoder_block(network: SGNet, level: int) -> UpBlock:
    block = network.decoder[-1 - level]
    assert isinstance(block, UpBlock)  # noqa: S101 - for the type checker
    return block


class TorchRuntime:
    """Runs the stages of `stages_of` with PyTorch; by default on all cores that this process may use."""

    def __init__(self, stages: Mapping[str, nn.Module], *, threads: int | None = None) -> None:
        self.stages = stages
        self.threads = threads or usable_cores()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Restore PyTorch's number of threads, which the stages set, when done."""
        before = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(before)

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


def stage_models(network: SGNet) -> "dict[str, openvino.Model]":
    """Return the stages of a network as models of OpenVINO, by name; an SGNetError without OpenVINO."""
    shapes = input_shapes(network.geometry)
    # Small shapes suffice to trace a stage, and are faster.
    examples = input_shapes(network.geometry, Blocks(size=(4, 4, 4), batch=1))
    return {
        name: to_openvino(stage, shapes[name], examples[name], any_length=network.divisor)
        for name, stage in stages_of(network).items()
    }


def to_openvino(
    module: nn.Module, shapes: list[list[int]], examples: list[list[int]], *, any_length: int
) -> "openvino.Model":
    """Return a module as a model of OpenVINO.

    Args:
        module: In evaluation mode, on the CPU.
        shapes: Shapes of the model's inputs; -1 for an axis of any length.
        examples: Shapes to trace the module with.
        any_length: The length of an axis of -1 in `examples`.
    """
    openvino = import_openvino()
    from openvino.frontend import FrontEndManager  # noqa: PLC0415
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: PLC0415

    example = tuple(torch.zeros([any_length if n < 0 else n for n in shape]) for shape in examples)
    # openvino.convert_model does the same, and sends telemetry.
    frontend = FrontEndManager().load_by_framework("pytorch")
    # The conversion fails where it is called with inference mode on.
    with torch.inference_mode(mode=False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # OpenVINO's decoder needs a traced module
        # Of the check of the image's size.
        warnings.filterwarnings("ignore", "Converting a tensor to a Python boolean")
        traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced, example_input=example)
        model = frontend.convert(frontend.load(decoder))
    ports = zip(model.inputs, shapes, strict=True)
    model.reshape({port: openvino.PartialShape(shape) for port, shape in ports})
    return model


Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From an image, shape (1, channels, z, y, x), to logits, (1, heads, z, y, x)."""


class DenseEngine:
    """Runs a network of `networks.whole_image` once over the whole image; `run` takes the `memory`."""

    def __init__(self, run: Run, network: Any, memory: MemoryNeed) -> None:  # noqa: ANN401 - a module
        self.run = run
        self.channels: int = network.input_channels
        self.heads: int = network.num_classes
        self.divisor: int = network.divisor
        self.margin: int = network.margin
        self.memory = memory

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of an image, shape (channels, z, y, x), as (heads, z, y, x)."""
        _, z, y, x = image.shape
        padding = [(0, 0), *((0, -length % self.divisor) for length in (z, y, x))]
        padded = np.pad(np.asarray(image, dtype=np.float32), padding)
        return self.run(padded[None])[0, :, :z, :y, :x]


def torch_run(network: nn.Module, device: torch.device) -> Run:
    """Return a function that runs a network with PyTorch, in half precision on a GPU as nnU-Net does.

    The network is moved to the device. The function raises a MemoryError if the device's memory runs out.
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


def activation_memory(network: Any, device: torch.device) -> MemoryNeed:  # noqa: ANN401 - a module
    """Return the memory that one pass of a network takes: the results of all its layers.

    That is more than are needed at once, to leave room for what the layers need while they run. The network,
    one of `networks.whole_image`, is on the CPU and in evaluation mode; it will run on the device.
    """
    floats = 0

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal floats
        floats += output.numel() if isinstance(output, Tensor) else 0

    layers = [module for module in network.modules() if not any(module.children())]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    image = torch.zeros(1, network.input_channels, *[2 * network.divisor] * 3)
    with torch.inference_mode():
        network(image)
    for hook in hooks:
        hook.remove()
    per_voxel = BYTES * (floats / image[0, 0].numel() + network.input_channels)
    # On a device, a chunk's logits are among the layers' results, and the whole image's elsewhere.
    return MemoryNeed(fixed=0, per_voxel=per_voxel, per_logit=BYTES if device.type == "cpu" else 0)


def free_device_memory(device: torch.device) -> Callable[[int | None], float]:
    """Return a function like `free_host_memory` for a device."""
    if device.type != "cuda":
        return free_host_memory

    def free(max_memory: int | None) -> float:
        taken = torch.cuda.memory_allocated(device)
        # What PyTorch has reserved and does not use is free for it too.
        available = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - taken
        return float(available if max_memory is None else min(max_memory - taken, available))

    return free


def _openvino_run(network: Any, precision: str) -> Run:  # noqa: ANN401 - a module
    shapes = [[1, network.input_channels, -1, -1, -1]]
    model = to_openvino(network, shapes, shapes, any_length=2 * network.divisor)
    stage = OpenVINORuntime({"network": model}, precision=precision).whole_stage("network")
    return lambda image: stage(image)[0]
