import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.model_sharing import model_export, model_import
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.training.gate_monitor import count_gates
from sgnet_nnunet.training.sgnet_trainer import GATE_COUNTS, VALIDATION_KEY


def log_of(trainer):
    return Path(trainer.log_file).read_text()


def closed_trainer(make_trainer, *, warm_up):
    """Return a trainer that learns nothing and whose gates keep nothing."""
    trainer = make_trainer(configuration={"gate_supervision": {"warm_up": warm_up}})
    trainer.initial_lr = 0.0
    trainer.initialize()
    with torch.no_grad():
        for block in trainer.sgnet.decoder:
            block.hard_gate.score.bias.fill_(-100.0)
            block.hard_gate.score.weight.zero_()
    return trainer


@pytest.mark.slow
def test_gates_are_bypassed_for_the_first_epochs_and_then_enabled(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "5")
    trainer = closed_trainer(make_trainer, warm_up=0.4)
    trainer.run_training()
    opened = [figures[-1] for figures in trainer.logger.get_value("gate_open_fraction", step=None)]
    assert opened == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert "of this network suppress nothing" not in log_of(trainer)


@pytest.mark.slow
def test_the_best_checkpoint_is_one_with_enabled_gates(make_trainer, monkeypatch):
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
    for key, value in {
        "mean_fg_dice": dice,
        "dice_per_class_or_region": [dice],
        "val_losses": 1.0,
        "gate_open_fraction": [1.0] * 3,
        "gate_kept_lesion_voxels": [1.0] * 3,
        "gate_kept_lesions": [1.0] * 3,
    }.items():
        trainer.logger.log(key, value, trainer.current_epoch)


@pytest.mark.slow
@pytest.mark.slow
def test_closed_gates_are_warned_of_each_epoch_and_at_validation(make_trainer):
    trainer = closed_trainer(make_trainer, warm_up=0.0)
    trainer.run_training()
    assert (
        log_of(trainer).count(
            "WARNING: the gate at 1/2 of the resolution suppresses 100.0% of the lesion voxels"
        )
        == 2
    )
    trainer.validation_engine = "sparse"
    trainer.perform_actual_validation()
    assert log_of(trainer).count("suppresses 100.0% of the whole lesions") == 9
    gates = json.loads(Path(trainer.output_folder, "validation/gates.json").read_text())
    assert list(gates["all_cases"]) == ["1/8", "1/4", "1/2"]
    assert gates["all_cases"]["1/2"]["kept_lesion_voxel_share"] == 0
    assert list(gates["per_case"]) == trainer.do_split()[1]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "warned"), [("SGNetTrainer", True), ("SGNetSkipGateTrainer", False)])
def test_a_training_that_ends_before_its_gates_are_enabled_is_warned_of(make_trainer, name, warned):
    trainer = make_trainer(name, configuration={"gate_supervision": {"warm_up": 1.0}})
    trainer.run_training()
    assert ("of this network suppress nothing" in log_of(trainer)) == warned


def test_network_without_a_gate_is_logged_without_figures(make_trainer):
    trainer = make_trainer("SGNetNoGateTrainer")
    trainer.run_training()
    assert trainer.logger.get_value("gate_open_fraction", step=None) == [[], []]
    assert "Gates:" not in log_of(trainer)


def test_figures_count_what_the_gates_keep_of_the_validation_patches(make_trainer):
    trainer = make_trainer()
    trainer.run_training()
    for figures in trainer.logger.get_value("gate_kept_lesion_voxels", step=None):
        assert len(figures) == 3
        assert np.nanmin(figures) >= 0


def test_figures_of_all_processes_are_added(make_trainer, monkeypatch):
    trainer = make_trainer()
    mask = torch.ones(1, 1, 2, 2, 2, dtype=torch.bool)
    batches = [{GATE_COUNTS: np.stack(count_gates([mask], mask))}] * 3
    trainer.is_ddp = True
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(
        torch.distributed,
        "all_gather_object",
        lambda target, mine: target.__setitem__(slice(None), [mine] * 2),
    )
    assert trainer._gathered_counts(batches).lesions.tolist() == [6]


@pytest.mark.parametrize("key", ["positive_weight", "auxiliary_weight", "warm_up"])
def test_plan_carries_the_supervision(make_trainer, key):
    trainer = make_trainer(configuration={"gate_supervision": {key: 0.125}})
    assert getattr(trainer.supervision, key) == 0.125


@pytest.mark.parametrize("planned", [{"warm_up": 2.0}, {"patience": 3}])
def test_plan_with_an_impossible_supervision_is_named(make_trainer, planned):
    with pytest.raises(SGNetError, match=r"plan nnUNetPlans: cannot train with gate_supervision=\{"):
        make_trainer(configuration={"gate_supervision": planned}).initialize()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "regions", "ignore"])
def test_every_option_of_the_losses_trains_the_weights(make_trainer, kind):
    gates = {"warm_up": 0.0, "open_loss": True, "lesion_weighted": True, "hardest_negatives": 0.2}
    planned = {"loss": {"bicc_weight": 0.5, "top_k": 0.1}, "gate_supervision": gates}
    trainer = make_trainer(kind=kind, configuration=planned)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    before = [parameter.clone() for parameter in trainer.network.parameters()]
    for _ in range(2):
        assert np.isfinite(trainer.train_step(next(trainer.dataloader_train))["loss"])
    after = list(trainer.network.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    assert not any(map(torch.equal, before[:1], after[:1]))
    trainer.on_train_end()


@pytest.mark.parametrize("loss", [{"bicc_weight": 2}, {"top_k": "much"}, {"bicc": 0.5}, 0.5])
def test_plan_with_an_impossible_loss_is_named(make_trainer, loss):
    with pytest.raises(SGNetError, match=r"plan nnUNetPlans: cannot train with loss=.*"):
        make_trainer(configuration={"loss": loss}).build_segmentation_loss()


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


def test_a_validation_step_that_does_not_run_the_network_is_reported(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.on_train_start()
    monkeypatch.setattr(nnUNetTrainer, "validation_step", lambda *_: {"loss": 0.0})
    with pytest.raises(RuntimeError, match=r"ran the network 0 times.* this release of nnU-Net"):
        trainer.validation_step(next(trainer.dataloader_val))


@pytest.mark.slow
def test_gate_figures_of_a_compiled_network_arrive(make_trainer):
    trainer = make_trainer()
    trainer.on_train_start()
    trainer.network = torch.compile(trainer.network, backend="eager")
    with torch.no_grad():
        assert trainer.validation_step(next(trainer.dataloader_val))[GATE_COUNTS].shape == (6, 3)


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
    trainer.current_epoch = -1  # nnU-Net writes down the epoch to continue with
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    return trainer


def resume(make_trainer, trainer):
    """Return a new trainer that continues where another was interrupted, as `--c` does."""
    resumed = make_trainer(type(trainer).__name__, fold=trainer.fold, continue_training=True)
    resumed.load_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    assert resumed.current_epoch == 0
    return resumed


@pytest.mark.slow
@pytest.mark.slow
def test_trains_continues_validates_and_predicts_as_an_ensemble_from_a_zip(make_trainer, results, tmp_path):
    name = "SGNetTrainer"
    results(tmp_path / "trained")
    make_trainer(name, fold=0).run_training()
    trainer = resume(make_trainer, interrupted(make_trainer(name, fold=1)))
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
    assert (validation / "gates.json").is_file()
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["SGNetSkipGateTrainer", "SGNetSoftGateTrainer", "SGNetNoGateTrainer", "SGNetDeepSupervisionTrainer"],
)
def test_each_variant_trains(make_trainer, name):
    trainer = make_trainer(name)
    trainer.run_training()
    assert np.isfinite(trainer.logger.get_value("train_losses", step=None)).all()
    final = Path(trainer.output_folder, "checkpoint_final.pth")
    assert torch.load(final, weights_only=False)["trainer_name"] == name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "heads"),
    [
        ("SGNetTrainer", "regions", 2),
        ("SGNetTrainer", "three labels", 3),
        ("SGNetTrainer", "ignore", 2),
        ("SGNetNotebookTrainer", "regions", 2),
        ("SGNetNotebookTrainer", "ignore", 2),
    ],
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


def test_plan_of_another_network_is_refused_with_the_command_that_fixes_it(make_trainer):
    trainer = make_trainer()
    trainer.configuration_manager.configuration["architecture"]["network_class_name"] = "some.PlainConvUNet"
    with pytest.raises(SGNetError, match=r"network some\.PlainConvUNet, not SG-Net; .*-pl SGNetPlanner"):
        trainer.initialize()


@pytest.mark.slow
class TestValidationEngine:
    @pytest.mark.slow
    @pytest.mark.parametrize("engine", ["whole", "auto"])
    def test_masks_are_those_of_whole_image_prediction(self, make_trainer, monkeypatch, engine):
        monkeypatch.setenv("SGNET_VALIDATION_ENGINE", engine)
        trainer = make_trainer()
        trainer.initialize()
        trainer.sgnet.bypass_gates(False)
        trainer.perform_actual_validation()
        folder = Path(trainer.output_folder, "validation")
        summary = json.loads((folder / "summary.json").read_text())
        assert summary[VALIDATION_KEY] == {
            "engine": {"auto": "sparse"}.get(engine, engine),
            "mirroring": False,
        }
        cases = trainer.do_split()[1]
        assert len(summary["metric_per_case"]) == len(cases)
        assert (folder / "gates.json").is_file()
        assert trainer.sgnet.return_gates
        for case in cases:
            assert np.array_equal(read_mask(folder / f"{case}.nii.gz"), whole_image_mask(trainer, case))

    @pytest.mark.slow
    def test_probabilities_are_written_for_nnunets_ensembles(self, make_trainer, monkeypatch):
        monkeypatch.setenv("SGNET_VALIDATION_ENGINE", "whole")
        trainer = make_trainer(kind="regions")
        trainer.initialize()
        trainer.perform_actual_validation(save_probabilities=True)
        for case in trainer.do_split()[1]:
            assert Path(trainer.output_folder, "validation", f"{case}.npz").is_file()
            assert Path(trainer.output_folder, "validation", f"{case}.pkl").is_file()

    @pytest.mark.parametrize("what", ["image", "weights"])
    def test_what_is_no_number_gives_no_mask(self, make_trainer, monkeypatch, what):
        monkeypatch.setenv("SGNET_VALIDATION_ENGINE", "sparse")
        trainer = make_trainer()
        trainer.initialize()
        trainer.sgnet.bypass_gates(False)
        case = trainer.do_split()[1][0]
        if what == "weights":
            trainer.sgnet.encoder[0][0].weight.data[0, 0, 1, 1, 1] = torch.nan
        else:
            load_case = trainer.dataset_class.load_case

            def without_numbers(dataset, name):
                data, *others = load_case(dataset, name)
                data = np.array(data[:])
                data[0, 5, 5, 5] = np.nan
                return data, *others

            monkeypatch.setattr(trainer.dataset_class, "load_case", without_numbers)
        problem = {"image": rf"{case}: preprocessed image: not finite", "weights": "not finite"}[what]
        with pytest.raises(SGNetError, match=problem):
            trainer.perform_actual_validation()
        assert not list(Path(trainer.output_folder, "validation").glob("*.nii.gz"))

    def test_an_engine_that_the_network_does_not_support_is_refused_before_the_training(
        self, make_trainer, monkeypatch
    ):
        monkeypatch.setenv("SGNET_VALIDATION_ENGINE", "sparse")
        with pytest.raises(SGNetError, match="--engine sparse: SGNet has no nested hard spatial gate"):
            make_trainer("SGNetNoGateTrainer").initialize()

    def test_an_unknown_engine_is_refused_before_the_training(self, make_trainer, monkeypatch):
        monkeypatch.setenv("SGNET_VALIDATION_ENGINE", "tiled")
        with pytest.raises(SGNetError, match="SGNET_VALIDATION_ENGINE='tiled': must be auto or whole or spa"):
            make_trainer()


def read_mask(path):
    return np.asarray(nib.load(path).dataobj)


def whole_image_mask(trainer, case):
    """Return the mask of a case by the network's own forward pass over the whole image, on nibabel's axes."""
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder, [case])
    data, _, _, properties = dataset.load_case(case)
    image = torch.from_numpy(data[:])[None]
    padding = [n for size in reversed(image.shape[2:]) for n in (0, -size % trainer.sgnet.divisor)]
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    with torch.inference_mode():
        logits = trainer.network(torch.nn.functional.pad(image, padding))[0]
    trainer.set_deep_supervision_enabled(True)
    z, y, x = image.shape[2:]
    mask = convert_predicted_logits_to_segmentation_with_correct_shape(
        logits[:, :z, :y, :x],
        trainer.plans_manager,
        trainer.configuration_manager,
        trainer.label_manager,
        properties,
        num_threads_torch=1,
    )
    return mask.transpose(2, 1, 0)
