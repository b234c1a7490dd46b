"""Soft overlap of a prediction and the truth: Dice, or Tversky where false positives are to cost more."""

import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch import Tensor, nn

SMOOTH = 1e-5
"""nnU-Net's smoothing term."""

EVEN = 0.5
"""The weight of a false positive that makes Tversky's loss Dice's."""


class SoftTverskyLoss(nn.Module):
    """Negative Tversky index of sigmoid probabilities (Salehi et al. 2017), averaged over the channels.

    `TP / (TP + w FP + (1 - w) FN)`, which is `TP / (w P + (1 - w) T)` with P the sum of the predicted
    probabilities and T that of the truth; at w = 0.5 it is Dice.

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

    def forward(self, logits: Tensor, truth: Tensor, loss_mask: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar of -1 to 0.

        Args:
            logits: Shape (batch, channels, z, y, x).
            truth: 0 or 1, same shape.
            loss_mask: 1 where the label counts, shape (batch, 1, z, y, x); None if it does everywhere.
        """
        predicted = torch.sigmoid(logits)
        if loss_mask is not None:
            predicted, truth = predicted * loss_mask, truth * loss_mask
        true_positives, positives, wanted = (
            self._sum(value) for value in (predicted * truth, predicted, truth)
        )
        weight = self.false_positive_weight
        # Twice, so that the smoothing term weighs what it does in nnU-Net's Dice.
        weighted = 2 * (weight * positives + (1 - weight) * wanted)
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
