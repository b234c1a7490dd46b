"""Which engine a network gets, and what the engines of PyTorch compute."""

import logging
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference import EngineName, torch_engines
from sgnet_nnunet.inference.engines import finite_logits
from sgnet_nnunet.inference.runtimes import OpenVINORuntime, supports_bf16
from sgnet_nnunet.inference.sparse import BlockSparseEngine, input_shapes, stage_names
from sgnet_nnunet.inference.torch_engines import (
    DenseEngine,
    activation_memory,
    build_engine,
    free_device_memory,
    stages_of,
    torch_run,
)
from sgnet_nnunet.networks import whole_image
from sgnet_nnunet.networks.baselines import build_attention_unet, build_unet
from sgnet_nnunet.networks.sgnet import SGNet

CPU = torch.device("cpu")


@whole_image
class Registered(torch.nn.Sequential):
    """Two convolutions."""

    input_channels, num_classes, divisor, margin = 2, 2, 1, 2

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(
            torch.nn.Conv3d(2, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(4, 2, 3, padding=1)
        )


class DerivedWithPooling(SGNet):
    """A foreign subclass whose logits depend on the image's size; no layer's type tells."""

    def forward(self, image):
        return super().forward(image) + image.mean()


def batch_norm_unet():
    return UNet(3, 2, 2, channels=(4, 8), strides=(2,), norm="batch").eval()


def build(network, **options):
    return build_engine(network, [network.state_dict()], device=options.pop("device", CPU), **options)


def test_gated_network_is_run_sparsely_by_default(make_network, caplog):
    caplog.set_level(logging.INFO)
    engine = build(make_network()).engine
    assert isinstance(engine, BlockSparseEngine)
    assert engine.skip
    assert isinstance(engine.runtime, OpenVINORuntime)
    assert "engine: sparse, runtime: openvino on cpu, precision: f32" in caplog.text


def test_without_openvino_pytorch_runs_it(make_network, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(torch_engines, "find_spec", lambda _: None)
    build(make_network())
    assert "engine: sparse, runtime: torch on cpu" in caplog.text


def test_ungated_network_is_run_whole(make_network):
    assert not build(make_network(gate="none")).engine.skip


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_another_registered_network_is_run_in_one_pass(rng, smooth_image, runtime):
    network = Registered()
    engine = build(network, runtime=runtime)
    assert isinstance(engine.engine, DenseEngine)
    assert (engine.channels, engine.heads) == (2, 2)
    image = smooth_image(rng, (20, 33, 40))
    with torch.inference_mode():
        expected = network(torch.from_numpy(image)[None])[0]
    np.testing.assert_allclose(engine.logits(image), expected, atol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: build_unet(2, 2),
        lambda: build_unet(2, 2, residual_units=2),
        lambda: build_attention_unet(2, 2),
        batch_norm_unet,
        lambda: DerivedWithPooling(2, 2),
    ],
    ids=["U-Net", "ResU-Net", "Attention U-Net", "batch norms", "derived"],
)
def test_network_that_is_not_registered_is_tiled_and_refused_as_a_whole(make, caplog):
    caplog.set_level(logging.INFO)
    assert build(make()) is None
    assert "engine: tiled" in caplog.text
    with pytest.raises(SGNetError, match="is not registered as a network whose logits are independent"):
        build(make(), requested="whole")


@pytest.mark.slow
def test_compiled_network_is_the_network_it_was_made_of(make_network):
    network = make_network()
    compiled = torch.compile(network)
    assert build_engine(compiled, [network.state_dict()], device=CPU).engine.skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"requested": "sparse", "gate": "none"}, "has no nested hard spatial gate at every level"),
        ({"precision": "bf16", "runtime": "torch"}, "--precision bf16 needs --runtime openvino"),
        ({"precision": "auto"}, "--precision auto: choose f32 or bf16"),
        ({"requested": "tiled", "runtime": "openvino"}, "nnU-Net's own and runs in PyTorch"),
        ({"requested": "tiled", "precision": "bf16"}, "nnU-Net's own and runs in PyTorch"),
        ({"requested": "sparse", "device": torch.device("cuda")}, "sparse runs on the CPU, not on cuda"),
        ({"runtime": "openvino", "device": torch.device("cuda")}, "openvino runs on the CPU, not on cuda"),
    ],
    ids=str,
)
def test_what_the_network_or_the_device_does_not_allow_is_refused(
    make_network, options, message, monkeypatch
):
    monkeypatch.setattr("sgnet_nnunet.inference.runtimes.supports_bf16", lambda: True)
    network = make_network(gate=options.pop("gate", "hard_spatial"))
    with pytest.raises(SGNetError, match=message):
        build(network, **options)


def test_bf16_is_what_openvino_computes_in_or_is_refused(make_network, monkeypatch):
    if supports_bf16():
        assert build(make_network(), precision="bf16").engine.runtime._precision == "bf16"
    monkeypatch.setattr("sgnet_nnunet.inference.runtimes.supports_bf16", lambda: False)
    with pytest.raises(SGNetError, match="this CPU has no bf16"):
        build(make_network(), precision="bf16")


def test_network_given_keeps_its_weights(make_network):
    network, other = make_network(seed=0), make_network(seed=1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    build_engine(network, [other.state_dict()], device=CPU)
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in before.items())


def test_large_image_is_run_densely_in_chunks_with_the_same_logits(make_network, rng, smooth_image):
    network = make_network(features=(4, 8))
    image = smooth_image(rng, (40, 16, 20))
    whole = build(network, requested="whole", runtime="torch")
    chunked = build(network, requested="whole", runtime="torch")
    need = chunked.engine.memory
    chunked.free_memory = lambda _: 4 * 2 * 40 * 320 + 24 * 320 * (need.per_voxel + 4 * 2)
    assert chunked._thickness(image.shape) == 24 - 2 * network.margin
    np.testing.assert_allclose(chunked.logits(image), whole.logits(image), atol=1e-5)


def test_device_that_runs_out_of_memory_gets_thinner_chunks(make_network, rng, smooth_image, caplog):
    network = make_network(features=(4, 8))
    image = smooth_image(rng, (40, 16, 20))
    expected = build(network, requested="whole", runtime="torch").logits(image)
    engine = build(network, requested="whole", runtime="torch")
    seen = []
    inner = network.forward

    def forward(batch):
        seen.append(batch.shape[2])
        if batch.shape[2] > 26:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has")
        return inner(batch)

    network.forward = forward
    engine.engine.run = torch_run(network, CPU)
    np.testing.assert_allclose(engine.logits(image), expected, atol=1e-5)
    assert seen[:2] == [40, 20 + network.margin]
    assert max(seen[3:]) <= 26
    assert "out of memory; continuing with chunks" in caplog.text


def test_device_without_memory_for_any_chunk_is_told_in_one_line(make_network, rng, smooth_image):
    network = make_network(features=(4, 8))
    engine = build(network, requested="whole", runtime="torch")

    def forward(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. GPU 0 has")

    network.forward = forward
    engine.engine.run = torch_run(network, CPU)
    with pytest.raises(SGNetError, match="8 x 16 x 16 voxels: CUDA out of memory; raise --max-memory"):
        engine.logits(smooth_image(rng, (8, 16, 16)))


def test_memory_of_a_device_is_what_it_has_free_or_the_budget(monkeypatch):
    device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 3)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 10)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 200))
    free = free_device_memory(device)
    assert free(None) == 107
    assert free(50) == 47
    assert free(500) == 107


def test_memory_of_a_pass_counts_every_layer(make_network):
    network = Registered()
    # The image, and the results of two convolutions and a ReLU.
    assert activation_memory(network, CPU).per_voxel == 4 * (2 + 4 + 4 + 2)
    assert not any(module._forward_hooks for module in network.modules())
    assert activation_memory(network, torch.device("cuda")).per_logit == 0


def test_stages_take_the_shapes_that_the_engine_calls_them_with(make_network):
    network = make_network()
    assert list(stages_of(network)) == stage_names(network.geometry) == ["stem", "deep", "up2", "up1", "up0"]
    for name, stage in stages_of(network).items():
        shapes = input_shapes(network.geometry)[name]
        results = stage(*(torch.zeros([8 if length < 0 else length for length in shape]) for shape in shapes))
        assert all(len(result) == shapes[0][0] for result in results)


def test_every_name_of_an_engine_is_that_of_a_kind():
    assert set(get_args(EngineName)) == {"auto", *torch_engines.KINDS}


@pytest.mark.parametrize("engine", ["sparse", "whole"])
def test_a_weight_that_is_no_number_never_gives_a_mask(make_network, rng, smooth_image, engine):
    """It must reach the logits: a gate that it closed would make an empty mask of it."""
    image, state = smooth_image(rng, (16, 24, 24)), make_network().state_dict()
    # Those of a gate's own score open it, and hide nothing.
    names = [name for name in state if state[name].is_floating_point() and "hard_gate" not in name]
    for name in rng.choice(names, 3, replace=False):
        network = make_network()
        network.state_dict()[name].flatten()[rng.integers(state[name].numel())] = torch.nan
        opened = build(network, requested=engine, runtime="torch")
        with pytest.raises(InputFileError, match=r"a\.nii\.gz: logits: not finite"):
            finite_logits(opened, image, path=Path("a.nii.gz"))


@pytest.mark.slow
def test_openvino_refuses_weights_that_are_no_numbers(make_network, rng, smooth_image):
    """OpenVINO's maxima and minima turn NaN into numbers: it would not reach the logits."""
    network = make_network()
    names = [name for name, weights in network.state_dict().items() if weights.is_floating_point()]
    network.state_dict()[rng.choice(names)].flatten()[0] = torch.nan
    engine = build(network, runtime="openvino")
    with pytest.raises(InputFileError, match=r"(stem|deep|up\d): holds weights that are not finite"):
        engine.logits(smooth_image(rng, (16, 24, 24)))
