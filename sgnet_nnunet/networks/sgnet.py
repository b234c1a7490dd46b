"""SG-Net: a small 3D U-Net whose decoder is computed only where its gates are open.

The network is made of three stages: `stem`, the encoder's first two levels; `deep`, the levels below; and
`decoder`, one block a level. `SGNet.forward` runs them on a whole batch. The block-sparse engine
(`inference.sparse`) runs the same stages on blocks of one image: a block comes with a halo and its
convolutions take no padding (`padding=0`).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import fuse_conv_bn_eval

from sgnet_nnunet import former_names
from sgnet_nnunet.networks import whole_image
from sgnet_nnunet.networks.gates import (
    GATES,
    HARD_GATES,
    SKIP_GATES,
    GateDecision,
    HardSpatialGate,
    on_grid_of,
)
from sgnet_nnunet.networks.geometry import NetworkGeometry


class GatedOutput(NamedTuple):
    """What `SGNet` returns while `return_gates` is set; logits are of shape (batch, num_classes, z, y, x)."""

    logits: Tensor
    decisions: tuple[GateDecision, ...]  # from the coarsest gate to the finest
    auxiliary_logits: tuple[Tensor, ...] = ()  # of the coarser decoder levels, finest first


class ConvBlock(nn.Sequential):
    """3x3x3 convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, feature: Tensor, padding: int = 1) -> Tensor:
        """Convolve a feature, (batch, in_channels, z, y, x); a padding of 0 takes a voxel off each side."""
        convolution, norm, activation = self
        if padding:
            convolved = convolution(feature)
        else:
            weight, bias = convolution.parameters()
            convolved = F.conv3d(feature, weight, bias)
        result: Tensor = activation(norm(convolved))
        return result

    def fold_norm(self) -> None:
        """Make the batch norm's running statistics part of the convolution, for inference."""
        convolution, norm, _ = self
        assert isinstance(convolution, nn.Conv3d)  # noqa: S101 - for the type checker
        assert isinstance(norm, nn.BatchNorm3d)  # noqa: S101
        self[0], self[1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()


class UpBlock(nn.Module):
    """Double the resolution, join the skip feature, convolve; a gate of `networks.gates.GATES` decides where.

    The result has as many channels as the skip feature. `gate_stride` are the voxels of this level along
    each axis that the gate decides on at once; None if there is no gate.
    """

    def __init__(
        self, coarse_channels: int, skip_channels: int, gate: str, gate_kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose3d(coarse_channels, skip_channels, kernel_size=2, stride=2)
        self.conv = ConvBlock(2 * skip_channels, skip_channels)
        self.hard_gate = HARD_GATES[gate](coarse_channels, **gate_kwargs) if gate in HARD_GATES else None
        self.skip_gate = SKIP_GATES[gate](skip_channels, **gate_kwargs) if gate in SKIP_GATES else None
        either = self.hard_gate or self.skip_gate
        self.gate_stride = None if either is None else either.STRIDE

    def forward(
        self, coarse: Tensor, skip: Tensor, parent: Tensor | None
    ) -> tuple[Tensor, GateDecision | None]:
        """Return the decoder feature on the grid of `skip`, and what the gate decided.

        `skip` has twice the resolution of `coarse`; `parent` is the coarser gate's mask, if there is one.
        """
        if self.hard_gate is None:
            return self.merge(coarse, skip)
        decision = self.hard_gate(coarse, parent)
        feature, _ = self.merge(coarse, skip, on_grid_of(decision.mask, skip))
        return feature, decision

    def merge(
        self, coarse: Tensor, skip: Tensor, mask: Tensor | None = None, padding: int = 1
    ) -> tuple[Tensor, GateDecision | None]:
        """Return the decoder feature, and what a skip gate decided.

        Args:
            coarse: The coarser decoder feature.
            skip: The encoder's feature at twice the resolution; without padding, a voxel less of it to
                each side than `coarse` has.
            mask: Where the hard spatial gate is open, on the grid of `skip`; None for everywhere.
            padding: 1 keeps the spatial size; 0 takes another voxel off each side.
        """
        if padding:
            upsampled = self.upsample(coarse)
        else:  # the padding of a transposed convolution crops
            weight, bias = self.upsample.parameters()
            upsampled = F.conv_transpose3d(coarse, weight, bias, stride=2, padding=1)
        decision = None
        if self.skip_gate is not None:
            skip, decision = self.skip_gate(skip)
        joined = torch.cat((upsampled, skip), dim=1)
        if mask is not None:
            # where(), since 0 times an infinity is NaN, and a suppressed voxel must be 0.
            joined = torch.where(mask, joined, 0)
        return self.conv(joined, padding), decision


@whole_image
class SGNet(nn.Module):
    """Encoder, bottleneck and gated decoder, one convolution a level.

    The backbone is the author's released network (`Rowzatul-2001/SGNet`): with two input
    channels, one class and no gate it has 668,673 parameters.

    Args:
        input_channels: Image channels.
        num_classes: Output heads: labels with background, or regions.
        features_per_stage: Channels from full resolution down to the bottleneck; each stage
            halves the resolution.
        gate: Name of the gate, one of `networks.gates.GATES`.
        gate_kwargs: Arguments of that gate.
        gated_levels: Decoder levels that get the gate, 0 being the coarsest; None for all.
        background_head: Whether head 0 is the background (labels, softmax) or every head a
            foreground (regions, sigmoid).
        background_logit: Log-odds of the foreground outside the finest hard spatial gate; negative.
        deep_supervision: Whether the coarser decoder levels have heads of their own to train by.

    Attributes:
        return_gates: Whether the forward pass returns a `GatedOutput` rather than the logits alone.

    Raises:
        ValueError: If there are fewer than two stages, or the gate's arguments do not fit.
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        features_per_stage: Sequence[int] = (16, 32, 64, 128),
        gate: str = "hard_spatial",
        gate_kwargs: Mapping[str, Any] | None = None,
        gated_levels: Sequence[int] | None = None,
        background_head: bool = True,
        background_logit: float = -8.0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        gate = former_names.GATES.get(gate, gate)
        levels = len(features_per_stage) - 1
        gated = range(levels) if gated_levels is None else gated_levels
        _check_arguments(levels=levels, gate=gate, gated=gated, background_logit=background_logit)
        self.input_channels = input_channels
        self.num_classes = num_classes
        self.features_per_stage = tuple(features_per_stage)
        self.background_head = background_head
        self.background_logit = background_logit
        self.return_gates = False
        self.register_load_state_dict_pre_hook(_rename_former_weights)  # type: ignore[no-untyped-call]
        widths = [input_channels, *features_per_stage]
        self.encoder = nn.ModuleList(ConvBlock(fine, coarse) for fine, coarse in pairwise(widths))
        self.pool = nn.MaxPool3d(kernel_size=2)
        self.decoder = nn.ModuleList(
            UpBlock(coarse, fine, gate if level in gated else "none", gate_kwargs or {})
            for level, (fine, coarse) in enumerate(reversed(list(pairwise(features_per_stage))))
        )
        self.head = nn.Conv3d(features_per_stage[0], num_classes, kernel_size=1)
        self.auxiliary_heads = nn.ModuleList(
            nn.Conv3d(channels, num_classes, kernel_size=1)
            for channels in (features_per_stage[1:-1] if deep_supervision else ())
        )

    @property
    def geometry(self) -> NetworkGeometry:
        """The network's sizes and gates, as an engine needs them."""
        background = [self.background_logit] * self.num_classes
        if self.background_head:
            background[0] = 0.0
        gates = [block.hard_gate for block in self.decoder if isinstance(block, UpBlock)]
        return NetworkGeometry(
            channels=self.input_channels,
            heads=self.num_classes,
            features=self.features_per_stage,
            gates=tuple(None if gate is None else gate.geometry for gate in gates),
            background=tuple(background),
        )

    @property
    def divisor(self) -> int:
        """See `networks.whole_image`."""
        return int(2 ** len(self.decoder))

    @property
    def margin(self) -> int:
        """See `networks.whole_image`."""
        return self.geometry.margin

    @property
    def gate_names(self) -> list[str]:
        """The resolution each gate decides at, such as `1/8`, from the coarsest to the finest."""
        stride_of_levels = enumerate(block.gate_stride for block in reversed(self.decoder))
        return [f"1/{2**level * stride}" for level, stride in stride_of_levels if stride is not None][::-1]

    @property
    def has_hard_gates(self) -> bool:
        """Whether any gate is a hard spatial gate, which can be bypassed."""
        return any(isinstance(module, HardSpatialGate) for module in self.modules())

    def bypass_gates(self, bypassed: bool) -> None:
        """Have every hard spatial gate open everywhere, or decide; kept in the network's state."""
        for module in self.modules():
            if isinstance(module, HardSpatialGate):
                module.bypassed.fill_(bypassed)

    def freeze_gated_norms(self) -> None:
        """Have the batch norms behind a hard spatial gate use their running statistics, until `train()`.

        A batch's own statistics would be those of the zeros outside the gate, and so follow from
        how much of the batch is open, which is a tumour's size and not what the network meets
        in a whole image.
        """
        for block in self.decoder:
            if isinstance(block, UpBlock) and block.hard_gate is not None:
                block.conv.eval()

    def forward(self, image: Tensor) -> Tensor | GatedOutput:
        """Return the logits of a batch of images, and the gates if `return_gates` is set.

        Args:
            image: Shape (batch, input_channels, z, y, x), each of z, y, x a multiple of `divisor`.

        Returns:
            Logits, shape (batch, num_classes, z, y, x); constant wherever the finest hard spatial
            gate is closed.

        Raises:
            ValueError: If a spatial size is not divisible.
        """
        size = tuple(image.shape[2:])
        if any(length % self.divisor for length in size):
            raise ValueError(f"spatial size must be divisible by {self.divisor} along each axis; got {size}")
        skips = list(self.stem(image))
        if len(self.encoder) > len(skips):
            skips += self.deep(self.pool(skips[-1]))
        feature = skips.pop()
        decisions: list[GateDecision] = []
        finest: Tensor | None = None
        levels: list[Tensor] = []
        for block in self.decoder:
            feature, decision = block(feature, skips.pop(), finest)
            levels.append(feature)
            if decision is not None:
                decisions.append(decision)
                finest = finest if decision.score is None else decision.mask
        logits = self.head(feature)
        if finest is not None:
            logits = self._close(logits, finest)
        if not self.return_gates:
            return logits
        coarser = reversed(levels[:-1]) if self.auxiliary_heads else ()
        auxiliary_logits = (head(level) for head, level in zip(self.auxiliary_heads, coarser, strict=True))
        return GatedOutput(logits, tuple(decisions), tuple(auxiliary_logits))

    def stem(self, image: Tensor, inside: Tensor | None = None, padding: int = 1) -> tuple[Tensor, Tensor]:
        """Return the encoder's features at full and at half the resolution.

        Args:
            image: Shape (batch, input_channels, z, y, x).
            inside: 1 within the whole image and 0 outside, at half the resolution: what padding of the
                second convolution would give a block that reaches beyond the image. None for 1.
            padding: 1 keeps the spatial size; 0 takes a voxel off each side of either feature.
        """
        full = self.encoder[0](image, padding)
        pooled = self.pool(full)
        return full, self.encoder[1](pooled if inside is None else pooled * inside, padding)

    def deep(self, pooled: Tensor) -> list[Tensor]:
        """Return the features below the stem's, whose last one was `pooled`, down to the bottleneck."""
        features: list[Tensor] = []
        for block in self.encoder[2:]:
            features.append(block(self.pool(features[-1]) if features else pooled))
        return features

    def _close(self, logits: Tensor, mask: Tensor) -> Tensor:
        background = torch.full_like(logits[:1, :, :1, :1, :1], self.background_logit)
        if self.background_head:
            background[:, 0] = 0
        return torch.where(on_grid_of(mask, logits), logits, background)


def _rename_former_weights(_module: nn.Module, weights: dict[str, Any], *_others: object) -> None:
    former_names.rename_weights(weights)


def _check_arguments(*, levels: int, gate: str, gated: Sequence[int], background_logit: float) -> None:
    if levels < 1:
        raise ValueError(f"features_per_stage needs two stages or more; got {levels + 1}")
    if gate not in GATES:
        raise ValueError(f"no gate is called {gate!r}; choose one of {', '.join(GATES)}")
    if not set(gated) <= set(range(levels)):
        raise ValueError(f"gated_levels must lie between 0 and {levels - 1}; got {list(gated)}")
    if background_logit >= 0:
        raise ValueError(f"background_logit must be negative; got {background_logit}")
