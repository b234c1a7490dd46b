"""What the compiler makes of SG-Net on a GPU, imitated on a CPU."""

import shutil

import pytest
import torch
from torch import nn

from sgnet_nnunet.networks.sgnet import SGNet

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")


class BiasApart(nn.Module):
    """A convolution whose bias is added on its own, so that the compiler fuses it with what follows.

    So it does on a GPU, and what is fused is not rounded to half precision in between.
    """

    def __init__(self, convolution):
        super().__init__()
        self.convolution = convolution
        self.bias = convolution.bias
        convolution.bias = None

    def forward(self, feature):
        feature = self.convolution(feature)
        return feature + self.bias.to(feature.dtype).view(1, -1, 1, 1, 1)


def set_biases_apart(network):
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, (nn.Conv3d, nn.ConvTranspose3d)):
                setattr(module, name, BiasApart(child))


def test_compiled_network_learns_in_half_precision():
    torch.manual_seed(0)
    network = SGNet(2, 2, deep_supervision=True)
    network.return_gates = True
    set_biases_apart(network)
    network.compile()
    optimizer, scaler = torch.optim.AdamW(network.parameters()), torch.GradScaler("cpu")
    image = torch.rand(1, 2, 16, 16, 16)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            output = network(image)
        scores = [admission.score for admission in output.admissions]
        tensors = (output.logits, *scores, *output.side_logits)
        losses.append(sum(tensor.float().square().mean() for tensor in tensors))
        scaler.scale(losses[-1]).backward()
        scaler.step(optimizer)
        scaler.update()
    assert losses[-1] < losses[0] / 2
