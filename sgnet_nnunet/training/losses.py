"""Losses: Dice + BCE of the segmentation, with a Tversky option, and the loss of supervised gates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sgnet_nnunet.networks.gates import GateDecision
from sgnet_nnunet.networks.sgnet import GatedOutput

SMOOTH = 1e-5
"""nnU-Net's smoothing term."""

EVEN = 0.5
"""The weight of a false positive at which the Tversky loss is the Dice loss."""


class SoftTverskyLoss(nn.Module):
    """Negative Tversky index of sigmoid probabilities (Salehi et al. 2017), averaged over the channels.

    `TP / (TP + w FP + (1 - w) FN)`, which is `TP / (w P + (1 - w) T)` with P the sum of the predicted
    probabilities and T that of the reference; at w = 0.5 it is Dice.

    Args:
        false_positive_weight: w, between 0 and 1.
        batch_dice: Whether to pool the voxels of the batch.
        ddp: Whether to gather the sums over the processes, if they are pooled at all.
    """

    def __init__(self, *, false_positive_weight: float, batch_dice: bool, ddp: bool) -> None:
        super().__init__()
        self.false_positive_weight = false_positive_weight
        self.batch_dice = batch_dice
        self.ddp = ddp

    def forward(self, logits: Tensor, reference: Tensor, loss_mask: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar of -1 to 0.

        Args:
            logits: Shape (batch, channels, z, y, x).
            reference: 0 or 1, same shape.
            loss_mask: 1 where the label counts, shape (batch, 1, z, y, x); None if it does everywhere.
        """
        predicted = torch.sigmoid(logits)
        if loss_mask is not None:
            predicted, reference = predicted * loss_mask, reference * loss_mask
        true_positives, positives, expected = (
            self._sum(value) for value in (predicted * reference, predicted, reference)
        )
        weight = self.false_positive_weight
        # Doubled, so that the smoothing term has the weight that it has in nnU-Net's Dice.
        weighted = 2 * (weight * positives + (1 - weight) * expected)
        return -((2 * true_positives + SMOOTH) / (weighted + SMOOTH)).mean()

    def _sum(self, value: Tensor) -> Tensor:
        """Return the sums over the voxels, shape (batch, channels), or (channels,) if pooled."""
        sums = value.sum((2, 3, 4))
        if not self.batch_dice:
            return sums
        if self.ddp:
            sums = AllGatherGrad.apply(sums).sum(0)
        return sums.sum(0)


def build_overlap_loss(*, batch_dice: bool, ddp: bool, false_positive_weight: float = EVEN) -> nn.Module:
    """Return nnU-Net's Dice loss of sigmoid probabilities or, with another weight, Tversky's.

    Args:
        batch_dice: Whether to pool the voxels of the batch.
        ddp: Whether to gather the sums over the processes.
        false_positive_weight: Weight of a false positive voxel, a missed one weighing the rest.

    Raises:
        ValueError: If the weight is not between 0 and 1.
    """
    if not 0 < false_positive_weight < 1:
        raise ValueError(f"false_positive_weight must be between 0 and 1; got {false_positive_weight}")
    if false_positive_weight == EVEN:
        return MemoryEfficientSoftDiceLoss(
            apply_nonlin=torch.sigmoid, batch_dice=batch_dice, do_bg=True, smooth=SMOOTH, ddp=ddp
        )
    return SoftTverskyLoss(false_positive_weight=false_positive_weight, batch_dice=batch_dice, ddp=ddp)


def foreground_log_odds(logits: Tensor) -> Tensor:
    """Return each foreground class's log-odds against all the other classes.

    `z_c = logit_c - logsumexp(logit_j, j != c)`, so that `sigmoid(z_c)` is the softmax
    probability of class c; with two classes z is the difference of the two logits.

    Args:
        logits: Shape (batch, classes, ...), class 0 being the background.

    Returns:
        Log-odds of classes 1 and up, shape (batch, classes - 1, ...).
    """
    classes = range(logits.shape[1])
    return torch.stack(
        [
            logits[:, c] - torch.logsumexp(logits[:, [other for other in classes if other != c]], dim=1)
            for c in classes[1:]
        ],
        dim=1,
    )


class ForegroundChannels(NamedTuple):
    """Log-odds and reference of each foreground class or region.

    Attributes:
        log_odds: Shape (batch, channels, z, y, x).
        reference: 0 or 1, same shape.
        mask: 1 where the label counts, shape (batch, 1, z, y, x); None if it does everywhere.
    """

    log_odds: Tensor
    reference: Tensor
    mask: Tensor | None


class ForegroundLoss(nn.Module):
    """A loss over the foreground channels, computed in single precision.

    With labels, the logits are those of a softmax, and the channels are the log-odds of the foreground
    classes; with regions, each logit is that of a sigmoid. Sums over a patch overflow half precision.

    Args:
        regions: Whether the targets are regions (nnU-Net's one-hot, an ignore mask last).
        ignore_label: The label to ignore, or None.
    """

    def __init__(self, *, regions: bool, ignore_label: int | None) -> None:
        super().__init__()
        self.regions = regions
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar.

        Args:
            logits: Shape (batch, heads, z, y, x).
            target: Labels, shape (batch, 1, z, y, x); with regions one channel a region, and one
                more for the ignored voxels if there is an ignore label.
        """
        with torch.autocast(logits.device.type, enabled=False):
            odds = logits.float() if self.regions else foreground_log_odds(logits.float())
            split = self._split_regions(target) if self.regions else self._one_hot(target, odds.shape[1])
            return self.channel_loss(ForegroundChannels(odds, *split))

    def channel_loss(self, channels: ForegroundChannels) -> Tensor:
        """Return the loss of the foreground channels."""
        raise NotImplementedError

    def _split_regions(self, target: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.ignore_label is None:
            return target.float(), None
        return target[:, :-1].float(), 1 - target[:, -1:].float()

    def _one_hot(self, target: Tensor, foreground: int) -> tuple[Tensor, Tensor | None]:
        classes = torch.arange(1, foreground + 1, device=target.device, dtype=target.dtype)
        reference = (target == classes.view(1, -1, 1, 1, 1)).float()
        return reference, None if self.ignore_label is None else (target != self.ignore_label).float()


class DiceBCELoss(ForegroundLoss):
    """Sum of the soft Dice loss and the mean binary cross-entropy over the foreground channels.

    Voxels with the ignore label count in neither term.

    Args:
        regions: Whether the targets are regions (nnU-Net's one-hot, an ignore mask last).
        ignore_label: The label to ignore, or None.
        batch_dice: Whether Dice pools the voxels of the batch.
        ddp: Whether to gather Dice's sums over the processes.
        false_positive_weight: Weight of a false positive voxel in the Dice term, 0 to 1, a missed one
            weighing the rest; 0.5 is Dice, anything else a Tversky loss.

    Raises:
        ValueError: If the weight is not between 0 and 1.
    """

    def __init__(
        self,
        *,
        regions: bool,
        ignore_label: int | None,
        batch_dice: bool,
        ddp: bool = False,
        false_positive_weight: float = EVEN,
    ) -> None:
        super().__init__(regions=regions, ignore_label=ignore_label)
        self.overlap = build_overlap_loss(
            batch_dice=batch_dice, ddp=ddp, false_positive_weight=false_positive_weight
        )

    def channel_loss(self, channels: ForegroundChannels) -> Tensor:
        """Return the loss of the foreground channels."""
        odds, reference, mask = channels
        entropy = F.binary_cross_entropy_with_logits(odds, reference, reduction="none")
        if mask is None:
            return self.overlap(odds, reference) + entropy.mean()
        counted = (mask.sum() * odds.shape[1]).clamp_min(1)
        return self.overlap(odds, reference, loss_mask=mask) + (entropy * mask).sum() / counted


AUXILIARY_WEIGHT = 0.5
"""Weight of each coarser level of deep supervision against the next finer one: nnU-Net's."""


@dataclass(frozen=True, kw_only=True)
class GateSupervision:
    """How the gates of a plan are trained; the plan's `gate_supervision`.

    Attributes:
        positive_weight: Weight of a voxel with foreground against one without, so that recall comes
            first.
        auxiliary_weight: Weight of the gates' loss, averaged over the gates, against the
            segmentation's.
        warm_up: Share of the epochs, 0 to 1, for which the gates are bypassed.

    Raises:
        ValueError: If a number is out of range.
    """

    positive_weight: float = 16.0
    auxiliary_weight: float = 0.5
    warm_up: float = 0.8

    def __post_init__(self) -> None:
        """Validate the settings."""
        if self.positive_weight <= 0 or self.auxiliary_weight < 0 or not 0 <= self.warm_up <= 1:
            msg = (
                "gate_supervision needs positive_weight > 0, auxiliary_weight >= 0 and warm_up "
                f"between 0 and 1; got {self}"
            )
            raise ValueError(msg)


def any_foreground(
    target: Tensor, *, regions: bool, ignore_label: int | None
) -> tuple[Tensor, Tensor | None]:
    """Return which voxels are foreground of any kind, and whose label is known.

    Args:
        target: nnU-Net's training target: labels, shape (batch, 1, z, y, x), or regions, one
            channel each and one more for the ignored voxels if there is an ignore label.
        regions: Whether the target holds regions.
        ignore_label: The label to ignore, or None.

    Returns:
        Foreground and known voxels, boolean, shape (batch, 1, z, y, x); None if all are known.
    """
    if regions:
        if ignore_label is None:
            return target.any(1, keepdim=True), None
        return target[:, :-1].any(1, keepdim=True), target[:, -1:] == 0
    foreground = target > 0
    if ignore_label is None:
        return foreground, None
    known = target != ignore_label
    return foreground & known, known


def gate_loss(
    decisions: Sequence[GateDecision],
    foreground: Tensor,
    *,
    positive_weight: float,
    known: Tensor | None = None,
) -> Tensor:
    """Return the gates' loss: weighted binary cross-entropy, averaged over voxels, then over gates.

    A gate's target is the foreground, max-pooled onto its grid: a coarse voxel is to be kept if there is
    any foreground in it. One without foreground, but with an ignored voxel, does not count.

    Args:
        decisions: Decisions with their scores, each of shape (batch, 1, z', y', x').
        foreground: Boolean, shape (batch, 1, z, y, x), each length a multiple of every z', y', x'.
        positive_weight: Weight of a voxel to be kept.
        known: Voxels whose label counts, same shape as `foreground`; None for all.
    """
    losses = []
    for score in (decision.score for decision in decisions):
        if score is None:
            continue
        with torch.autocast(score.device.type, enabled=False):
            size = tuple(score.shape[2:])
            target = F.adaptive_max_pool3d(foreground.float(), size)
            weight = 1 + (positive_weight - 1) * target
            entropy = F.binary_cross_entropy_with_logits(score.float(), target, reduction="none")
            if known is None:
                losses.append((weight * entropy).mean())
                continue
            counted = torch.maximum(1 - F.adaptive_max_pool3d((~known).float(), size), target)
            losses.append((counted * weight * entropy).sum() / counted.sum().clamp_min(1))
    return torch.stack(losses).mean() if losses else foreground.new_zeros((), dtype=torch.float32)


class GatedLoss(nn.Module):
    """The segmentation's loss plus the gates' own.

    nnU-Net's steps call it with what the network returns and the list of targets of deep supervision.

    Args:
        segmentation: Loss of the logits.
        supervision: How the gates are trained.
    """

    def __init__(self, segmentation: ForegroundLoss, supervision: GateSupervision) -> None:
        super().__init__()
        self.segmentation = segmentation
        self.supervision = supervision

    def forward(self, output: GatedOutput, targets: Sequence[Tensor]) -> Tensor:
        """Return the loss, a scalar.

        Args:
            output: What `SGNet` returns with `return_gates`.
            targets: nnU-Net's list of targets, the first at full resolution, each further one at that
                of the auxiliary logits.

        Raises:
            TypeError: If the output has no gates: nnU-Net's training step has changed.
        """
        if not isinstance(output, GatedOutput):
            raise TypeError(
                f"the loss of a gated network needs its GatedOutput; got {type(output).__name__}. Is this a "
                "release of nnU-Net with another training step?"
            )
        target = targets[0]
        loss = self._segmentation_loss((output.logits, *output.auxiliary_logits), targets)
        foreground, known = any_foreground(
            target, regions=self.segmentation.regions, ignore_label=self.segmentation.ignore_label
        )
        supervision = self.supervision
        return loss + supervision.auxiliary_weight * gate_loss(
            output.decisions, foreground, positive_weight=supervision.positive_weight, known=known
        )

    def _segmentation_loss(self, logits: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        weights = [AUXILIARY_WEIGHT**level for level in range(len(logits))]
        levels = zip(weights, logits, targets, strict=True)
        return torch.stack([w * self.segmentation(lo, target) for w, lo, target in levels]).sum() / sum(
            weights
        )
