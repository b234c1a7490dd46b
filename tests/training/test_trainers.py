"""What nnU-Net does with a trainer: train, go on, validate, export, install and ensemble."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing import model_export, model_import

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.plugin.shims import SHIMS
from sgnet_nnunet.training import baseline_trainers, benchmark_trainers, notebook_trainer, sgnet_trainer

TRAINERS_BY_NAME = {
    name: value
    for module in (sgnet_trainer, notebook_trainer, baseline_trainers, benchmark_trainers)
    for name, value in vars(module).items()
}


NAMES = SHIMS[0].names
GATED = ("SGNetTrainer", "SGNetDeepSupervisionTrainer", "SGNetSkipGateTrainer", "SGNetSoftGateTrainer")


@pytest.fixture
def results(monkeypatch):
    """Return a function that points nnU-Net to another results folder."""

    def use(folder: Path) -> Path:
        folder.mkdir()
        monkeypatch.setenv("nnUNet_results", str(folder))
        return folder

    return use


def interrupted(trainer):
    """Return a trainer that has written a checkpoint before its first epoch."""
    trainer.on_train_start()
    trainer.current_epoch = -1  # nnU-Net writes down the epoch to go on with
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    return trainer


def go_on(make_trainer, trainer):
    """Return a new trainer that goes on where another was interrupted, as `--c` does."""
    resumed = make_trainer(type(trainer).__name__, fold=trainer.fold, continue_training=True)
    resumed.load_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    assert resumed.current_epoch == 0
    return resumed


@pytest.mark.parametrize("name", NAMES)
def test_trains_goes_on_validates_and_predicts_as_an_ensemble_from_a_zip(
    make_trainer, results, tmp_path, name
):
    results(tmp_path / "trained")
    make_trainer(name, fold=0).run_training()
    trainer = go_on(make_trainer, interrupted(make_trainer(name, fold=1)))
    trainer.run_training()
    assert np.isfinite(trainer.logger.get_value("train_losses", step=None)).all()
    assert trainer.current_epoch == 2
    final = Path(trainer.output_folder, "checkpoint_final.pth")
    assert torch.load(final, weights_only=False)["trainer_name"] == name

    validated = make_trainer(name, fold=0)
    validated.load_checkpoint(str(Path(validated.output_folder, "checkpoint_final.pth")))
    validated.perform_actual_validation()
    validation = Path(validated.output_folder, "validation")
    assert json.loads((validation / "summary.json").read_text())["foreground_mean"]
    assert (validation / "gates.json").exists() == (name in GATED)
    (Path(trainer.output_folder) / "validation").mkdir()
    (Path(trainer.output_folder) / "validation/summary.json").write_text("{}")

    archive = tmp_path / "model.zip"
    model_export.export_pretrained_model(
        validated.plans_manager.dataset_name, str(archive), ("3d_fullres",), name, folds=(0, 1)
    )
    installed = results(tmp_path / "installed")
    model_import.install_model_from_zip_file(str(archive))
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    model = installed / validated.plans_manager.dataset_name / f"{name}__nnUNetPlans__3d_fullres"
    predictor.initialize_from_trained_model_folder(str(model), (0, 1), "checkpoint_final.pth")
    assert len(predictor.list_of_parameters) == 2
    logits = predictor.predict_logits_from_preprocessed_data(torch.rand(2, 20, 40, 40))
    assert logits.shape == (2, 20, 40, 40)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", ["SGNetTrainer", "SGNetNotebookTrainer"])
@pytest.mark.parametrize(
    ("kind", "heads"), [("labels", 2), ("regions", 2), ("three labels", 3), ("ignore", 2)]
)
def test_every_kind_of_label_trains(make_trainer, name, kind, heads):
    trainer = make_trainer(name, kind=kind)
    trainer.run_training()
    assert trainer.network.head.out_channels == heads
    assert trainer.network.background_head == (kind != "regions")
    assert np.isfinite(trainer.logger.get_value("train_losses", step=None)).all()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("SGNetTrainer", 668_909),
        ("SGNetDeepSupervisionTrainer", 669_007 + 65 + 33),  # a second head on these, too
        ("SGNetSkipGateTrainer", 668_797),
        ("SGNetSoftGateTrainer", 668_797),
        ("SGNetNoGateTrainer", 668_673),
        ("SGNetNotebookTrainer", 668_673),
    ],
)
def test_each_trainer_builds_its_own_gate_from_the_same_plan(make_trainer, name, parameters):
    trainer = make_trainer(name)
    trainer.initialize()
    assert sum(p.numel() for p in trainer.network.parameters()) == parameters + 17  # a second head


def test_sgnet_trainer_builds_the_gate_that_the_plan_names(make_trainer):
    trainer = make_trainer()
    kwargs = trainer.configuration_manager.network_arch_init_kwargs
    kwargs["gate"], kwargs["gate_kwargs"] = "none", {}
    trainer.initialize()
    assert isinstance(trainer.network, SGNet)
    assert sum(p.numel() for p in trainer.network.parameters()) == 668_673 + 17  # a second head


def test_plan_of_another_network_is_refused_with_the_command_that_mends_it(make_trainer):
    trainer = make_trainer()
    trainer.configuration_manager.configuration["architecture"]["network_class_name"] = "some.PlainConvUNet"
    with pytest.raises(SGNetError, match=r"network some\.PlainConvUNet, not SG-Net; .*-pl SGNetPlanner"):
        trainer.initialize()


def test_trainers_for_a_read_only_nnunet_are_those_of_the_wheel():
    import runpy  # noqa: PLC0415

    folder = Path(__file__).parents[2] / "trainers"
    assert set(runpy.run_path(str(folder / "sgnet_trainers.py"))["__all__"]) == set(NAMES)
    assert all(name in TRAINERS_BY_NAME for name in NAMES)
