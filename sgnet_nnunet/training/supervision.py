"""How admission gates learn: a loss of their own beside the segmentation's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sgnet_nnunet.networks.gates import Admission
from sgnet_nnunet.networks.sgnet import GatedOutput
from sgnet_nnunet.training.loss import ForegroundLoss

SIDE_WEIGHT = 0.5
"""Weight of each coarser level of deep supervision against the next finer one: nnU-Net's."""


@dataclass(frozen=True, kw_only=True)
class GateSupervision:
    """How the gates of a plan are trained; the plan's `gate_supervision`.

    Attributes:
        positive_weight: Weight of a voxel with foreground against one without, so that recall comes
            first.
        auxiliary_weight: Weight of the gates' loss, averaged over the gates, against the
            segmentation's.
        warm_up: Share of the epochs, 0 to 1, that the gates are held open for.

    Raises:
        ValueError: If a number is out of range.
    """

    positive_weight: float = 16.0
    auxiliary_weight: float = 0.5
    warm_up: float = 0.8

    def __post_init__(self) -> None:
        """Refuse what would train the gates to nothing, or to the opposite."""
        if self.positive_weight <= 0 or self.auxiliary_weight < 0 or not 0 <= self.warm_up <= 1:
            msg = (
                "gate_supervision needs positive_weight > 0, auxiliary_weight >= 0 and warm_up "
                f"between 0 and 1; got {self}"
            )
            raise ValueError(msg)


def any_foreground(
    target: Tensor, *, regions: bool, ignore_label: int | None
) -> tuple[Tensor, Tensor | None]:
    """Return where there is foreground of any kind, and where the label says anything.

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


def admission_loss(
    admissions: Sequence[Admission],
    foreground: Tensor,
    *,
    positive_weight: float,
    known: Tensor | None = None,
) -> Tensor:
    """Return the gates' loss: weighted binary cross-entropy, averaged over voxels, then over gates.

    A gate's target is the foreground, max-pooled onto its grid: a voxel is to be admitted if there
    is any foreground in it. One without foreground, but with an ignored voxel, does not count.

    Args:
        admissions: Decisions with their scores, each of shape (batch, 1, z', y', x').
        foreground: Boolean, shape (batch, 1, z, y, x), each length a multiple of every z', y', x'.
        positive_weight: Weight of a voxel to be admitted.
        known: Voxels whose label counts, same shape as `foreground`; None for all.
    """
    losses = []
    for score in (admission.score for admission in admissions):
        if score is None:
            continue
        with torch.autocast(score.device.type, enabled=False):
            size = tuple(score.shape[2:])
            wanted = F.adaptive_max_pool3d(foreground.float(), size)
            weight = 1 + (positive_weight - 1) * wanted
            entropy = F.binary_cross_entropy_with_logits(score.float(), wanted, reduction="none")
            if known is None:
                losses.append((weight * entropy).mean())
                continue
            counted = torch.maximum(1 - F.adaptive_max_pool3d((~known).float(), size), wanted)
            losses.append((counted * weight * entropy).sum() / counted.sum().clamp_min(1))
    return torch.stack(losses).mean() if losses else foreground.new_zeros((), dtype=torch.float32)


class GatedLoss(nn.Module):
    """The segmentation's loss plus the gates' own.

    Args:
        segmentation: Loss of the logits.
        supervision: How the gates are trained.

    Attributes:
        observer: Called with each output and its full-resolution target, while it is set.
    """

    def __init__(self, segmentation: ForegroundLoss, supervision: GateSupervision) -> None:
        super().__init__()
        self.segmentation = segmentation
        self.supervision = supervision
        self.observer: Callable[[GatedOutput, Tensor], None] | None = None

    def forward(self, output: GatedOutput, targets: Sequence[Tensor]) -> Tensor:
        """Return the loss, a scalar.

        Args:
            output: What `SGNet` returns with `return_gates`.
            targets: nnU-Net's list of targets, the first at full resolution, each further one at that
                of the side logits.
        """
        target = targets[0]
        if self.observer is not None:
            self.observer(output, target)
        loss = self._segmentation_loss((output.logits, *output.side_logits), targets)
        foreground, known = any_foreground(
            target, regions=self.segmentation.regions, ignore_label=self.segmentation.ignore_label
        )
        supervision = self.supervision
        return loss + supervision.auxiliary_weight * admission_loss(
            output.admissions, foreground, positive_weight=supervision.positive_weight, known=known
        )

    def _segmentation_loss(self, logits: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        weights = [SIDE_WEIGHT**level for level in range(len(logits))]
        levels = zip(weights, logits, targets, strict=True)
        return torch.stack([w * self.segmentation(lo, target) for w, lo, target in levels]).sum() / sum(
            weights
        )
