"""Dice plus binary cross-entropy, for labels and regions alike."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sgnet_nnunet.training.overlap import EVEN, build_overlap_loss


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


class Comparison(NamedTuple):
    """Logits and truth of each foreground channel, ready for a sigmoid.

    Attributes:
        odds: Log-odds of each foreground class or region, shape (batch, channels, z, y, x).
        truth: 0 or 1, same shape.
        mask: 1 where the label counts, shape (batch, 1, z, y, x); None if it does everywhere.
    """

    odds: Tensor
    truth: Tensor
    mask: Tensor | None


class ForegroundLoss(nn.Module):
    """A loss over the foreground channels, computed in single precision.

    With labels, the logits are a softmax's and the channels are the foreground classes through
    their log-odds; with regions, the logits are the sigmoids' own. Sums over a patch overflow half
    precision.

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
            return self.compare(Comparison(odds, *split))

    def compare(self, comparison: Comparison) -> Tensor:
        """Return the loss of the foreground channels."""
        raise NotImplementedError

    def _split_regions(self, target: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.ignore_label is None:
            return target.float(), None
        return target[:, :-1].float(), 1 - target[:, -1:].float()

    def _one_hot(self, target: Tensor, foreground: int) -> tuple[Tensor, Tensor | None]:
        classes = torch.arange(1, foreground + 1, device=target.device, dtype=target.dtype)
        truth = (target == classes.view(1, -1, 1, 1, 1)).float()
        return truth, None if self.ignore_label is None else (target != self.ignore_label).float()


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

    def compare(self, comparison: Comparison) -> Tensor:
        """Return the loss of the foreground channels."""
        odds, truth, mask = comparison
        entropy = F.binary_cross_entropy_with_logits(odds, truth, reduction="none")
        if mask is None:
            return self.overlap(odds, truth) + entropy.mean()
        counted = (mask.sum() * odds.shape[1]).clamp_min(1)
        return self.overlap(odds, truth, loss_mask=mask) + (entropy * mask).sum() / counted
