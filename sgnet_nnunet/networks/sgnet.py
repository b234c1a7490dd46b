"""SG-Net: a small 3D U-Net whose decoder works only where its gates admit it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sgnet_nnunet import former_names
from sgnet_nnunet.networks import whole_image
from sgnet_nnunet.networks.gates import GATES, SKIP_GATES, GateDecision, HardSpatialGate, on_grid_of
from sgnet_nnunet.networks.geometry import NetworkGeometry


class GatedOutput(NamedTuple):
    """What `SGNet` returns while `return_gates` is set.

    Attributes:
        logits: Shape (batch, num_classes, z, y, x).
        decisions: What each gate decided, from the coarsest to the finest.
        auxiliary_logits: With deep supervision, the logits of the coarser decoder levels, finest first.
    """

    logits: Tensor
    decisions: tuple[GateDecision, ...]
    auxiliary_logits: tuple[Tensor, ...] = ()


class ConvBlock(nn.Sequential):
    """3x3x3 convolution, batch normalisation, ReLU; the spatial size stays."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )


class UpBlock(nn.Module):
    """Double the resolution, join the skip feature, convolve; a gate decides where.

    Args:
        coarse_channels: Channels of the coarser decoder feature.
        skip_channels: Channels of the skip feature, and of the result.
        gate: Name of the gate, one of `networks.gates.GATES`.
        gate_kwargs: Arguments of the gate.

    Attributes:
        gate_stride: Voxels of this level along each axis that the gate decides on at once; None if
            there is no gate.
    """

    def __init__(
        self, coarse_channels: int, skip_channels: int, gate: str, gate_kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose3d(coarse_channels, skip_channels, kernel_size=2, stride=2)
        self.conv = ConvBlock(2 * skip_channels, skip_channels)
        self.hard_gate = HardSpatialGate(coarse_channels, **gate_kwargs) if gate == "hard_spatial" else None
        self.gate_stride = {"none": None, "hard_spatial": 2}.get(gate, 1)
        self.skip_gate = SKIP_GATES[gate](skip_channels, **gate_kwargs) if gate in SKIP_GATES else None

    def forward(
        self, coarse: Tensor, skip: Tensor, parent: Tensor | None
    ) -> tuple[Tensor, GateDecision | None]:
        """Return the decoder feature on the grid of `skip`, and what the gate decided.

        Args:
            coarse: The coarser decoder feature, shape (batch, coarse_channels, z, y, x).
            skip: The encoder's feature at twice the resolution.
            parent: What the coarser gate admitted, shape (batch, 1, ...); None if there is none.
        """
        upsampled = self.upsample(coarse)
        decision = None
        if self.hard_gate is not None:
            decision = self.hard_gate(coarse, parent)
            open_here = on_grid_of(decision.mask, skip)
            # where(), since 0 times an infinity would not be the zero that the gate promises.
            skip, upsampled = (torch.where(open_here, feature, 0) for feature in (skip, upsampled))
        elif self.skip_gate is not None:
            skip, decision = self.skip_gate(skip)
        return self.conv(torch.cat((upsampled, skip), dim=1)), decision


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
        """The multiple that the image's size must be along each axis, in voxels."""
        return int(2 ** len(self.decoder))

    @property
    def margin(self) -> int:
        """Voxels around a piece of an image beyond which nothing changes the piece's logits."""
        return self.geometry.margin

    @property
    def gate_names(self) -> list[str]:
        """The resolution each gate decides at, such as `1/8`, from the coarsest to the finest."""
        strides = [self.divisor // 2 ** (level + 1) for level in range(len(self.decoder))]
        return [
            f"1/{stride * block.gate_stride}"
            for stride, block in zip(strides, self.decoder, strict=True)
            if block.gate_stride is not None
        ]

    @property
    def has_hard_gates(self) -> bool:
        """Whether any gate is one that can be held open."""
        return any(isinstance(module, HardSpatialGate) for module in self.modules())

    def bypass_gates(self, held: bool) -> None:
        """Hold every hard spatial gate open, or let them decide; kept in the network's state."""
        for module in self.modules():
            if isinstance(module, HardSpatialGate):
                module.bypassed.fill_(held)

    def freeze_gated_norms(self) -> None:
        """Have the batch norms behind an hard spatial gate use their running statistics, until `train()`.

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
            image: Shape (batch, input_channels, z, y, x), each of z, y, x divisible by 8 (by two
                to the number of stages less one).

        Returns:
            Logits, shape (batch, num_classes, z, y, x); constant wherever the finest decision
            gate is closed.

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
        decisions: list[GateDecision] = []
        finest: Tensor | None = None
        levels: list[Tensor] = []
        for block, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            feature, decision = block(feature, skip, finest)
            levels.append(feature)
            if decision is not None:
                decisions.append(decision)
            if decision is not None and decision.score is not None:
                finest = decision.mask
        logits = self.head(feature)
        if finest is not None:
            logits = self._close(logits, finest)
        if not self.return_gates:
            return logits
        coarser = reversed(levels[:-1]) if self.auxiliary_heads else ()
        auxiliary_logits = (head(level) for head, level in zip(self.auxiliary_heads, coarser, strict=True))
        return GatedOutput(logits, tuple(decisions), tuple(auxiliary_logits))

    def _close(self, logits: Tensor, admitted: Tensor) -> Tensor:
        background = torch.full_like(logits[:1, :, :1, :1, :1], self.background_logit)
        if self.background_head:
            background[:, 0] = 0
        return torch.where(on_grid_of(admitted, logits), logits, background)


def _rename_former_weights(_module: nn.Module, weights: dict[str, Any], *_others: object) -> None:
    former_names.rename_weights(weights)


def _check_arguments(*, levels: int, gate: str, gated: Sequence[int], background_logit: float) -> None:
    if levels < 1:
        msg = f"features_per_stage needs two stages or more; got {levels + 1}"
        raise ValueError(msg)
    if gate not in GATES:
        msg = f"no gate is called {gate!r}; choose one of {', '.join(GATES)}"
        raise ValueError(msg)
    if not set(gated) <= set(range(levels)):
        msg = f"gated_levels must lie between 0 and {levels - 1}; got {list(gated)}"
        raise ValueError(msg)
    if background_logit >= 0:
        msg = f"background_logit must be negative; got {background_logit}"
        raise ValueError(msg)
