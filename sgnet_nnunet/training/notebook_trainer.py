"""The training of the notebook released with SG-Net (`Rowzatul-2001/SGNet`), as far as nnU-Net allows.

Not reproduced: the joint percentile scaling of both channels (`SGNetPlanner` scales each), the sorted
70/10/20 split (`sgnet convert --split paper`), and the notebook's validation Dice of whole images, which is
replaced by nnU-Net's pseudo Dice of validation patches.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.training.losses import ForegroundLoss
from sgnet_nnunet.training.settings import TrainingSchedule
from sgnet_nnunet.training.sgnet_trainer import SGNetNoGateTrainer

LEFT_RIGHT = 2
IN_PLANE = {1, 2}
"""Axes of nnU-Net's (z, y, x) arrays."""

IGNORED_LOGIT = -30.0
"""A background logit that adds nothing to the loss."""


class NotebookLoss(ForegroundLoss):
    """MONAI's `DiceCELoss(sigmoid=True, squared_pred=True)` of each foreground channel, averaged.

    The notebook has one channel and no ignore label. Voxels with the ignore label count as background
    that was predicted correctly.
    """

    def channel_loss(self, log_odds: Tensor, reference: Tensor, mask: Tensor | None) -> Tensor:
        """Return the loss of the foreground channels."""
        # MONAI takes seconds to import, and nnU-Net imports every trainer's module to find one.
        from monai.losses.dice import DiceCELoss  # noqa: PLC0415

        if mask is not None:
            log_odds = log_odds.masked_fill(mask == 0, IGNORED_LOGIT)
        loss = DiceCELoss(sigmoid=True, squared_pred=True)
        pairs = zip(torch.split(log_odds, 1, dim=1), torch.split(reference, 1, dim=1), strict=True)
        return torch.stack([loss(*pair) for pair in pairs]).mean()


class PlateauSchedule(LRScheduler):
    """Halve the learning rate after more than five epochs without a better score.

    nnU-Net does not save its scheduler, so the rate is computed each epoch from what `scores` returns, the
    logged scores so far, higher being better. A training that is continued has the same rates as one that was
    not interrupted.
    """

    FACTOR = 0.5
    PATIENCE = 5

    def __init__(
        self, optimizer: torch.optim.Optimizer, initial_lr: float, scores: Callable[[], Sequence[float]]
    ) -> None:
        self.initial_lr = initial_lr
        self.scores = scores
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Return the learning rate of the coming epoch, the same for every parameter group."""
        replay = torch.optim.SGD([torch.zeros(1)], lr=self.initial_lr)
        plateau = ReduceLROnPlateau(replay, mode="max", factor=self.FACTOR, patience=self.PATIENCE)
        for score in self.scores():
            plateau.step(score)
        return [replay.param_groups[0]["lr"]] * len(self.optimizer.param_groups)

    def step(self, epoch: int | None = None) -> None:  # noqa: ARG002
        """Set the learning rate of the coming epoch, whatever its number."""
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate


class SGNetNotebookTrainer(SGNetNoGateTrainer):
    """Train the released network as the released notebook does, to reproduce the SG-Net table."""

    INITIAL_LR = 1e-4

    DEFAULT_SCHEDULE = TrainingSchedule(epochs=100, iters=16, val_iters=16, patience=10)
    """The notebook validates on whole images; 16 validation batches replace them."""

    STALLS_ON = "mean_fg_dice"

    BATCH_STATISTICS = 1.0
    """To the end, as in the notebook."""

    PROBABILITY = 0.5
    """Of a rotation, and of a flip."""

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, LRScheduler]:
        """Return Adam and the plateau schedule."""
        optimizer = torch.optim.Adam(self.network.parameters(), lr=self.initial_lr)
        return optimizer, self.build_scheduler(optimizer)

    def build_scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """Return the plateau schedule over the pseudo Dice."""
        scores = partial(self.logger.get_value, "mean_fg_dice", step=None)
        return PlateauSchedule(optimizer, self.initial_lr, scores)

    def build_segmentation_loss(self) -> ForegroundLoss:
        """Return the notebook's loss."""
        return NotebookLoss(**self.label_kind)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(  # noqa: N802
        self,
    ) -> tuple[tuple[float, float], bool, list[int], tuple[int, ...]]:
        """Return settings for patches of the final size, square in-plane, and no mirroring in inference."""
        patch_size = self.configuration_manager.patch_size
        if len({patch_size[axis] for axis in IN_PLANE}) > 1:
            raise SGNetError(
                f"plan {self.plans_manager.plans_name}: its patch of {patch_size} (z, y, x) is not square "
                "in-plane, which the notebook's rotations by 90 degrees require; plan with SGNetPlanner"
            )
        self.inference_allowed_mirroring_axes = None
        return (0.0, 0.0), False, patch_size, (LEFT_RIGHT,)

    @classmethod
    def get_training_transforms(
        cls,
        patch_size: Sequence[int],  # noqa: ARG003
        rotation_for_DA: Any,  # noqa: ANN401, ARG003, N803
        deep_supervision_scales: list[list[float]] | None,
        mirror_axes: tuple[int, ...],
        do_dummy_2d_data_aug: bool,  # noqa: ARG003
        use_mask_for_norm: list[bool] | None = None,  # noqa: ARG003
        **labels: Any,  # noqa: ANN401
    ) -> BasicTransform:
        """Return in-plane rotations by 90 degrees, left-right flips and nnU-Net's handling of `labels`."""
        handling = cls.get_validation_transforms(deep_supervision_scales, **labels)
        rotation = Rot90Transform(num_axis_combinations=1, allowed_axes=IN_PLANE)
        turned = RandomTransform(rotation, apply_probability=cls.PROBABILITY)
        return ComposeTransforms([turned, MirrorTransform(allowed_axes=mirror_axes), *handling.transforms])
