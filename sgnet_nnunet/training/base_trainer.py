"""The base trainer: nnU-Net's trainer with the loss, optimiser, schedule and data loading of SG-Net."""

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from numpy.typing import NDArray
from torch import distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LRScheduler

from sgnet_nnunet import former_names
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import PARTIAL_PREFIX, atomic_path, write_json
from sgnet_nnunet.inference.plan import MISSING_CHANNELS
from sgnet_nnunet.inference.trust import TrainingState, load_pickle
from sgnet_nnunet.nnunet import (
    CHECKPOINT_BEST,
    CHECKPOINT_LATEST,
    SPLITS,
    TRAINED_ON,
    add_to_checkpoints,
    changed_folds,
    loading,
    replaced_data_loader,
)
from sgnet_nnunet.schemas import check
from sgnet_nnunet.training.channel_dropout import (
    RESULT_FILE,
    Scores,
    drop_channels,
    dropout_of_plan,
    mean_scores,
    score_cases,
    write_scores,
)
from sgnet_nnunet.training.data_loading import (
    FastDataLoader,
    OwnFalsePositives,
    false_positives_of,
    use_fast_loading,
)
from sgnet_nnunet.training.losses import EVEN, DiceBCELoss, ForegroundLoss, LossSettings
from sgnet_nnunet.training.settings import (
    MIRRORING,
    TRUST,
    Precision,
    TrainingSchedule,
    keep_freed_memory,
    read_flag,
    read_seed,
    seed_generators,
)

Settings = TypeVar("Settings")

SCHEDULE_KEY = "sgnet_schedule"
"""Key of the schedule in the `init_args` of a checkpoint."""


class TrainingStalled(Exception):  # noqa: N818
    """Ends nnU-Net's epoch loop early; not an error."""


class BaseTrainer(nnUNetTrainer):
    """Dice + BCE, AdamW, polynomial decay and frozen batch norms; a subclass adds the network.

    The schedule, a CPU's precision and whether inference mirrors come from environment variables (see
    `training.settings`). The schedule is kept in every checkpoint, and `--c` continues with it.

    With `SGNET_SEED` the generators are seeded anew at the start of each epoch, and patches are loaded by the
    process itself: on a CPU, two trainings have the same weights bit for bit, also if one was continued.

    The trainer changes two settings of its process: with `-device cuda` and no CUDA device it gives PyTorch
    all cores in place of the one thread that `nnUNetv2_train` leaves it, and on a CPU it keeps freed memory
    from the start of the training (`keep_freed_memory`).
    """

    DEFAULT_SCHEDULE = TrainingSchedule()
    """The schedule where the environment sets nothing."""

    STALLS_ON = "ema_fg_dice"
    """The logged score that the patience applies to."""

    INITIAL_LR = 3e-3

    BATCH_STATISTICS = 0.5
    """Share of the epochs in which batch norms use a batch's statistics; from then on the running ones.

    The statistics of a few patches, half of them cut around a tumour, differ from those of a whole image. A
    network that trains on them to the end gives other results when it is tested.
    """

    LEAST_BATCHES = 250
    """Batches before which no norm is frozen for good: running statistics follow a network that changes fast
    with a delay. Trainings of fewer batches, such as the demo's, failed with frozen norms."""

    NOISE_VARIANCE = (0.0, 0.004)
    """nnU-Net's (0, 0.1) is for z-scored images; a brain scaled by percentiles has an SD near 0.2."""

    SEARCH_INTERVAL = 5
    """Epochs between two searches for the network's own false positives, if the plan asks for them."""

    LEAST_LOSS_SCALE = 1.0
    """Of half precision: the scale starts at 65,536, halves with each step that is left out because its
    gradients are not finite, and doubles after 2,000 others (`torch.amp.GradScaler`)."""

    schedule: TrainingSchedule

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        self._fell_back = device.type == "cuda" and not torch.cuda.is_available()
        if self._fell_back:
            device = torch.device("cpu")
        self._continued = bool(plans.get("continue_training"))  # by `--c`; nnU-Net takes it out of the plans
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self._fell_back:
            remedy = "Pass `-device cpu` to silence this warning"
            self.print_to_log_file(f"WARNING: no CUDA device found; training on the CPU. {remedy}")
        self.enable_deep_supervision = False
        self.initial_lr = self.INITIAL_LR
        self.weight_decay = 1e-2
        self.oversample_foreground_percent = 0.5
        self.save_every = 10
        self.precision = Precision.from_environment(self.device)
        self.mirrors = read_flag(MIRRORING, default=True)
        self.seed = read_seed()
        self.set_schedule(TrainingSchedule.from_environment(default=self.DEFAULT_SCHEDULE))
        self.set_up()

    def set_up(self) -> None:
        """Construct the rest of a subclass, which need not repeat the arguments that nnU-Net reads."""

    # --- network, loss, optimiser and schedule -------------------------------------------------------------

    def set_schedule(self, schedule: TrainingSchedule) -> None:
        """Train by a schedule."""
        self.schedule = schedule
        self.num_epochs = schedule.epochs
        self.num_iterations_per_epoch = schedule.iters
        self.num_val_iterations_per_epoch = schedule.val_iters

    def initialize(self) -> None:
        """Build the network, optimiser and loss; refuse a network that cannot train in the precision."""
        if self._fell_back:
            torch.set_num_threads(os.cpu_count() or 1)
        if self.seed is not None:
            seed_generators(self.seed)
        super().initialize()
        self.precision.check(self.network)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Do nothing: the network has one output."""

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, LRScheduler]:
        """Return AdamW and the schedule of its learning rate."""
        parameters, decay = self.network.parameters(), self.weight_decay
        optimizer = torch.optim.AdamW(parameters, lr=self.initial_lr, weight_decay=decay)
        return optimizer, self.build_scheduler(optimizer)

    def build_scheduler(self, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """Return nnU-Net's polynomial decay, which depends on the epoch alone."""
        return PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def _build_loss(self) -> nn.Module:
        return self.build_segmentation_loss()

    @property
    def label_kind(self) -> dict[str, Any]:
        """How the training's targets are to be read, as the losses' keywords `regions` and `ignore_label`."""
        return {"regions": self.label_manager.has_regions, "ignore_label": self.label_manager.ignore_label}

    def settings_of_plan(self, name: str, kind: type[Settings]) -> Settings:
        """Return a section of the plan, the defaults for what it leaves out; others are an SGNetError."""
        planned = self.configuration_manager.configuration.get(name, {})
        try:
            return kind(**planned)
        except (TypeError, ValueError) as error:
            problem = f"cannot train with {name}={planned!r}: {error}"
            raise SGNetError(f"plan {self.plans_manager.plans_name}: {problem}") from error

    def build_segmentation_loss(self) -> ForegroundLoss:
        """Return the loss of the logits.

        Raises:
            SGNetError: If a value of the plan's `loss`, or its `false_positive_weight`, is out of range.
        """
        settings = self.settings_of_plan("loss", LossSettings)
        weight = self.configuration_manager.configuration.get("false_positive_weight", EVEN)
        try:
            return DiceBCELoss(
                **self.label_kind,
                batch_dice=self.configuration_manager.batch_dice,
                ddp=self.is_ddp,
                false_positive_weight=weight,
                settings=settings,
            )
        except (TypeError, ValueError) as error:
            problem = f"cannot train with false_positive_weight={weight!r}: {error}"
            raise SGNetError(f"plan {self.plans_manager.plans_name}: {problem}") from error

    # --- data ----------------------------------------------------------------------------------------------

    @classmethod
    def get_training_transforms(cls, *args: Any, **kwargs: Any) -> BasicTransform:  # noqa: ANN401
        """Return nnU-Net's augmentation with noise for images from about 0 to 1, and fast loading."""
        pipeline = super().get_training_transforms(*args, **kwargs)
        for step in pipeline.transforms:
            if isinstance(step, RandomTransform) and isinstance(step.transform, GaussianNoiseTransform):
                step.transform.noise_variance = cls.NOISE_VARIANCE
        use_fast_loading(pipeline)
        return pipeline

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(  # noqa: N802
        self,
    ) -> tuple[Any, bool, Any, tuple[int, ...]]:
        """Return nnU-Net's settings of the augmentation; inference mirrors as the training does, or not."""
        settings = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if not self.mirrors:
            self.inference_allowed_mirroring_axes = None
        return settings

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return nnU-Net's training and validation cases, and keep the former in every checkpoint.

        Raises:
            InputFileError: If a case is not preprocessed, or the checkpoint was trained on a validation case.
        """
        training, validation = super().do_split()
        splits, folder = Path(self.preprocessed_dataset_folder_base, SPLITS), self.preprocessed_dataset_folder
        if absent := sorted({*training, *validation}.difference(self.dataset_class.get_identifiers(folder))):
            problem = f"fold {self.fold} has the case {absent[0]}, which is not in {folder}"
            raise InputFileError(splits, problem, "preprocess again, or take the case out of the folds")
        before = set(self.my_init_kwargs.get(TRAINED_ON, training))
        if seen := sorted(before.difference(training).intersection(validation)):
            problem = f"fold {self.fold} validates on {seen[0]}, which this network was trained on"
            remedy = f"restore the former file, or move {self.output_folder} away and train again"
            raise InputFileError(splits, problem, remedy)
        if changed := sorted(before.symmetric_difference(training)):
            self.print_to_log_file(f"WARNING: training cases changed since the start: {', '.join(changed)}")
        add_to_checkpoints(self, TRAINED_ON, sorted(before.union(training)))
        return training, validation

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return nnU-Net's loaders of training and validation batches, with fast loading."""
        if self.seed is not None:
            # nnU-Net's worker processes deliver batches in any order.
            os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112
        with replaced_data_loader(partial(FastDataLoader, own_false_positives=self.own_false_positives)):
            return super().get_dataloaders()

    @cached_property
    def own_false_positives(self) -> OwnFalsePositives | None:
        """The plan's `own_false_positives`, None if it is 0; what is no such share is an SGNetError."""
        share = self.configuration_manager.configuration.get("own_false_positives", 0)
        most = 1 - self.oversample_foreground_percent
        if not isinstance(share, int | float) or not 0 <= share <= most:
            problem = f"cannot train with own_false_positives={share!r}: must be between 0 and {most:g}"
            raise SGNetError(f"plan {self.plans_manager.plans_name}: {problem}")
        path = Path(self.output_folder, "own_false_positives.json")
        return OwnFalsePositives(path=path, share=share) if share else None

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the image channels, in order."""
        return tuple((self.dataset_json.get("channel_names") or self.dataset_json["modality"]).values())

    @cached_property
    def channel_dropout(self) -> dict[int, float]:
        """The plan's `channel_dropout` by the channel's number; what is no probability is an SGNetError."""
        planned = self.configuration_manager.configuration.get("channel_dropout", {})
        return dropout_of_plan(planned, self.channel_names)

    # --- training ------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Start as nnU-Net does, remove what a killed training left, and log schedule and precision.

        A model that is trained with channel dropout says so in its `plans.json` and its checkpoints.
        """
        dropped = {self.channel_names[number]: share for number, share in self.channel_dropout.items()}
        if dropped:
            self.plans_manager.plans[MISSING_CHANNELS] = list(dropped)
        if (own := self.own_false_positives) and self.local_rank == 0 and self.current_epoch == 0:
            own.path.unlink(missing_ok=True)  # of an earlier training
        super().on_train_start()
        if self.local_rank == 0:
            for partial in Path(self.output_folder).glob(f"{PARTIAL_PREFIX}checkpoint_*.pth"):
                partial.unlink(missing_ok=True)
        if self.device.type == "cpu":
            # After the start of the loading workers, which would inherit the setting.
            keep_freed_memory()
        self.print_to_log_file(f"Training schedule: {self.schedule}")
        if self.seed is not None:
            self.print_to_log_file(f"Seed {self.seed}: patches are loaded by this process")
        self.print_to_log_file(self.precision.note())
        for name, share in dropped.items():
            self.print_to_log_file(f"Channel dropout: {share:.0%} of the training patches are without {name}")
        if changed := changed_folds(self.plans_manager.dataset_name):
            self.print_to_log_file(f"WARNING: {changed}")

    def run_training(self) -> None:
        """Train to the last epoch or until the patience runs out."""
        try:
            super().run_training()
        except TrainingStalled:
            self.print_to_log_file(
                f"Stopped early: no better {self.STALLS_ON} (pseudo Dice) in {self.schedule.patience} epochs"
            )
            self.on_train_end()

    def on_epoch_start(self) -> None:
        """Start an epoch, or raise `TrainingStalled` if the patience has run out, now or before `--c`."""
        if self.schedule.stalled(self.logger.get_value(self.STALLS_ON, step=None)):
            raise TrainingStalled
        if own := self.own_false_positives:
            self.find_own_false_positives(own)
        if self.seed is not None:
            seed_generators(self.seed, self.current_epoch + 1, self.local_rank)
        super().on_epoch_start()

    def find_own_false_positives(self, own: OwnFalsePositives) -> None:
        """Write where the network is wrong in its training cases, every `SEARCH_INTERVAL` epochs.

        A training that is continued between two searches looks again if the file is not that of the last
        one, with the weights that it has by then: its patches may differ from those of one without a break.
        """
        due = self.current_epoch - self.current_epoch % self.SEARCH_INTERVAL
        if due and self.local_rank == 0 and own.epoch != due:
            cases = self.do_split()[0]
            dataset = self.dataset_class(self.preprocessed_dataset_folder, cases)
            self.network.eval()
            self.set_deep_supervision_enabled(False)
            logits_of, voxels = self.fast_logits(), {}
            for case in cases:
                data, labels, _, _ = dataset.load_case(case)
                logits = logits_of(np.asarray(data[:], dtype=np.float32))
                predicted = np.asarray(self.label_manager.convert_logits_to_segmentation(logits) > 0)
                voxels[case] = false_positives_of(predicted, labels[0])
            self.set_deep_supervision_enabled(True)
            write_json(own.path, {"epoch": due, "voxels": voxels})
            found = sum(map(len, voxels.values()))
            self.print_to_log_file(f"Own false positives: {found} in {len(cases)} training cases")
        if self.is_ddp:
            dist.barrier()

    def fast_logits(self) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """Return the fastest function of images to logits, both (channels, z, y, x), without mirroring."""
        return self.whole_image_logits()

    def on_train_epoch_start(self) -> None:
        """Start an epoch's training, freezing batch norms in the second half of training."""
        super().on_train_epoch_start()
        batches = self.current_epoch * self.num_iterations_per_epoch
        if self.current_epoch >= self.BATCH_STATISTICS * self.num_epochs and batches >= self.LEAST_BATCHES:
            freeze_batch_norms(self.network)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on one batch, in the requested precision, without the channels that the plan drops."""
        drop_channels(batch["data"], self.channel_dropout)
        with self.precision.of_a_step():
            return super().train_step(batch)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Validate on one batch, in the requested precision."""
        with self.precision.of_a_step():
            return super().validation_step(batch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """End an epoch's training as nnU-Net does, and warn if its steps were left out."""
        super().on_train_epoch_end(train_outputs)
        if self.grad_scaler is not None and self.grad_scaler.get_scale() < self.LEAST_LOSS_SCALE:
            self.print_to_log_file(
                "WARNING: the gradients are not finite in half precision and the weights do not change: this "
                "network is not learning. Try `nnUNet_compile=f`, and if that does not help, the CPU"
            )

    # --- validation of the fold ----------------------------------------------------------------------------

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict and evaluate the validation cases as nnU-Net does, and measure channel dropout."""
        super().perform_actual_validation(save_probabilities)
        self.validate_without_channels()

    def validate_without_channels(self) -> None:
        """Log the Dice of the validation cases with all channels and without each that training left out.

        The figures of each case are written to `validation/channel_dropout.json`.
        """
        if not self.channel_dropout or self.local_rank != 0:
            return
        cases = self.do_split()[1]
        dataset = self.dataset_class(self.preprocessed_dataset_folder, cases)
        self.network.eval()
        self.set_deep_supervision_enabled(False)
        logits_of = self.whole_image_logits()

        def segment(image: NDArray[np.float32]) -> NDArray[np.bool_]:
            return np.asarray(self.label_manager.convert_logits_to_segmentation(logits_of(image)) > 0)

        scores: dict[str, Scores] = {}
        for channel in self.channel_dropout:
            name, ignore_label = self.channel_names[channel], self.label_manager.ignore_label
            scores[name] = score_cases(
                cases, dataset.load_case, segment, channel=channel, ignore_label=ignore_label
            )
            dice, without = mean_scores(scores[name])
            line = f"{dice:.4f} with all channels, {without:.4f} without {name} ({without - dice:+.4f})"
            self.print_to_log_file("Mean Validation Dice of the foreground:", line)
        self.set_deep_supervision_enabled(True)
        folder = Path(self.output_folder, "validation")
        folder.mkdir(parents=True, exist_ok=True)
        write_scores(folder / RESULT_FILE, scores)

    def whole_image_logits(self) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        """Return nnU-Net's sliding window without mirroring: images to logits, both (channels, z, y, x)."""
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: PLC0415

        predictor = nnUNetPredictor(
            use_mirroring=False,
            device=self.device,
            allow_tqdm=False,
            perform_everything_on_device=self.device.type == "cuda",
        )
        network = self.network.module if self.is_ddp else self.network
        plans = (self.plans_manager, self.configuration_manager, None, self.dataset_json)
        predictor.manual_initialization(network, *plans, type(self).__name__, None)

        def logits_of(image: NDArray[np.float32]) -> NDArray[np.float32]:
            logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(image))
            return np.asarray(logits.float().cpu())

        return logits_of

    # --- checkpoints ---------------------------------------------------------------------------------------

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint atomically, with the schedule among its `init_args`."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        add_to_checkpoints(self, SCHEDULE_KEY, asdict(self.schedule))
        with atomic_path(Path(filename)) as partial:
            super().save_checkpoint(str(partial))

    def load_checkpoint(self, filename_or_checkpoint: str | dict[str, Any]) -> None:
        """Load a checkpoint, a path or its content, and continue with the schedule it was started with.

        Raises:
            InputFileError: If the file is damaged, or holds more than weights and numbers: a pickle can run
                any program, and does so only with `SGNET_TRUST=1`.
        """
        if isinstance(filename_or_checkpoint, dict):
            checkpoint = filename_or_checkpoint
        else:
            checkpoint = self._read_checkpoint(Path(filename_or_checkpoint))
        recorded = checkpoint["init_args"].get(SCHEDULE_KEY) or checkpoint.get(former_names.SCHEDULE)
        if recorded:
            schedule = TrainingSchedule(**recorded)
            if schedule != self.schedule:
                self.print_to_log_file(f"Continuing with the checkpoint's {schedule}, not {self.schedule}")
            self.set_schedule(schedule)
        if self.was_initialized:
            self.lr_scheduler = self.build_scheduler(self.optimizer)
        with loading(checkpoint):
            super().load_checkpoint("")

    def _read_checkpoint(self, path: Path) -> dict[str, Any]:
        """Return the content of a checkpoint; of the latest with `--c`, that of the best if it is later.

        nnU-Net repeats the epochs after its latest checkpoint, and would overwrite a better one of those.
        A training that was killed between both files of an epoch gets the second here.
        """
        checkpoint = load_state(path)
        if not (self._continued and path.name == CHECKPOINT_LATEST):
            return checkpoint
        best = path.with_name(CHECKPOINT_BEST)
        if best.is_file() and (other := load_state(best))["current_epoch"] >= checkpoint["current_epoch"]:
            self.print_to_log_file(f"Continuing from {best.name}, which is not older than {path.name}")
            return other
        scores, before = checkpoint["logging"].get("ema_fg_dice"), checkpoint["_best_ema"]
        if scores and (before is None or scores[-1] > before):
            checkpoint["_best_ema"] = scores[-1]
            if self.local_rank == 0 and not self.disable_checkpointing:
                with atomic_path(best) as partial:
                    torch.save(checkpoint, partial)
        return checkpoint


def load_state(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint to go on from; a damaged or dangerous one is an InputFileError."""
    content: dict[str, Any] = load_pickle(path, trust=read_flag(TRUST, default=False))
    check(path, content, TrainingState, remedy="name a checkpoint of a training by nnU-Net v2")
    return content


def freeze_batch_norms(network: nn.Module) -> None:
    """Let the batch norms of a network use their running statistics, until `train()` is called."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
