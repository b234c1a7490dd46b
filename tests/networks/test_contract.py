"""What every network keeps to, whatever its inside: one contract, a few lines a network."""

import io

import pytest
import torch

from sgnet_nnunet.networks.baselines import build_attention_unet, build_unet
from sgnet_nnunet.networks.sgnet import SGNet

LOSS_SCALE = 2.0**16
"""PyTorch's GradScaler starts with it."""


class NetworkContract:
    """Subclass with `parameters` (two channels in, one class out) and `build`."""

    parameters: int

    @staticmethod
    def build(channels: int, heads: int) -> torch.nn.Module:
        raise NotImplementedError

    def test_parameter_count_is_the_published_one(self):
        assert sum(p.numel() for p in self.build(2, 1).parameters()) == self.parameters

    @pytest.mark.parametrize(("channels", "heads"), [(1, 1), (2, 2), (4, 3)])
    def test_output_has_one_channel_a_head_on_the_grid_of_the_image(self, channels, heads):
        logits = self.build(channels, heads).eval()(torch.rand(1, channels, 16, 32, 48))
        assert logits.shape == (1, heads, 16, 32, 48)

    def test_every_parameter_gets_a_finite_gradient(self):
        torch.manual_seed(0)
        network = self.build(2, 2)
        network(torch.rand(2, 2, 16, 32, 32)).square().mean().backward()
        missing = [
            name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()
        ]
        assert missing == []

    def test_saved_weights_give_the_same_output(self):
        torch.manual_seed(0)
        image = torch.rand(1, 2, 16, 32, 32)
        network, copy = self.build(2, 2).eval(), self.build(2, 2).eval()
        file = io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        copy.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(network(image), copy(image))

    def test_half_precision_gives_finite_logits_and_scaled_gradients(self):
        torch.manual_seed(0)
        network = self.build(2, 2)
        with torch.autocast("cpu", dtype=torch.float16):  # what a T4 trains in
            logits = network(torch.rand(1, 2, 16, 32, 32))
        assert logits.dtype == torch.float16
        assert logits.isfinite().all()
        (LOSS_SCALE * logits.float().square().mean()).backward()
        assert all(p.grad.isfinite().all() for p in network.parameters())


class TestSGNet(NetworkContract):
    # 668,673 of the released, ungated network, and 124 of the three gates.
    parameters = 668_797

    @staticmethod
    def build(channels, heads):
        return SGNet(channels, heads)


class TestUngatedSGNet(NetworkContract):
    parameters = 668_673

    @staticmethod
    def build(channels, heads):
        return SGNet(channels, heads, gate="none")


class TestUNet(NetworkContract):
    parameters = 1_979_177

    @staticmethod
    def build(channels, heads):
        return build_unet(channels, heads)


class TestResUNet(NetworkContract):
    parameters = 4_806_398

    @staticmethod
    def build(channels, heads):
        return build_unet(channels, heads, residual_units=2)


class TestAttentionUNet(NetworkContract):
    parameters = 5_909_545

    @staticmethod
    def build(channels, heads):
        return build_attention_unet(channels, heads)
