"""SG-Net cut into stages that a runtime runs on blocks: the PyTorch side.

A stage's convolutions take no padding: their inputs come with a halo, which is zero outside the
image as the network's own padding is, so that a block's result is the network's there. Inputs and
results have their channels last, shape (blocks, z, y, x, channels).
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import fuse_conv_bn_eval

from sgnet_nnunet.engine.description import Description, Gate
from sgnet_nnunet.networks.gates import AdmissionGate
from sgnet_nnunet.networks.sgnet import ConvBlock, SGNet, UpBlock

FEWEST_LEVELS = 3


def can_be_staged(network: nn.Module) -> bool:
    """Whether the staged engine can run a network."""
    return isinstance(network, SGNet) and len(network.encoder) >= FEWEST_LEVELS


def describe(network: SGNet) -> Description:
    """Return what the staged engine has to know of a network."""
    blocks = [block for block in network.decoder if isinstance(block, UpBlock)]
    convolutions = [_first(block) for block in network.encoder]
    background = [network.background_logit] * network.head.out_channels
    if network.background_head:
        background[0] = 0.0
    return Description(
        channels=convolutions[0].in_channels,
        heads=network.head.out_channels,
        features=tuple(convolution.out_channels for convolution in convolutions),
        gates=tuple(_gate(block.admission) for block in blocks),
        background=tuple(background),
    )


def _gate(gate: AdmissionGate | None) -> Gate | None:
    if gate is None:
        return None
    return Gate(
        score_threshold=gate.score_threshold,
        dilation=gate.dilation,
        nested=gate.nested,
        held_open=bool(gate.held_open),
    )


def stages_of(network: SGNet) -> dict[str, nn.Module]:
    """Return the stages of a network in evaluation mode, by name, its batch norms folded in."""
    network = copy.deepcopy(network).cpu().float().eval()
    scores = [block.admission for block in network.decoder if isinstance(block, UpBlock)]
    stages: dict[str, nn.Module] = {"stem": Stem(network), "deep": Deep(network, scores[0])}
    for block, score, level in zip(
        network.decoder, [*scores[1:], None], reversed(range(len(network.decoder))), strict=True
    ):
        stages[f"up{level}"] = Up(network, block, level, score)
    return {name: stage.eval().requires_grad_(requires_grad=False) for name, stage in stages.items()}


def example_inputs(description: Description) -> dict[str, tuple[Tensor, ...]]:
    """Return a small input of each stage, for what traces it."""
    features = description.features

    def zeros(length: int, channels: int) -> Tensor:
        return torch.zeros(1, length, length, length, channels)

    inputs = {
        "stem": (zeros(4 + 6, description.channels), zeros(2 + 2, 1)),
        "deep": (zeros(description.divisor, features[1]),),
    }
    for level in range(len(features) - 1):
        fine = zeros(4 + 2, features[level]) if level else zeros(4 + 4, description.channels)
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

    def __init__(self, network: SGNet, score: AdmissionGate | None) -> None:
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

    def __init__(self, network: SGNet, block: nn.Module, level: int, score: AdmissionGate | None) -> None:
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
