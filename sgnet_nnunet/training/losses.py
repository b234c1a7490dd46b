"""Losses: Dice + BCE of the segmentation, with a Tversky option, and the loss of supervised gates."""

from collections.abc import Sequence

import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sgnet_nnunet.networks.gates import GateDecision, GateSupervision
from sgnet_nnunet.networks.sgnet import GatedOutput

SMOOTH = 1e-5
"""nnU-Net's smoothing term."""

EVEN = 0.5
"""The weight of a false positive at which the Tversky loss is the Dice loss."""


class SoftTverskyLoss(nn.Module):
    """Negative Tversky index of sigmoid probabilities (Salehi et al. 2017), averaged over the channels.

    `TP / (TP + w FP + (1 - w) FN)`, which is `TP / (w P + (1 - w) T)` with P the sum of the predicted
    probabilities and T that of the reference; at w, the `false_positive_weight`, of 0.5 it is Dice. With
    `batch_dice` the voxels of the batch are pooled, and with `ddp` those of all processes, too.
    """

    def __init__(self, *, false_positive_weight: float, batch_dice: bool, ddp: bool) -> None:
        super().__init__()
        self.false_positive_weight = false_positive_weight
        self.batch_dice = batch_dice
        self.ddp = ddp

    def forward(self, logits: Tensor, reference: Tensor, loss_mask: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar of -1 to 0; for the arguments see `ForegroundLoss.channel_loss`."""
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


def foreground_log_odds(logits: Tensor) -> Tensor:
    """Return each foreground class's log-odds against all the other classes.

    `z_c = logit_c - logsumexp(logit_j, j != c)`, so that `sigmoid(z_c)` is the softmax probability of class
    c; shape (batch, classes, ...), class 0 being the background, becomes (batch, classes - 1, ...).
    """
    classes = range(logits.shape[1])
    others = [[other for other in classes if other != c] for c in classes]
    odds = [logits[:, c] - torch.logsumexp(logits[:, others[c]], dim=1) for c in classes[1:]]
    return torch.stack(odds, dim=1)


class ForegroundLoss(nn.Module):
    """A loss over the foreground channels, computed in single precision.

    With labels, the logits are those of a softmax, and the channels are the log-odds of the foreground
    classes; with regions (nnU-Net's one-hot targets, an ignore mask last), each logit is that of a sigmoid.
    Sums over a patch overflow half precision.
    """

    def __init__(self, *, regions: bool, ignore_label: int | None) -> None:
        super().__init__()
        self.regions = regions
        self.ignore_label = ignore_label

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss, a scalar, of logits of shape (batch, heads, z, y, x); see `split_target`."""
        with torch.autocast(logits.device.type, enabled=False):
            odds = logits.float() if self.regions else foreground_log_odds(logits.float())
            reference, known = split_target(target, regions=self.regions, ignore_label=self.ignore_label)
            if not self.regions:
                classes = torch.arange(1, odds.shape[1] + 1, device=target.device, dtype=target.dtype)
                reference = target == classes.view(1, -1, 1, 1, 1)
            return self.channel_loss(odds, reference.float(), None if known is None else known.float())

    def channel_loss(self, log_odds: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        """Return the loss of the foreground channels.

        Args:
            log_odds: Of each foreground class or region, shape (batch, channels, z, y, x).
            reference: 0 or 1, same shape.
            mask: 1 where the label counts, shape (batch, 1, z, y, x); None if it does everywhere.
        """
        raise NotImplementedError


class DiceBCELoss(ForegroundLoss):
    """Sum of the soft Dice loss and the mean binary cross-entropy over the foreground channels.

    Voxels with the ignore label count in neither term. With a `false_positive_weight` other than 0.5, a
    missed voxel weighing the rest, a Tversky loss takes the place of nnU-Net's Dice loss.

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
        if not 0 < false_positive_weight < 1:
            raise ValueError(f"false_positive_weight must be between 0 and 1; got {false_positive_weight}")
        self.overlap: nn.Module = SoftTverskyLoss(
            false_positive_weight=false_positive_weight, batch_dice=batch_dice, ddp=ddp
        )
        if false_positive_weight == EVEN:
            self.overlap = MemoryEfficientSoftDiceLoss(torch.sigmoid, batch_dice, smooth=SMOOTH, ddp=ddp)

    def channel_loss(self, log_odds: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        """Return the loss of the foreground channels."""
        entropy = F.binary_cross_entropy_with_logits(log_odds, reference, reduction="none")
        if mask is None:
            return self.overlap(log_odds, reference) + entropy.mean()
        counted = (mask.sum() * log_odds.shape[1]).clamp_min(1)
        return self.overlap(log_odds, reference, loss_mask=mask) + (entropy * mask).sum() / counted


AUXILIARY_WEIGHT = 0.5
"""Weight of each coarser level of deep supervision against the next finer one: nnU-Net's."""


def split_target(target: Tensor, *, regions: bool, ignore_label: int | None) -> tuple[Tensor, Tensor | None]:
    """Return nnU-Net's training target without its ignore mask, and which voxels' labels are known.

    The target has labels, shape (batch, 1, z, y, x), or a channel a region and one more for the ignored
    voxels if there is an ignore label. Known voxels: boolean, shape (batch, 1, z, y, x); None for all.
    """
    if ignore_label is None:
        return target, None
    return (target[:, :-1], target[:, -1:] == 0) if regions else (target, target != ignore_label)


def any_foreground(
    target: Tensor, *, regions: bool, ignore_label: int | None
) -> tuple[Tensor, Tensor | None]:
    """Return which voxels are foreground of any kind, and whose label is known; see `split_target`.

    Both are boolean, shape (batch, 1, z, y, x).
    """
    labels, known = split_target(target, regions=regions, ignore_label=ignore_label)
    foreground = labels.any(1, keepdim=True) if regions else labels > 0
    return foreground if known is None else foreground & known, known


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
    for score in (decision.score for decision in decisions if decision.score is not None):
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
    """

    def __init__(self, segmentation: ForegroundLoss, supervision: GateSupervision) -> None:
        super().__init__()
        self.segmentation = segmentation
        self.supervision = supervision

    def forward(self, output: GatedOutput, targets: Sequence[Tensor]) -> Tensor:
        """Return the loss, a scalar.

        The targets are nnU-Net's, the first at full resolution, each further one at that of auxiliary logits.

        Raises:
            TypeError: If the output has no gates: nnU-Net's training step has changed.
        """
        if not isinstance(output, GatedOutput):
            raise TypeError(
                f"the loss of a gated network needs its GatedOutput; got {type(output).__name__}. Is this a "
                "release of nnU-Net with another training step?"
            )
        logits = (output.logits, *output.auxiliary_logits)
        weights = [AUXILIARY_WEIGHT**level for level in range(len(logits))]
        levels = zip(weights, logits, targets, strict=True)
        losses = torch.stack([weight * self.segmentation(*level) for weight, *level in levels])
        foreground, known = any_foreground(
            targets[0], regions=self.segmentation.regions, ignore_label=self.segmentation.ignore_label
        )
        gates = gate_loss(
            output.decisions, foreground, positive_weight=self.supervision.positive_weight, known=known
        )
        return losses.sum() / sum(weights) + self.supervision.auxiliary_weight * gates
