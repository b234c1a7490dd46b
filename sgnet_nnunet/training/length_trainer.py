"""An nnU-Net trainer that trains as long as the environment says, and no longer than it helps."""

from pathlib import Path

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.optim.lr_scheduler import LRScheduler

from sgnet_nnunet.io.atomic import atomic_path
from sgnet_nnunet.training.length import TrainingLength

LENGTH_KEY = "sgnet_training_length"
"""Where a checkpoint keeps the length of its training."""


class TrainingStalled(Exception):  # noqa: N818
    """Leaves nnU-Net's epoch loop; not an error."""


class LengthTrainer(nnUNetTrainer):
    """Trains for the `TrainingLength` that a subclass sets when it is made.

    It goes into the log and into every checkpoint, and `--c` goes on with the length the training was
    started with.
    """

    DEFAULT_LENGTH = TrainingLength()
    """The length where the environment says nothing."""

    STALLS_ON = "ema_fg_dice"
    """The logged score that the patience waits on."""

    length: TrainingLength

    def set_length(self, length: TrainingLength) -> None:
        """Train for that long."""
        self.length = length
        self.num_epochs = length.epochs
        self.num_iterations_per_epoch = length.iters
        self.num_val_iterations_per_epoch = length.val_iters

    def build_scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """Return nnU-Net's polynomial decay, which follows from the epoch alone."""
        return PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def on_train_start(self) -> None:
        """Start as nnU-Net does, and log the length."""
        super().on_train_start()
        self.print_to_log_file(f"Training length: {self.length}")

    def on_epoch_start(self) -> None:
        """Start an epoch, unless the training has stalled.

        Raises:
            TrainingStalled: If the patience has run out, now or before a resumed run.
        """
        if self.length.stalled(self.logger.get_value(self.STALLS_ON, step=None)):
            raise TrainingStalled
        super().on_epoch_start()

    def run_training(self) -> None:
        """Train to the last epoch or until the patience runs out."""
        try:
            super().run_training()
        except TrainingStalled:
            self.print_to_log_file(
                f"Stopped early: no better {self.STALLS_ON} (pseudo Dice) in {self.length.patience} epochs"
            )
            self.on_train_end()

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint with the training's length added, whole or not at all."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with atomic_path(Path(filename)) as partial:
            super().save_checkpoint(str(partial))
            checkpoint = torch.load(partial, map_location="cpu", weights_only=False)
            torch.save(checkpoint | {LENGTH_KEY: self.length.as_dict()}, partial)

    def load_checkpoint(self, filename_or_checkpoint: str) -> None:
        """Load a checkpoint and go on with the length it was started with."""
        checkpoint = torch.load(filename_or_checkpoint, map_location="cpu", weights_only=False)
        recorded = TrainingLength(**checkpoint[LENGTH_KEY])
        if recorded != self.length:
            self.print_to_log_file(f"The checkpoint's training length holds: {recorded}, not {self.length}")
        self.set_length(recorded)
        if self.was_initialized:
            self.lr_scheduler = self.build_scheduler(self.optimizer)
        super().load_checkpoint(filename_or_checkpoint)
