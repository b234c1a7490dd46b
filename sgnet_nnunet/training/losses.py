"""Losses: Dice + BCE of the segmentation, with its options, and the loss of supervised gates."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from sgnet_nnunet.lesions import label_components
from sgnet_nnunet.networks.gates import GateDecision, GateSupervision, on_grid_of
from sgnet_nnunet.networks.sgnet import GatedOutput

SMOOTH = 1e-5
"""nnU-Net's smoothing term."""

EVEN = 0.5
"""The weight of a false positive at which the Tversky loss is the Dice loss."""


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Options of the segmentation's loss; the plan's `loss`. The defaults are Dice + BCE of all voxels.

    Attributes:
        bicc_weight: Weight w, 0 to 1, of `bicc_loss`: the loss is (1 - w) Dice + w BiCC + BCE.
        top_k: Share, above 0 and up to 1, of the voxels of a batch whose BCE counts: those with the highest
            (nnU-Net's `TopKLoss`). All channels are pooled.
    """

    bicc_weight: float = 0.0
    top_k: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a number that is out of range, with a ValueError."""
        if not 0 <= self.bicc_weight <= 1 or not 0 < self.top_k <= 1:
            raise ValueError(
                f"loss needs bicc_weight between 0 and 1, and top_k above 0 and up to 1; got {self}"
            )


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

    def forward(self, logits: Tensor, target: Tensor, opened: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar, of logits of shape (batch, heads, z, y, x); see `split_target`.

        With `opened`, boolean, shape (batch, 1, z, y, x), only voxels there and those of the reference count.
        """
        with torch.autocast(logits.device.type, enabled=False):
            odds = logits.float() if self.regions else foreground_log_odds(logits.float())
            reference, known = split_target(target, regions=self.regions, ignore_label=self.ignore_label)
            if not self.regions:
                classes = torch.arange(1, odds.shape[1] + 1, device=target.device, dtype=target.dtype)
                reference = target == classes.view(1, -1, 1, 1, 1)
            if opened is not None:
                opened = opened | (reference > 0).any(1, keepdim=True)
                known = opened if known is None else opened & known
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
    missed voxel weighing the rest, a Tversky loss takes the place of nnU-Net's Dice loss. For the other
    options see `LossSettings`.

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
        settings: LossSettings = LossSettings(),
    ) -> None:
        super().__init__(regions=regions, ignore_label=ignore_label)
        if not 0 < false_positive_weight < 1:
            raise ValueError(f"false_positive_weight must be between 0 and 1; got {false_positive_weight}")
        self.settings = settings
        self.overlap: nn.Module = SoftTverskyLoss(
            false_positive_weight=false_positive_weight, batch_dice=batch_dice, ddp=ddp
        )
        if false_positive_weight == EVEN:
            self.overlap = MemoryEfficientSoftDiceLoss(torch.sigmoid, batch_dice, smooth=SMOOTH, ddp=ddp)

    def channel_loss(self, log_odds: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        """Return the loss of the foreground channels."""
        entropy = F.binary_cross_entropy_with_logits(log_odds, reference, reduction="none")
        overlap: Tensor = self.overlap(log_odds, reference, loss_mask=mask)
        if weight := self.settings.bicc_weight:
            overlap = (1 - weight) * overlap + weight * bicc_loss(log_odds, reference, mask)
        if (share := self.settings.top_k) < 1:
            counting = entropy.flatten() if mask is None else entropy[mask.expand_as(entropy) > 0]
            hardest = counting.topk(
                min(counting.numel(), max(1, int(share * counting.numel()))), sorted=False
            )
            return overlap + hardest.values.sum() / max(1, hardest.values.numel())
        if mask is None:
            return overlap + entropy.mean()
        counted = (mask.sum() * log_odds.shape[1]).clamp_min(1)
        return overlap + (entropy * mask).sum() / counted


def bicc_loss(log_odds: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
    """Return the loss over bidirectional connected components (BiCC), a scalar of -1 to 0.

    The idea is that of arXiv 2609.30223, whose text was not at hand: the definition is ours. The components
    of the reference, and those of the prediction (probabilities above 0.5), have 26 neighbours a voxel. Each
    side's components divide the patch into cells: a voxel belongs to the nearest component, by the Euclidean
    distance in voxels. The loss of a cell is its negative soft Dice, over all its voxels, so that a small
    lesion counts as much as a large one.

    The cell of a predicted component may hold no voxel of the reference: the component is a false positive.
    Its Dice is 0 with any probabilities and has no gradient; the loss of this cell is the mean probability in
    the component minus 1, in -0.5 to 0. So each false positive component counts alike, whatever its size.

    The losses are averaged over the cells of a side, then over the sides that have components, then over the
    channels and patches; a channel of a patch without any component has the loss 0.

    For the arguments see `ForegroundLoss.channel_loss`; voxels that do not count are in no component, and add
    nothing to the sums of a cell.
    """
    predicted = torch.sigmoid(log_odds)
    if mask is not None:
        predicted, reference = predicted * mask, reference * mask
    pairs = zip(predicted.flatten(0, 1), reference.flatten(0, 1), strict=True)
    return torch.stack([_bicc_of_patch(*pair) for pair in pairs]).mean()


def _bicc_of_patch(predicted: Tensor, reference: Tensor) -> Tensor:
    """Return the loss of a patch of probabilities and 0 or 1, both of shape (z, y, x)."""
    sides = []
    for side in (reference, predicted):
        components = label_components((side.detach() > 0.5).cpu().numpy(), 1.0)  # noqa: PLR2004
        if components.number:
            sides.append(_loss_of_cells(predicted, reference, components.labels, components.number))
    return torch.stack(sides).mean() if sides else predicted.new_zeros(())


def _loss_of_cells(
    predicted: Tensor, reference: Tensor, components: NDArray[np.int32], number: int
) -> Tensor:
    """Return the mean loss of the cells of components, 1 to `number`, 0 outside them, shape (z, y, x)."""

    def sums(labels: NDArray[np.int32], values: Tensor) -> Tensor:
        index = torch.from_numpy(labels).to(values.device, torch.int64).flatten()
        return values.new_zeros(number + 1).index_add(0, index, values.flatten())[1:]

    cells = cells_of(components, number)
    overlap, positives, expected = (
        sums(cells, values) for values in (predicted * reference, predicted, reference)
    )
    dice = 2 * overlap / (positives + expected).clamp_min(SMOOTH)
    mean = sums(components, predicted) / sums(components, torch.ones_like(predicted))
    return torch.where(expected > 0, -dice, mean - 1).mean()


def cells_of(components: NDArray[np.int32], number: int) -> NDArray[np.int32]:
    """Return the nearest component of each voxel, shape (z, y, x); ties are broken arbitrarily.

    The components are 1 to `number`, 0 outside them; there is at least one.
    """
    if number == 1:
        return np.ones_like(components)
    nearest = ndimage.distance_transform_edt(components == 0, return_distances=False, return_indices=True)
    return np.asarray(components[tuple(nearest)])


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
    supervision: GateSupervision,
    *,
    known: Tensor | None = None,
) -> Tensor:
    """Return the gates' loss: weighted binary cross-entropy, averaged over voxels, then over gates.

    A gate's target is the foreground, max-pooled onto its grid: a coarse voxel is to be kept if there is
    any foreground in it. One without foreground, but with an ignored voxel, does not count.

    Args:
        decisions: Decisions with their scores, each of shape (batch, 1, z', y', x').
        foreground: Boolean, shape (batch, 1, z, y, x), each length a multiple of every z', y', x'.
        supervision: Weights of the voxels.
        known: Voxels whose label counts, same shape as `foreground`; None for all.
    """
    losses = []
    lesions = label_lesions(foreground) if supervision.lesion_weighted else None
    for score in (decision.score for decision in decisions if decision.score is not None):
        with torch.autocast(score.device.type, enabled=False):
            size = tuple(score.shape[2:])
            target = F.adaptive_max_pool3d(foreground.float(), size)
            weight = 1 + (supervision.positive_weight - 1) * target
            if lesions is not None:
                weight = weight * _equal_shares(F.adaptive_max_pool3d(lesions, size))
            entropy = F.binary_cross_entropy_with_logits(score.float(), target, reduction="none")
            if known is None and supervision.hardest_negatives == 1:
                losses.append((weight * entropy).mean())
                continue
            counted = torch.ones_like(target)
            if known is not None:
                counted = torch.maximum(1 - F.adaptive_max_pool3d((~known).float(), size), target)
            if supervision.hardest_negatives < 1:
                hardest = _hardest(entropy, (counted > 0) & (target == 0), supervision.hardest_negatives)
                counted = torch.maximum(hardest.float(), target)
            losses.append((counted * weight * entropy).sum() / counted.sum().clamp_min(1))
    return torch.stack(losses).mean() if losses else foreground.new_zeros((), dtype=torch.float32)


def label_lesions(foreground: Tensor) -> Tensor:
    """Return the number of each voxel's lesion, from 1 across the batch, 0 outside; same shape, as floats.

    In a patch, a smaller lesion has a larger number, so that max-pooling keeps it next to a larger one.
    """
    labels = np.zeros(tuple(foreground.shape), dtype=np.float32)
    first = 0
    for patch, mask in zip(labels[:, 0], foreground[:, 0].cpu().numpy(), strict=True):
        lesions = label_components(mask, 1.0)
        numbers = np.zeros(lesions.number + 1, dtype=np.float32)
        numbers[1 + np.argsort(-lesions.voxels, kind="stable")] = first + 1 + np.arange(lesions.number)
        patch[:] = numbers[lesions.labels]
        first += lesions.number
    return torch.from_numpy(labels).to(foreground.device)


def _equal_shares(lesions: Tensor) -> Tensor:
    """Return weights that give each lesion of `label_lesions` the same sum: 1 on average, and 1 outside."""
    index = lesions.long()
    voxels = torch.bincount(index.flatten()).to(lesions.dtype)
    voxels[0] = 0
    shares = voxels.sum() / (voxels.clamp_min(1) * (voxels > 0).sum().clamp_min(1))
    shares[0] = 1
    return shares[index]


def _hardest(entropy: Tensor, among: Tensor, share: float) -> Tensor:
    """Return the share of the voxels `among` whose entropy is the highest, and those that equal the last."""
    values = entropy.detach()[among]
    if not values.numel():
        return among
    return among & (entropy.detach() >= values.topk(max(1, int(share * values.numel()))).values.min())


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
        opened: list[Tensor | None] = [self._opened(output), *(None for _ in output.auxiliary_logits)]
        levels = zip(weights, logits, targets, opened, strict=True)
        losses = torch.stack([weight * self.segmentation(*level) for weight, *level in levels])
        foreground, known = any_foreground(
            targets[0], regions=self.segmentation.regions, ignore_label=self.segmentation.ignore_label
        )
        gates = gate_loss(output.decisions, foreground, self.supervision, known=known)
        return losses.sum() / sum(weights) + self.supervision.auxiliary_weight * gates

    def _opened(self, output: GatedOutput) -> Tensor | None:
        """Return where the finest hard spatial gate is open, on the grid of the logits, for `open_loss`."""
        masks = [decision.mask for decision in output.decisions if decision.score is not None]
        return on_grid_of(masks[-1], output.logits) if self.supervision.open_loss and masks else None
