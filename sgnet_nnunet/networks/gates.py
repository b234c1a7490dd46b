"""Spatial gates: modules that decide for each voxel whether its features reach the decoder.

A hard spatial gate decides on the coarser decoder feature, before anything finer is computed, and
masks both the skip connection and the upsampled path. A skip gate decides on the skip feature
itself and leaves the upsampled path unchanged.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sgnet_nnunet.networks.geometry import GateGeometry

Combination = Literal["max", "mean"]


class GateDecision(NamedTuple):
    """Where a gate is open, shape (batch, 1, z, y, x), and the logits behind it; None if not supervised."""

    mask: Tensor
    score: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class GateSupervision:
    """How the gates of a plan are trained; the plan's `gate_supervision`.

    Attributes:
        positive_weight: Weight of a voxel with foreground against one without: recall comes first.
        auxiliary_weight: Weight of the gates' loss, averaged over the gates, against the segmentation's.
        warm_up: Share of the epochs, 0 to 1, for which the gates are bypassed.
        open_loss: Whether the loss at full resolution is computed within the finest hard spatial gate alone,
            Dice and BCE, so that what is outside does not dilute it. Voxels of lesions outside count, too:
            there the logit is a constant, which has no gradient, but the cost of the miss is in the loss.
            While the gates are bypassed all voxels count.
        lesion_weighted: Whether the lesions of a batch have the same total weight in a gate's loss, whatever
            their sizes, with the same sum over all of them.
        hardest_negatives: Share, above 0 and up to 1, of a gate's voxels without foreground that count in its
            loss: those with the highest BCE, such as vessels.
    """

    positive_weight: float = 16.0
    auxiliary_weight: float = 0.5
    warm_up: float = 0.8
    open_loss: bool = False
    lesion_weighted: bool = False
    hardest_negatives: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a value that is out of range, with a ValueError."""
        if not (isinstance(self.open_loss, bool) and isinstance(self.lesion_weighted, bool)):
            raise ValueError(f"open_loss and lesion_weighted must be true or false; got {self}")
        if not 0 < self.hardest_negatives <= 1:
            raise ValueError(f"hardest_negatives must be above 0 and up to 1; got {self}")
        if self.positive_weight <= 0 or self.auxiliary_weight < 0 or not 0 <= self.warm_up <= 1:
            raise ValueError(
                "gate_supervision needs positive_weight > 0, auxiliary_weight >= 0 and warm_up "
                f"between 0 and 1; got {self}"
            )


def on_grid_of(mask: Tensor, feature: Tensor) -> Tensor:
    """Return `mask`, shape (batch, 1, z, y, x), repeated onto the finer grid of `feature`."""
    return F.interpolate(mask.to(feature.dtype), size=feature.shape[2:], mode="nearest") > 0


def _check(*, channels: int, groups: int, threshold: float) -> None:
    if groups < 1 or channels % groups:
        raise ValueError(
            f"groups must divide the gated channels; got groups={groups} for {channels} channels"
        )
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1; got {threshold}")


class HardSpatialGate(nn.Module):
    """Decide from the coarser decoder feature which voxels the next level works on.

    The channels are split into groups, each is scored by a 1x1x1 convolution of its own, and the
    scores are combined into one. The gate mask is open where the sigmoid of that score exceeds
    `threshold`; it grows by `dilation` voxels and, if `nested`, stays within the coarser gate's mask.
    The mask carries no gradient: the score is trained by a loss of its own (`training.losses`).

    Voxels outside the coarser gate's mask are removed before the dilation too, so that nothing that
    is computed there can open this gate: the decoder need not be run where a gate is closed.

    Args:
        channels: Channels of the coarser decoder feature.
        groups: Number of groups; must divide `channels`.
        combine: `max`, so that one group suffices to open a voxel, or `mean`.
        threshold: Threshold on the sigmoid of the score, between 0 and 1.
        dilation: Voxels, on the coarser grid, that the mask grows by.
        nested: Whether to stay within the coarser gate's mask.
        detached: Whether the gradient of the score's loss stops at the score instead of reaching the feature.

    Raises:
        ValueError: If an argument is out of range.
    """

    STRIDE = 2  # voxels of the gated level along each axis that are decided on at once
    bypassed: Tensor

    def __init__(
        self,
        channels: int,
        *,
        groups: int = 4,
        combine: Combination = "max",
        threshold: float = 0.5,
        dilation: int = 1,
        nested: bool = True,
        detached: bool = False,
    ) -> None:
        super().__init__()
        _check(channels=channels, groups=groups, threshold=threshold)
        if combine not in {"max", "mean"}:
            raise ValueError(f"combine must be 'max' or 'mean'; got {combine!r}")
        if dilation < 0:
            raise ValueError(f"dilation must be 0 voxels or more; got {dilation}")
        self.combine = combine
        self.dilation = dilation
        self.nested = nested
        self.detached = detached
        self.score_threshold = float(torch.logit(torch.tensor(threshold, dtype=torch.float64)))
        self.score = nn.Conv3d(channels, groups, kernel_size=1, groups=groups)
        # Part of the weights, so that a checkpoint of the warm-up is used as it was validated.
        self.register_buffer("bypassed", torch.tensor(False))

    @property
    def geometry(self) -> GateGeometry:
        """The gate's settings, as an engine needs them."""
        return GateGeometry(
            score_threshold=self.score_threshold,
            dilation=self.dilation,
            nested=self.nested,
            bypassed=bool(self.bypassed),
        )

    def combined_score(self, coarse: Tensor) -> Tensor:
        """Return the gate logit of each voxel of `coarse`, shape (batch, 1, z, y, x).

        It must depend on no other voxel: the block-sparse engine computes it block by block, without margin.
        """
        scores = self.score(coarse)
        if self.combine == "mean":
            return scores.mean(1, keepdim=True)
        # Not amax(): its gradient divides by the number of scores that equal the maximum. Compiled for a
        # GPU, it compares unrounded scores with a maximum in half precision, finds none, and is NaN.
        return reduce(torch.maximum, scores.split(1, dim=1))

    def forward(self, coarse: Tensor, parent: Tensor | None = None) -> GateDecision:
        """Return the decision for the level above `coarse`, shape (batch, channels, z, y, x).

        `parent` is the coarser gate's mask, on a grid as coarse or coarser; None if there is none.
        """
        score = self.combined_score(coarse.detach() if self.detached else coarse)
        # NaN opens the gate: it must reach the logits, and not pass for background.
        mask = ~(score <= self.score_threshold)
        allowed = on_grid_of(parent, score) if self.nested and parent is not None else None
        if allowed is not None:
            mask = mask & allowed
        if self.dilation:
            width = 2 * self.dilation + 1
            mask = F.max_pool3d(mask.to(score.dtype), width, stride=1, padding=self.dilation) > 0
        if allowed is not None:
            mask = mask & allowed
        return GateDecision(mask | self.bypassed, score)


class SoftGate(nn.Module):
    """Weight channel groups of a skip feature by the sigmoid of a score: soft attention, no hard zeros.

    The `threshold` is checked but not used here, so that soft and hard gates are built alike.
    """

    STRIDE = 1
    OPEN_BIAS = 1.0  # the gate starts open: what it suppresses early in training gets no gradient

    def __init__(self, channels: int, *, groups: int = 4, threshold: float = 0.5) -> None:
        super().__init__()
        _check(channels=channels, groups=groups, threshold=threshold)
        self.groups = groups
        self.threshold = threshold
        self.score = nn.Conv3d(channels, groups, kernel_size=1, groups=groups)
        nn.init.constant_(self.score.bias, self.OPEN_BIAS)  # type: ignore[arg-type]

    def weigh(self, skip: Tensor) -> Tensor:
        """Return the weight of each group at each voxel, shape (batch, groups, z, y, x)."""
        return torch.sigmoid(self.score(skip))

    def forward(self, skip: Tensor) -> tuple[Tensor, GateDecision]:
        """Return `skip`, shape (batch, channels, z, y, x), weighted, and where any group is not zero."""
        weight = self.weigh(skip)
        grouped = torch.unflatten(skip, 1, (self.groups, -1))
        gated = (grouped * weight.unsqueeze(2)).flatten(1, 2)
        return gated, GateDecision(weight.detach().amax(1, keepdim=True) > 0)


class StraightThroughGate(SoftGate):
    """Pass or zero channel groups of a skip feature, with a straight-through gradient.

    A group passes where the sigmoid of its score exceeds `threshold`. The backward pass takes the
    sigmoid's gradient for the step's (Bengio et al. 2013, arXiv:1308.3432).
    """

    def weigh(self, skip: Tensor) -> Tensor:
        """Return which groups pass at each voxel: exactly 0 or 1, shape (batch, groups, z, y, x)."""
        probability = super().weigh(skip)
        passed = (probability > self.threshold).to(probability.dtype)
        # The bracket is an exact zero, so that the gate stays 0 or 1 in half precision too.
        return passed + (probability - probability.detach())


HARD_GATES: dict[str, type[HardSpatialGate]] = {"hard_spatial": HardSpatialGate}
"""Gates on the coarser decoder feature; `inference.sparse.decide` repeats their `forward` without PyTorch."""

SKIP_GATES: dict[str, type[SoftGate]] = {"straight_through": StraightThroughGate, "soft": SoftGate}
"""Gates on the skip feature."""

GATES = ("none", *HARD_GATES, *SKIP_GATES)
"""The names a plan can give; `none` is the network as the author released it."""
