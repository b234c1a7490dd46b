import logging

import numpy as np
import pytest
import torch
from monai.networks.nets import AttentionUnet, UNet

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference import torch_engines as choose
from sgnet_nnunet.inference.engines import Ensemble
from sgnet_nnunet.inference.runtimes import AutoPrecision, OpenVINORuntime, supports_bf16
from sgnet_nnunet.inference.torch_engines import DenseEngine, build_engine, is_fully_convolutional

CPU = torch.device("cpu")


def convolutions():
    torch.manual_seed(0)
    layers = [torch.nn.Conv3d(2, 4, 3, padding=1), torch.nn.BatchNorm3d(4), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Conv3d(4, 2, 3, padding=1)).eval()


def unet():
    return UNet(3, 2, 2, channels=(4, 8), strides=(2,)).eval()


def attention_unet():
    return AttentionUnet(3, 2, 2, channels=(4, 8), strides=(2,)).eval()


def build(network, **options):
    return build_engine(network, [network.state_dict()], device=options.pop("device", CPU), **options)


def test_gated_network_is_run_sparsely_by_itself(make_network, caplog):
    caplog.set_level(logging.INFO)
    engine = build(make_network())
    assert engine.engine.skip
    assert isinstance(engine.engine.runtime, OpenVINORuntime)
    assert "engine: sparse, runtime: openvino on cpu, precision: f32" in caplog.text


def test_without_openvino_pytorch_runs_it(make_network, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(choose, "find_spec", lambda _: None)
    build(make_network())
    assert "engine: sparse, runtime: torch on cpu" in caplog.text


def test_ungated_network_is_run_whole(make_network):
    assert not build(make_network(gate="none")).engine.skip


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_another_fully_convolutional_network_is_run_in_one_pass(rng, smooth_image, runtime):
    network = convolutions()
    engine = build(network, runtime=runtime)
    assert isinstance(engine, DenseEngine)
    assert (engine.channels, engine.heads) == (2, 2)
    image = smooth_image(rng, (20, 33, 40))
    padded = np.pad(image, [(0, 0), (0, 12), (0, 31), (0, 24)])
    with torch.inference_mode():
        expected = network(torch.from_numpy(padded)[None])[0, :, :20, :33, :40]
    np.testing.assert_allclose(engine.logits(image), expected, atol=1e-4)


@pytest.mark.parametrize("make", [unet, attention_unet])
def test_network_with_an_instance_norm_is_tiled(make, caplog):
    caplog.set_level(logging.INFO)
    assert build(make()) is None
    assert "engine: tiled" in caplog.text


def test_batch_norm_without_running_statistics_depends_on_the_tile():
    assert is_fully_convolutional(torch.nn.BatchNorm3d(2))
    assert not is_fully_convolutional(torch.nn.BatchNorm3d(2, track_running_stats=False))


@pytest.mark.parametrize("precision", ["bf16", "auto"])
def test_precision_is_what_was_asked_for(make_network, precision):
    if not supports_bf16():
        pytest.skip("this CPU has no bf16 instructions")
    assert isinstance(build(make_network(), precision=precision), AutoPrecision) == (precision == "auto")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wanted": "sparse", "gate": "none"}, "has no nested hard spatial gate at every level"),
        ({"precision": "bf16", "runtime": "torch"}, "--precision bf16 needs --runtime openvino"),
        ({"wanted": "tiled", "runtime": "openvino"}, "nnU-Net's own and runs in PyTorch"),
        ({"wanted": "tiled", "precision": "bf16"}, "nnU-Net's own and runs in PyTorch"),
        ({"wanted": "sparse", "device": torch.device("cuda")}, "sparse runs on the CPU, not on cuda"),
        ({"runtime": "openvino", "device": torch.device("cuda")}, "openvino runs on the CPU, not on cuda"),
    ],
    ids=str,
)
def test_what_the_network_or_the_device_does_not_allow_is_refused(make_network, options, message):
    network = make_network(gate=options.pop("gate", "hard_spatial"))
    with pytest.raises(SGNetError, match=message):
        build(network, **options)


def test_whole_is_refused_where_norms_depend_on_the_tile():
    with pytest.raises(SGNetError, match="depends on the size of the tile"):
        build(unet(), wanted="whole")


def test_bf16_is_refused_where_the_cpu_has_none(make_network, monkeypatch):
    monkeypatch.setattr("sgnet_nnunet.engine.precision.supports_bf16", lambda: False)
    with pytest.raises(SGNetError, match="this CPU has no bf16"):
        build(make_network(), precision="bf16")
    assert not isinstance(build(make_network(), precision="auto"), AutoPrecision)


def test_folds_are_averaged(make_network, rng, smooth_image):
    networks = [make_network(seed=seed) for seed in (0, 1)]
    image = smooth_image(rng, (16, 16, 16))
    engine = build_engine(
        networks[0], [network.state_dict() for network in networks], runtime="torch", device=CPU
    )
    assert isinstance(engine, Ensemble)
    singles = [build(make_network(seed=seed), runtime="torch").logits(image) for seed in (0, 1)]
    assert not np.array_equal(*singles)
    np.testing.assert_allclose(engine.logits(image), np.mean(singles, axis=0), atol=1e-6)
