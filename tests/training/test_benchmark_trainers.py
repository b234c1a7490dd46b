import json
from pathlib import Path

import pytest
import torch

from sgnet_nnunet.plugin.shims import SHIMS
from sgnet_nnunet.training import benchmark_trainers as benchmark

NNUNETS_KEYS = {"torch_version", "cudnn_version", "gpu_name", "fastest_epoch", "num_gpus", "hostname"}
SHIM = next(shim for shim in SHIMS if shim.module == benchmark.__name__)
WITH_LOADING, WITHOUT_LOADING = SHIM.names


def result_of(trainer):
    return json.loads(Path(trainer.output_folder, "benchmark_result.json").read_text())


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("name", SHIM.names)
def test_five_epochs_leave_their_fastest_in_nnunets_format_and_nothing_else(make_trainer, name, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "1")
    trainer = make_trainer(name)
    trainer.run_training()
    trainer.perform_actual_validation()
    assert trainer.current_epoch == 5
    ((key, result),) = result_of(trainer).items()
    assert set(result) >= NNUNETS_KEYS
    assert 0 < result["fastest_epoch"] < 60
    assert result["iterations"] == 1
    assert key.endswith("__num_gpus_1")
    assert not list(Path(trainer.output_folder).glob("*.pth"))
    assert not Path(trainer.output_folder, "validation").exists()


def test_without_loading_every_step_sees_the_same_batch_and_reads_no_case(make_trainer, monkeypatch):
    trainer = make_trainer(WITHOUT_LOADING)
    monkeypatch.setattr(type(trainer), "get_tr_and_val_datasets", lambda _: pytest.fail("data were read"))
    trainer.initialize()
    train, validate = trainer.get_dataloaders()
    assert next(train) is next(train) is next(validate)
    assert next(train)["data"].shape == (2, 2, 16, 32, 32)


@pytest.mark.parametrize(
    ("kind", "channels", "highest"), [("regions", 2, 1), ("three labels", 1, 2), ("ignore", 1, 1)]
)
def test_noise_has_the_shape_and_labels_of_a_batch(make_trainer, kind, channels, highest):
    trainer = make_trainer(WITHOUT_LOADING, kind=kind)
    trainer.on_train_start()
    batch = next(trainer.get_dataloaders()[0])
    (target,) = batch["target"]
    assert target.shape == (2, channels, 16, 32, 32)
    assert target.max() == highest
    assert trainer.train_step(batch)["loss"] > 0


def test_results_of_several_machines_stand_side_by_side(make_trainer, monkeypatch):
    trainer = make_trainer(WITHOUT_LOADING)
    for machine in ("one", "two", "two"):
        monkeypatch.setattr(benchmark.platform, "node", lambda machine=machine: machine)
        trainer._write(1.0)
    assert [key.partition("__")[0] for key in result_of(trainer)] == ["one", "two"]


def test_a_crash_is_written_down_and_not_hidden(make_trainer, monkeypatch):
    trainer = make_trainer(WITHOUT_LOADING)

    def fail(_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(trainer, "train_step", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run_training()
    ((_, result),) = result_of(trainer).items()
    assert "ended due to an error" in result["fastest_epoch"]


def test_a_device_has_a_name():
    assert f", {torch.get_num_threads()} threads" in benchmark.device_name(torch.device("cpu"))
