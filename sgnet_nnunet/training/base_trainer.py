"""How long to train: set by environment variables, kept in the checkpoint."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LRScheduler

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.files import atomic_path
from sgnet_nnunet.training.data_loading import fast_loaders, use_fast_loading
from sgnet_nnunet.training.losses import EVEN, DiceBCELoss, ForegroundLoss
from sgnet_nnunet.training.settings import Precision, keep_freed_memory, read_switch


@dataclass(frozen=True, kw_only=True)
class TrainingLength:
    """The length of a training.

    Attributes:
        epochs: Epochs at most.
        iters: Training batches an epoch.
        val_iters: Validation batches an epoch.
        patience: Epochs without a better moving average of the pseudo Dice before the training
            stops early; 0 never stops it early.
    """

    epochs: int = 200
    iters: int = 250
    val_iters: int = 50
    patience: int = 0

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, *, default: "TrainingLength | None" = None
    ) -> "TrainingLength":
        """Read `SGNET_EPOCHS`, `SGNET_ITERS`, `SGNET_VAL_ITERS` and `SGNET_PATIENCE`.

        Args:
            environment: Where to read them.
            default: The length where a variable is not set; None for the class's own.

        Raises:
            SGNetError: If a variable is no whole number of at least 1 (patience: 0).
        """
        given = {}
        for field in fields(cls):
            name = f"SGNET_{field.name.upper()}"
            if name in environment:
                least = 0 if field.name == "patience" else 1
                given[field.name] = _whole_number(name, environment[name], least)
        return replace(default or cls(), **given)

    def as_dict(self) -> dict[str, int]:
        """Return the four numbers by name."""
        return asdict(self)

    def stalled(self, scores: Sequence[float]) -> bool:
        """Tell whether the last `patience` scores brought nothing better than those before."""
        if not self.patience or len(scores) <= self.patience:
            return False
        return max(scores[-self.patience :]) <= max(scores[: -self.patience])


def _whole_number(name: str, text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        msg = f"{name}={text!r}: must be a whole number of at least {least}; set it again or unset it"
        raise SGNetError(msg)
    return number


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


MIRRORING = "SGNET_MIRRORING"
"""Set to 0, a fold is validated, and the network used, without mirrored copies."""

LEAST_LOSS_SCALE = 1.0
"""Of half precision: it starts at 65,536, halves with each step that is left out because its gradients are
not finite, and doubles after 2,000 others (`torch.amp.GradScaler`)."""


class BaseTrainer(LengthTrainer):
    """Dice + BCE, AdamW, polynomial decay, frozen norms; a subclass adds the network.

    A CPU's precision comes from the environment (see `Precision`) and goes into the log.

    With `SGNET_MIRRORING=0` neither the validation of the fold nor nnU-Net's prediction mirrors: one
    pass of the network in place of eight.
    """

    USES_DEEP_SUPERVISION = False
    """Whether nnU-Net is to treat the network's output as a list, the logits first."""

    INITIAL_LR = 3e-3

    BATCH_STATISTICS = 0.5
    """Share of the epochs in which batch norms use a batch's statistics; from then on the running ones.

    Those of a few patches, half of them cut around a tumour, are not those of a whole image: a network
    that trains to the end with its batches' own is another one when it is tested.
    """

    LEAST_BATCHES = 250
    """Batches before which no norm is frozen for good: the running statistics of a network that still
    changes fast are not its own. Trainings of fewer, such as the demo's, failed when they were."""

    NOISE_VARIANCE = (0.0, 0.004)
    """nnU-Net's (0, 0.1) is for z-scored images; a brain scaled by percentiles has an SD near 0.2."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        fall_back = device.type == "cuda" and not torch.cuda.is_available()
        super().__init__(
            plans, configuration, fold, dataset_json, torch.device("cpu") if fall_back else device
        )
        if fall_back:
            # nnUNetv2_train has left one thread to PyTorch, expecting a GPU.
            torch.set_num_threads(os.cpu_count() or 1)
            self.print_to_log_file(
                "WARNING: no CUDA device was found, training on the CPU; say `-device cpu` to mean it"
            )
        self.enable_deep_supervision = self.USES_DEEP_SUPERVISION
        self.initial_lr = self.INITIAL_LR
        self.weight_decay = 1e-2
        self.oversample_foreground_percent = 0.5
        self.save_every = 10
        self.precision = Precision.from_environment(self.device)
        self.mirrors = read_switch(MIRRORING, "inference mirrors, too", default=True)
        self.set_length(TrainingLength.from_environment(default=self.DEFAULT_LENGTH))

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Do nothing: the networks have one output."""

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, LRScheduler]:
        """Return AdamW and nnU-Net's polynomial decay over the epochs."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.initial_lr, weight_decay=self.weight_decay
        )
        return optimizer, self.build_scheduler(optimizer)

    def _build_loss(self) -> nn.Module:
        return self.build_segmentation_loss()

    def build_segmentation_loss(self) -> ForegroundLoss:
        """Return the loss of the logits, with the plan's `false_positive_weight` if it names one.

        Raises:
            SGNetError: If that weight is not between 0 and 1.
        """
        weight = self.configuration_manager.configuration.get("false_positive_weight", EVEN)
        try:
            return DiceBCELoss(
                regions=self.label_manager.has_regions,
                ignore_label=self.label_manager.ignore_label,
                batch_dice=self.configuration_manager.batch_dice,
                ddp=self.is_ddp,
                false_positive_weight=weight,
            )
        except (TypeError, ValueError) as error:
            raise SGNetError(
                f"plan {self.plans_manager.plans_name}: cannot train with "
                f"false_positive_weight={weight!r}: {error}"
            ) from error

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> BasicTransform:  # noqa: ANN401
        """Return nnU-Net's augmentation, its noise that of images from about 0 to 1, cheaper to come by."""
        pipeline = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        for step in pipeline.transforms:
            if isinstance(step, RandomTransform) and isinstance(step.transform, GaussianNoiseTransform):
                step.transform.noise_variance = BaseTrainer.NOISE_VARIANCE
        use_fast_loading(pipeline)
        return pipeline

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(  # noqa: N802
        self,
    ) -> tuple[Any, bool, Any, tuple[int, ...]]:
        """Return nnU-Net's choices of the augmentation; inference mirrors as the training does, or not."""
        choices = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if not self.mirrors:
            self.inference_allowed_mirroring_axes = None
        return choices

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders of training and validation batches, which read what they need."""
        with fast_loaders():
            return super().get_dataloaders()

    def initialize(self) -> None:
        """Build the network and all that hangs on it.

        Raises:
            SGNetError: If the network cannot train in the precision asked for.
        """
        super().initialize()
        self.precision.check(self.network)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on one batch, in the precision asked for."""
        with self.precision.of_a_step():
            return super().train_step(batch)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Validate on one batch, in the precision asked for."""
        with self.precision.of_a_step():
            return super().validation_step(batch)

    def on_train_start(self) -> None:
        """Start as nnU-Net does, and log the precision; a CPU keeps its memory from now on."""
        super().on_train_start()
        if self.device.type == "cpu":
            # Not before: the workers that load patches would keep theirs, too.
            keep_freed_memory()
        self.print_to_log_file(self.precision.note())

    def on_train_epoch_start(self) -> None:
        """Start an epoch's training, with the batch norms frozen once their time is over."""
        super().on_train_epoch_start()
        batches = self.current_epoch * self.num_iterations_per_epoch
        if self.current_epoch >= self.BATCH_STATISTICS * self.num_epochs and batches >= self.LEAST_BATCHES:
            freeze_batch_norms(self.network)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """End an epoch's training as nnU-Net does, and warn if its steps were left out."""
        super().on_train_epoch_end(train_outputs)
        if self.grad_scaler is not None and self.grad_scaler.get_scale() < LEAST_LOSS_SCALE:
            self.print_to_log_file(
                "WARNING: the gradients are not finite in half precision and the weights do not change: this "
                "network is not learning. Try `nnUNet_compile=f`, and if that does not help, the CPU"
            )


def freeze_batch_norms(network: nn.Module) -> None:
    """Have the batch norms of a network use their running statistics, until `train()` is called."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
