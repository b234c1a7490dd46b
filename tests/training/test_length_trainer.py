from pathlib import Path

import numpy as np
import pytest
import torch

from sgnet_nnunet.training.base_trainer import LENGTH_KEY, TrainingLength


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
