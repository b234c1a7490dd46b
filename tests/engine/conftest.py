"""Small SG-Nets whose gates open in places, and images."""

import numpy as np
import pytest
import torch

from sgnet_nnunet.engine.stages import describe, stages_of
from sgnet_nnunet.engine.torch_runtime import TorchRuntime
from sgnet_nnunet.networks.gates import AdmissionGate
from sgnet_nnunet.networks.sgnet import SGNet

FEATURES = (4, 8, 8, 16)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def make_network():
    """Return a function that makes a network with statistics as after training."""

    def make(*, seed=0, features=FEATURES, gate="admission", open_share=0.3, heads=2, **options):
        torch.manual_seed(seed)
        options.setdefault("gate_kwargs", {"groups": 2} if gate != "none" else None)
        network = SGNet(2, heads, features_per_stage=features, gate=gate, **options)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.uniform_(-0.3, 0.3)
        network.eval()
        if gate == "admission":
            _open_gates(network, open_share)
        return network

    return make


def _open_gates(network, share):
    """Shift each gate's scores so that about a share of what it may admit is above the threshold."""
    image = _smooth_image(np.random.default_rng(1), (32, 32, 32))
    network.return_gates = True
    gates = [module for module in network.modules() if isinstance(module, AdmissionGate)]
    for index, gate in enumerate(gates):
        with torch.inference_mode():
            score = network(torch.from_numpy(image[None])).admissions[index].score
        gate.score.bias.data -= torch.quantile(score.flatten(), 1 - share).item() - gate.score_threshold
    network.return_gates = False


def _smooth_image(rng, shape, channels=2):
    """Return an image, shape (channels, z, y, x), that varies over a few voxels."""
    coarse = torch.from_numpy(rng.random((1, channels, *(max(length // 6, 2) for length in shape))))
    image = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0].numpy()
    return (image + 0.2 * rng.random(image.shape)).astype(np.float32)


def _dense_logits(network, image):
    """Return the network's own logits of an image padded with zeros, shape (heads, z, y, x)."""
    padding = [(0, 0), *((0, -length % network.divisor) for length in image.shape[1:])]
    with torch.inference_mode():
        logits = network.eval()(torch.from_numpy(np.pad(image, padding))[None])[0].numpy()
    return logits[:, : image.shape[1], : image.shape[2], : image.shape[3]]


def _torch_runtime(network):
    return TorchRuntime(stages_of(network), threads=2)


@pytest.fixture
def gated(make_network):
    network = make_network()
    return describe(network), _torch_runtime(network)


@pytest.fixture
def smooth_image():
    return _smooth_image


@pytest.fixture
def dense_logits():
    return _dense_logits


@pytest.fixture
def torch_runtime():
    return _torch_runtime
