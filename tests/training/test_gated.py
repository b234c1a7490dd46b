import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.training.gate_monitor import count_gates


def log_of(trainer):
    return Path(trainer.log_file).read_text()


def closed_trainer(make_trainer, *, warm_up):
    """Return a trainer that learns nothing and whose gates admit nothing."""
    trainer = make_trainer(configuration={"gate_supervision": {"warm_up": warm_up}})
    trainer.initial_lr = 0.0
    trainer.initialize()
    with torch.no_grad():
        for block in trainer.sgnet.decoder:
            block.hard_gate.score.bias.fill_(-100.0)
            block.hard_gate.score.weight.zero_()
    return trainer


def test_gates_are_held_open_for_the_first_epochs_and_then_let_go(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "5")
    trainer = closed_trainer(make_trainer, warm_up=0.4)
    trainer.run_training()
    opened = [figures[-1] for figures in trainer.logger.get_value("gate_open_fraction", step=None)]
    assert opened == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert "shuts nothing out" not in log_of(trainer)


def test_best_checkpoint_is_one_whose_gates_decide(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "2")
    trainer = make_trainer()
    trainer.supervision = type(trainer.supervision)(warm_up=0.5)
    dice = iter((0.9, 0.1))
    monkeypatch.setattr(trainer, "on_validation_epoch_end", lambda _: log_epoch(trainer, next(dice)))
    trainer.run_training()
    best = torch.load(f"{trainer.output_folder}/checkpoint_best.pth", weights_only=False)
    assert not best["network_weights"]["decoder.0.hard_gate.bypassed"]
    assert best["current_epoch"] == 2


def log_epoch(trainer, dice):
    trainer.loss.observer = None
    for key, value in {
        "mean_fg_dice": dice,
        "dice_per_class_or_region": [dice],
        "val_losses": 1.0,
        "gate_open_fraction": [1.0] * 3,
        "gate_admitted_voxels": [1.0] * 3,
        "gate_admitted_lesions": [1.0] * 3,
    }.items():
        trainer.logger.log(key, value, trainer.current_epoch)


def test_closed_gates_are_warned_of_each_epoch_and_at_validation(make_trainer):
    trainer = closed_trainer(make_trainer, warm_up=0.0)
    trainer.run_training()
    assert (
        log_of(trainer).count(
            "WARNING: the gate at 1/2 of the resolution shuts out 100.0% of the lesion voxels"
        )
        == 2
    )
    trainer.perform_actual_validation()
    assert log_of(trainer).count("shuts out 100.0% of the whole lesions") == 9
    gates = json.loads(Path(trainer.output_folder, "validation/gates.json").read_text())
    assert list(gates["all_cases"]) == ["1/8", "1/4", "1/2"]
    assert gates["all_cases"]["1/2"]["admitted_voxel_share"] == 0
    assert list(gates["per_case"]) == trainer.do_split()[1]


@pytest.mark.parametrize(("name", "warned"), [("SGNetTrainer", True), ("SGNetSkipGateTrainer", False)])
def test_training_that_ends_before_the_gates_decide_is_warned_of(make_trainer, name, warned):
    trainer = make_trainer(name, configuration={"gate_supervision": {"warm_up": 1.0}})
    trainer.run_training()
    assert ("this network shuts nothing out" in log_of(trainer)) == warned


def test_network_without_a_gate_is_logged_without_figures(make_trainer):
    trainer = make_trainer("SGNetNoGateTrainer")
    trainer.run_training()
    assert trainer.logger.get_value("gate_open_fraction", step=None) == [[], []]
    assert "Gates:" not in log_of(trainer)


def test_figures_count_what_the_gates_admit_of_the_validation_patches(make_trainer):
    trainer = make_trainer()
    trainer.run_training()
    for figures in trainer.logger.get_value("gate_admitted_voxels", step=None):
        assert len(figures) == 3
        assert np.nanmin(figures) >= 0


def test_figures_of_all_processes_are_added(make_trainer, monkeypatch):
    trainer = make_trainer()
    mask = torch.ones(1, 1, 2, 2, 2, dtype=torch.bool)
    trainer._counts = count_gates([mask], mask)
    trainer.is_ddp = True
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(
        torch.distributed,
        "all_gather_object",
        lambda target, mine: target.__setitem__(slice(None), [mine] * 2),
    )
    assert trainer._gathered_counts().lesions.tolist() == [2]


@pytest.mark.parametrize("key", ["positive_weight", "auxiliary_weight", "warm_up"])
def test_plan_carries_the_supervision(make_trainer, key):
    trainer = make_trainer(configuration={"gate_supervision": {key: 0.125}})
    assert getattr(trainer.supervision, key) == 0.125


@pytest.mark.parametrize("planned", [{"warm_up": 2.0}, {"patience": 3}])
def test_plan_with_an_impossible_supervision_is_named(make_trainer, planned):
    with pytest.raises(SGNetError, match=r"plan nnUNetPlans: cannot train gates by gate_supervision=\{"):
        make_trainer(configuration={"gate_supervision": planned}).initialize()


@pytest.mark.parametrize(("kind", "background_head"), [("labels", False), ("regions", True)])
def test_plan_whose_background_does_not_fit_the_labels_is_refused(make_trainer, kind, background_head):
    trainer = make_trainer(kind=kind)
    trainer.configuration_manager.network_arch_init_kwargs["background_head"] = background_head
    with pytest.raises(SGNetError, match=f"background_head={background_head}, but the data set's labels are"):
        trainer.initialize()


def test_plan_without_a_supervision_has_the_default(make_trainer):
    assert (
        make_trainer(configuration={"gate_supervision": {}}).supervision == type(make_trainer().supervision)()
    )


def test_compiled_network_is_unwrapped(make_trainer):
    trainer = make_trainer()
    trainer.initialize()
    network = trainer.network
    trainer.network = torch.compile(network, backend="eager")
    trainer.set_deep_supervision_enabled(True)
    assert trainer.sgnet is network
    assert network.return_gates
