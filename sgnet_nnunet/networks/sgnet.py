"""SG-Net: a small 3D U-Net with hard gates on its skip connections."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from sgnet_nnunet.networks.gates import build_gate


class ConvBlock(nn.Sequential):
    """3x3x3 convolution, batch normalisation, ReLU; the spatial size stays."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )


class UpBlock(nn.Module):
    """Double the resolution, join the gated skip feature, convolve.

    Args:
        coarse_channels: Channels of the coarser decoder feature.
        skip_channels: Channels of the skip feature, and of the result.
        gate: Module that gates the skip feature.
    """

    def __init__(self, coarse_channels: int, skip_channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose3d(coarse_channels, skip_channels, kernel_size=2, stride=2)
        self.gate = gate
        self.conv = ConvBlock(2 * skip_channels, skip_channels)

    def forward(self, coarse: Tensor, skip: Tensor) -> Tensor:
        """Return the decoder feature on the grid of `skip`."""
        return self.conv(torch.cat((self.upsample(coarse), self.gate(skip)), dim=1))


class SGNet(nn.Module):
    """Encoder, bottleneck and gated decoder, one convolution a level.

    The backbone is the author's released network (`Rowzatul-2001/SGNet`): with two input
    channels, one class and no gate it has 668,673 parameters.

    Args:
        input_channels: Image channels.
        num_classes: Output heads: labels with background, or regions.
        features_per_stage: Channels from full resolution down to the bottleneck; each stage
            halves the resolution.
        gate: Name of the gate on the skip connections, a key of `networks.gates.GATES`.
        gate_kwargs: Arguments of that gate.

    Raises:
        ValueError: If there are fewer than two stages or the gate's arguments do not fit.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        features_per_stage: Sequence[int] = (16, 32, 64, 128),
        gate: str = "straight_through",
        gate_kwargs: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        if len(features_per_stage) < 2:  # noqa: PLR2004
            msg = f"features_per_stage needs two stages or more; got {list(features_per_stage)}"
            raise ValueError(msg)
        self.divisor = 2 ** (len(features_per_stage) - 1)
        widths = [input_channels, *features_per_stage]
        self.encoder = nn.ModuleList(ConvBlock(fine, coarse) for fine, coarse in pairwise(widths))
        self.pool = nn.MaxPool3d(kernel_size=2)
        self.decoder = nn.ModuleList(
            UpBlock(coarse, fine, build_gate(gate, fine, **(gate_kwargs or {})))
            for fine, coarse in reversed(list(pairwise(features_per_stage)))
        )
        self.head = nn.Conv3d(features_per_stage[0], num_classes, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of a batch of images.

        Args:
            image: Shape (batch, input_channels, z, y, x), each of z, y, x divisible by 8 (by two
                to the number of stages less one).

        Returns:
            Logits, shape (batch, num_classes, z, y, x).

        Raises:
            ValueError: If a spatial size is not divisible.
        """
        size = tuple(image.shape[2:])
        if any(length % self.divisor for length in size):
            msg = f"spatial size must be divisible by {self.divisor} along each axis; got {size}"
            raise ValueError(msg)
        feature = image
        skips: list[Tensor] = []
        for block in self.encoder:
            feature = block(self.pool(feature) if skips else feature)
            skips.append(feature)
        for block, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            feature = block(feature, skip)
        return self.head(feature)
