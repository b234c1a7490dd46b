from pathlib import Path

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.training.length import TrainingLength
from sgnet_nnunet.training.recipe import LENGTH_KEY


def log_of(trainer):
    return Path(trainer.log_file).read_text()


def interrupt_at(trainer, *, epoch):
    start = trainer.on_train_epoch_start

    def start_or_interrupt():
        if trainer.current_epoch == epoch:
            raise KeyboardInterrupt
        start()

    return start_or_interrupt


def test_length_from_the_environment_is_used_logged_and_kept_in_the_checkpoint(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "1")
    trainer = make_trainer()
    trainer.run_training()
    assert trainer.current_epoch == 1
    assert "TrainingLength(epochs=1, iters=1, val_iters=1, patience=0)" in log_of(trainer)
    checkpoint = torch.load(f"{trainer.output_folder}/checkpoint_final.pth", weights_only=False)
    assert checkpoint[LENGTH_KEY] == {"epochs": 1, "iters": 1, "val_iters": 1, "patience": 0}


def test_resuming_goes_on_with_the_length_the_training_started_with(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "3")
    interrupted = make_trainer()
    interrupted.save_every = 1
    monkeypatch.setattr(interrupted, "on_train_epoch_start", interrupt_at(interrupted, epoch=1))
    with pytest.raises(KeyboardInterrupt):
        interrupted.run_training()
    monkeypatch.setenv("SGNET_EPOCHS", "7")
    resumed = make_trainer(continue_training=True)
    resumed.load_checkpoint(f"{interrupted.output_folder}/checkpoint_latest.pth")
    assert resumed.length == TrainingLength(epochs=3, iters=1, val_iters=1)
    assert resumed.lr_scheduler.max_steps == resumed.num_epochs == 3
    assert "The checkpoint's training length holds" in log_of(resumed)
    resumed.run_training()
    assert resumed.current_epoch == 3


def test_checkpoint_loaded_into_a_running_trainer_sets_its_schedule(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "3")
    first = make_trainer()
    first.initialize()
    first.save_checkpoint(f"{first.output_folder}/checkpoint_best.pth")
    monkeypatch.setenv("SGNET_EPOCHS", "5")
    second = make_trainer()
    second.initialize()
    second.load_checkpoint(f"{first.output_folder}/checkpoint_best.pth")
    assert second.lr_scheduler.max_steps == 3


def test_training_stops_when_the_pseudo_dice_stalls_and_stays_stopped_on_resume(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "9")
    monkeypatch.setenv("SGNET_PATIENCE", "1")
    trainer = make_trainer()
    monkeypatch.setattr(
        trainer,
        "validation_step",
        lambda _: {"loss": 0.0, **dict.fromkeys(("tp_hard", "fp_hard", "fn_hard"), np.ones(1))},
    )
    trainer.run_training()
    assert trainer.current_epoch == 2
    assert "Stopped early" in log_of(trainer)
    final = f"{trainer.output_folder}/checkpoint_final.pth"
    resumed = make_trainer(continue_training=True)
    resumed.load_checkpoint(final)
    resumed.run_training()
    assert resumed.current_epoch == 2
    assert torch.load(final, weights_only=False)["current_epoch"] == 2


def test_checkpoint_is_whole_or_absent(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.initialize()
    target = Path(trainer.output_folder, "checkpoint_latest.pth")
    trainer.save_checkpoint(str(target))
    before = target.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        trainer.save_checkpoint(str(target))
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.glob("*.pth")] == [target.name]


def test_disabled_checkpointing_writes_nothing(make_trainer):
    trainer = make_trainer()
    trainer.disable_checkpointing = True
    trainer.initialize()
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    assert list(Path(trainer.output_folder).glob("*.pth")) == []


def test_no_gpu_falls_back_to_the_cpu_and_says_so(make_trainer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    trainer = make_trainer(device="cuda")
    assert trainer.device == torch.device("cpu")
    assert "no CUDA device was found, training on the CPU" in log_of(trainer)


@pytest.mark.parametrize(("given", "axes"), [("1", (0, 1, 2)), ("0", None)])
def test_mirroring_of_inference_can_be_turned_off_and_stays_so(make_trainer, monkeypatch, given, axes):
    monkeypatch.setenv("SGNET_MIRRORING", given)
    monkeypatch.setenv("SGNET_EPOCHS", "1")
    trainer = make_trainer()
    trainer.run_training()
    checkpoint = torch.load(f"{trainer.output_folder}/checkpoint_final.pth", weights_only=False)
    assert trainer.inference_allowed_mirroring_axes == axes
    assert checkpoint["inference_allowed_mirroring_axes"] == axes


def test_recipe_is_adamw_with_polynomial_decay(make_trainer):
    trainer = make_trainer()
    trainer.initialize()
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    trainer.lr_scheduler.step(1)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(trainer.initial_lr * 0.5**0.9)


def test_noise_is_scaled_to_images_in_zero_to_one(make_trainer):
    trainer = make_trainer()
    pipeline = trainer.get_training_transforms((16, 32, 32), (0, 0), None, (0, 1, 2), False)
    noise = [
        t.transform
        for t in pipeline.transforms
        if isinstance(getattr(t, "transform", None), GaussianNoiseTransform)
    ]
    assert [t.noise_variance for t in noise] == [trainer.NOISE_VARIANCE]


def epochs_that_update_norms(trainer, norm_of):
    """Train two epochs of one batch; return in which of them the norm's statistics changed."""
    trainer.on_train_start()
    norm = norm_of(trainer.network)
    found = []
    for epoch in range(2):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        before = norm.running_mean.clone()
        trainer.train_step(next(trainer.dataloader_train))
        found.append(not torch.equal(norm.running_mean, before))
    return found


def first_norm(network):
    return next(module for module in network.modules() if isinstance(module, torch.nn.BatchNorm3d))


@pytest.mark.parametrize(
    ("name", "updated"),
    [
        ("SGNetTrainer", [True, False]),
        ("SGNetNoGateTrainer", [True, False]),
        ("AttentionUNetTrainer", [True, False]),
        ("SGNetNotebookTrainer", [True, True]),
    ],
)
def test_batch_norms_keep_their_statistics_in_the_second_half(make_trainer, name, updated):
    trainer = make_trainer(name)
    trainer.num_epochs, trainer.LEAST_BATCHES = 2, 1
    assert epochs_that_update_norms(trainer, first_norm) == updated


def test_a_short_training_freezes_only_the_norms_behind_deciding_gates(make_trainer):
    trainer = make_trainer(configuration={"gate_supervision": {"warm_up": 0.5}})
    assert epochs_that_update_norms(trainer, first_norm) == [True, True]
    trainer = make_trainer(configuration={"gate_supervision": {"warm_up": 0.5}})
    assert epochs_that_update_norms(trainer, lambda network: network.decoder[0].conv[1]) == [True, False]


@pytest.mark.parametrize("name", ["SGNetTrainer", "UNetTrainer"])
def test_plan_says_what_a_false_positive_weighs_in_the_loss(make_trainer, name):
    trainer = make_trainer(name, configuration={"false_positive_weight": 0.7})
    assert trainer.build_segmentation_loss().overlap.false_positive_weight == 0.7


def test_plan_of_an_earlier_version_without_the_weight_trains_with_dice(make_trainer):
    trainer = make_trainer()
    del trainer.configuration_manager.configuration["false_positive_weight"]
    assert isinstance(trainer.build_segmentation_loss().overlap, MemoryEfficientSoftDiceLoss)


@pytest.mark.parametrize("weight", [1.5, "much"])
def test_plan_with_an_impossible_weight_is_named(make_trainer, weight):
    trainer = make_trainer(configuration={"false_positive_weight": weight})
    with pytest.raises(SGNetError, match=f"plan nnUNetPlans: .*false_positive_weight={weight!r}"):
        trainer.build_segmentation_loss()
