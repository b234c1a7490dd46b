import ast
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

import sgnet_nnunet
from sgnet_nnunet import former_names
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.nnunet import FRAGILE_ATTRIBUTES, TRAINED_ON
from sgnet_nnunet.training import (
    base_trainer,
    baseline_trainers,
    benchmark_trainers,
    notebook_trainer,
    sgnet_trainer,
)
from sgnet_nnunet.training.base_trainer import SCHEDULE_KEY, BaseTrainer
from sgnet_nnunet.training.data_loading import OwnFalsePositives
from sgnet_nnunet.training.settings import TrainingSchedule
from sgnet_nnunet.training.sgnet_trainer import SGNetTrainer

PACKAGE = Path(sgnet_nnunet.__file__).parent
MODULES = (base_trainer, sgnet_trainer, notebook_trainer, baseline_trainers, benchmark_trainers)


def log_of(trainer):
    return Path(trainer.log_file).read_text()


@pytest.mark.slow
def test_no_gpu_falls_back_to_the_cpu_and_says_so(make_trainer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    trainer = make_trainer(device="cuda")
    assert trainer.device == torch.device("cpu")
    assert "no CUDA device found; training on the CPU" in log_of(trainer)


@pytest.mark.parametrize(("given", "axes"), [("1", (0, 1, 2)), ("0", None)])
def test_mirroring_of_inference_can_be_turned_off_and_stays_so(make_trainer, monkeypatch, given, axes):
    monkeypatch.setenv("SGNET_MIRRORING", given)
    monkeypatch.setenv("SGNET_EPOCHS", "1")
    trainer = make_trainer()
    trainer.run_training()
    checkpoint = torch.load(f"{trainer.output_folder}/checkpoint_final.pth", weights_only=False)
    assert trainer.inference_allowed_mirroring_axes == axes
    assert checkpoint["inference_allowed_mirroring_axes"] == axes


def test_a_training_on_the_cpu_keeps_its_memory_from_its_start(make_trainer, monkeypatch):
    kept = []
    monkeypatch.setattr(base_trainer, "keep_freed_memory", lambda: kept.append(True))
    trainer = make_trainer()
    trainer.initialize()
    assert not kept
    trainer.on_train_start()
    assert kept == [True]


@pytest.mark.parametrize(("scale", "warned"), [(65536.0, False), (0.5, True)])
def test_a_training_whose_steps_are_all_left_out_says_so(make_trainer, scale, warned):
    trainer = make_trainer()
    trainer.initialize()
    trainer.grad_scaler = torch.GradScaler("cpu", init_scale=scale)
    trainer.on_train_epoch_end([{"loss": 1.0}])
    assert ("this network is not learning" in log_of(trainer)) is warned


def test_the_optimiser_is_adamw_with_polynomial_decay(make_trainer):
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


class Recorded:
    """A class constant that keeps in `reads` the name of each that is read."""

    def __init__(self, name, value, reads):
        self.name, self.value, self.reads = name, value, reads

    def __get__(self, instance, owner):
        self.reads.add(self.name)
        return self.value


def constants_of(kind):
    """Return the constants of a trainer, its own and inherited ones of this package."""
    ours = [each for each in reversed(kind.__mro__) if each.__module__.startswith("sgnet_nnunet")]
    values = {name: value for each in ours for name, value in vars(each).items()}
    return {name: value for name, value in values.items() if name.isupper() or name == "replaced_arguments"}


TRAINERS = [
    value
    for module in MODULES
    for value in vars(module).values()
    if inspect.isclass(value) and value.__module__ == module.__name__
    if issubclass(value, BaseTrainer) and value not in {BaseTrainer, baseline_trainers.BaselineTrainer}
]


@pytest.mark.parametrize("kind", TRAINERS)
def test_each_constant_of_a_trainer_can_be_overridden_in_a_subclass(make_trainer, kind, tmp_path):
    constants, reads = constants_of(kind), set()
    recorded = {name: Recorded(name, value, reads) for name, value in constants.items()}
    trainer = make_trainer(type(kind.__name__, (kind,), recorded))
    trainer.initialize()
    trainer.get_training_transforms((16, 32, 32), (0, 0), None, (0, 1, 2), False)
    trainer.grad_scaler = torch.GradScaler("cpu")
    trainer.on_train_epoch_end([{"loss": 1.0}])
    trainer.current_epoch = trainer.num_epochs  # past the half from which norms are frozen
    trainer.on_train_epoch_start()
    trainer.on_epoch_start()
    trainer.local_rank = 1  # only process 0 searches
    trainer.find_own_false_positives(OwnFalsePositives(path=tmp_path / "none.json", share=0.25))
    # The notebook's augmentation and schedule take the place of the base trainer's.
    unused = {"NOISE_VARIANCE"} if "PROBABILITY" in constants else set()
    assert reads == set(constants) - unused


def test_no_constant_is_read_through_the_name_of_its_class():
    """Such a constant cannot be overridden in a subclass."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
        found += [
            f"{path.name}: {node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if node.value.id in names and node.attr.isupper()
        ]
    assert found == []


def test_a_subclass_sets_the_noise_of_its_augmentation(make_trainer):
    trainer = make_trainer(type("Noisy", (SGNetTrainer,), {"NOISE_VARIANCE": (0.0, 0.2)}))
    pipeline = trainer.get_training_transforms((16, 32, 32), (0, 0), None, (0, 1, 2), False)
    steps = [getattr(step, "transform", None) for step in pipeline.transforms]
    assert [s.noise_variance for s in steps if isinstance(s, GaussianNoiseTransform)] == [(0.0, 0.2)]


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "updated"),
    [
        ("SGNetTrainer", [True, False]),
        ("SGNetNoGateTrainer", [True, False]),
        ("BaselineAttentionUNetTrainer", [True, False]),
        ("SGNetNotebookTrainer", [True, True]),
    ],
)
def test_batch_norms_keep_their_statistics_in_the_second_half(make_trainer, name, updated):
    trainer = make_trainer(name)
    trainer.num_epochs, trainer.LEAST_BATCHES = 2, 1
    assert epochs_that_update_norms(trainer, first_norm) == updated


@pytest.mark.slow
def test_a_short_training_freezes_only_the_norms_behind_deciding_gates(make_trainer):
    trainer = make_trainer(configuration={"gate_supervision": {"warm_up": 0.5}})
    assert epochs_that_update_norms(trainer, first_norm) == [True, True]
    trainer = make_trainer(configuration={"gate_supervision": {"warm_up": 0.5}})
    assert epochs_that_update_norms(trainer, lambda network: network.decoder[0].conv[1]) == [True, False]


@pytest.mark.parametrize("name", ["SGNetTrainer", "BaselineUNetTrainer"])
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


def test_instance_norms_are_refused_before_the_training(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_BF16", "1")
    with pytest.raises(SGNetError, match=r"UNet has instance norms, .* \(NaN\); unset it"):
        make_trainer("BaselineUNetTrainer").initialize()


def test_a_trainer_trains_in_bfloat16_and_says_so(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_BF16", "1")
    monkeypatch.setenv("SGNET_EPOCHS", "1")
    trainer = make_trainer()
    trainer.initialize()
    seen = []
    trainer.network.head.register_forward_hook(lambda *passed: seen.append(passed[-1].dtype))
    trainer.run_training()
    assert set(seen) == {torch.bfloat16}
    assert next(trainer.network.parameters()).dtype == torch.float32
    assert np.isfinite(trainer.logger.get_value("train_losses", step=None)).all()
    assert "in bfloat16 (SGNET_BF16=1)" in Path(trainer.log_file).read_text()


def interrupt_at(trainer, *, epoch):
    start = trainer.on_train_epoch_start

    def start_or_interrupt():
        if trainer.current_epoch == epoch:
            raise KeyboardInterrupt
        start()

    return start_or_interrupt


def test_the_schedule_from_the_environment_is_used_logged_and_kept_in_the_checkpoint(
    make_trainer, monkeypatch
):
    monkeypatch.setenv("SGNET_EPOCHS", "1")
    trainer = make_trainer()
    trainer.run_training()
    assert trainer.current_epoch == 1
    assert "TrainingSchedule(epochs=1, iters=1, val_iters=1, patience=0)" in log_of(trainer)
    checkpoint = torch.load(f"{trainer.output_folder}/checkpoint_final.pth", weights_only=False)
    assert checkpoint["init_args"][SCHEDULE_KEY] == {"epochs": 1, "iters": 1, "val_iters": 1, "patience": 0}


@pytest.mark.slow
def test_resuming_continues_with_the_schedule_the_training_started_with(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "3")
    interrupted = make_trainer()
    interrupted.save_every = 1
    monkeypatch.setattr(interrupted, "on_train_epoch_start", interrupt_at(interrupted, epoch=1))
    with pytest.raises(KeyboardInterrupt):
        interrupted.run_training()
    monkeypatch.setenv("SGNET_EPOCHS", "7")
    resumed = make_trainer(continue_training=True)
    resumed.load_checkpoint(f"{interrupted.output_folder}/checkpoint_latest.pth")
    assert resumed.schedule == TrainingSchedule(epochs=3, iters=1, val_iters=1)
    assert resumed.lr_scheduler.max_steps == resumed.num_epochs == 3
    assert "Continuing with the checkpoint's TrainingSchedule(epochs=3" in log_of(resumed)
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


@pytest.mark.slow
def test_training_stops_when_the_pseudo_dice_stalls_and_stays_stopped_on_resume(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "9")
    monkeypatch.setenv("SGNET_PATIENCE", "1")
    trainer = make_trainer("SGNetNoGateTrainer")
    monkeypatch.setattr(
        trainer,
        "validation_step",
        lambda _: {"loss": 0.0, **dict.fromkeys(("tp_hard", "fp_hard", "fn_hard"), np.ones(1))},
    )
    trainer.run_training()
    assert trainer.current_epoch == 2
    assert "Stopped early" in log_of(trainer)
    final = f"{trainer.output_folder}/checkpoint_final.pth"
    resumed = make_trainer("SGNetNoGateTrainer", continue_training=True)
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
    with pytest.raises(SGNetError, match=rf"{target.name}: cannot be written, the disk of .* is full"):
        trainer.save_checkpoint(str(target))
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.glob("*.pth")] == [target.name]


def test_disabled_checkpointing_writes_nothing(make_trainer):
    trainer = make_trainer()
    trainer.disable_checkpointing = True
    trainer.initialize()
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    assert list(Path(trainer.output_folder).glob("*.pth")) == []


def test_a_checkpoint_is_written_once(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.initialize()
    written, save = [], torch.save
    monkeypatch.setattr(torch, "save", lambda *passed: (written.append(1), save(*passed)))
    trainer.save_checkpoint(f"{trainer.output_folder}/checkpoint_latest.pth")
    assert written == [1]


def test_the_content_of_a_checkpoint_can_be_loaded_like_its_path(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "3")
    first = make_trainer()
    first.initialize()
    path = f"{first.output_folder}/checkpoint_best.pth"
    first.save_checkpoint(path)
    monkeypatch.setenv("SGNET_EPOCHS", "5")
    second = make_trainer()
    second.load_checkpoint(torch.load(path, weights_only=False))
    assert second.num_epochs == 3
    weights = second.network.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in first.network.state_dict().items())


def split_of(trainer, folder, training, validation):
    """Give a trainer a fold of some of the cases 0 to 4, and return its split."""
    train, val = ([f"case{i}" for i in part] for part in (training, validation))
    (folder / "splits_final.json").write_text(json.dumps([{"train": train, "val": val}]))
    trainer.preprocessed_dataset_folder_base = str(folder)
    return trainer.do_split()


@pytest.fixture
def checkpoint(make_trainer, tmp_path):
    """Return a checkpoint of a fold that was trained on the cases 0, 1 and 2."""
    trainer = make_trainer()
    trainer.initialize()
    split_of(trainer, tmp_path, (0, 1, 2), (3,))
    path = f"{trainer.output_folder}/checkpoint_latest.pth"
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize(
    ("training", "validation", "refused", "warned"),
    [
        ((2, 1, 0), (3,), False, ""),
        ((0, 1), (2, 3), True, ""),
        ((1, 2, 3), (0,), True, ""),
        ((0, 1, 2), (3, 4), False, ""),
        ((0, 1, 2, 4), (3,), False, "case4"),
        ((1, 2), (3,), False, "case0"),
        ((0, 1, 2), (2, 3), False, ""),  # such a split is the user's own
    ],
)
def test_weights_are_not_validated_on_cases_they_were_trained_on(
    make_trainer, checkpoint, tmp_path, training, validation, refused, warned
):
    trainer = make_trainer(continue_training=True)
    trainer.load_checkpoint(checkpoint)
    if refused:
        with pytest.raises(InputFileError, match="this network was trained on; restore") as raised:
            split_of(trainer, tmp_path, training, validation)
        assert raised.value.path == tmp_path / "splits_final.json"
        return
    assert [len(part) for part in split_of(trainer, tmp_path, training, validation)] == [
        len(training),
        len(validation),
    ]
    assert ("training cases changed" in log_of(trainer)) == bool(warned)
    assert warned in log_of(trainer)
    # What was once trained on stays so.
    with pytest.raises(InputFileError, match="validates on case0"):
        split_of(trainer, tmp_path, (1, 2), (0, 3))


def test_a_fold_with_a_case_that_is_not_preprocessed_is_refused(make_trainer, tmp_path):
    with pytest.raises(InputFileError, match="fold 0 has the case case7, which is not in"):
        split_of(make_trainer(), tmp_path, (0, 1, 7), (2,))


def test_fold_all_continues_with_added_cases(make_trainer):
    trainer = make_trainer(fold="all")
    trainer.my_init_kwargs[TRAINED_ON] = ["case0", "case1"]
    training, validation = trainer.do_split()
    assert sorted(training) == sorted(validation) == [f"case{i}" for i in range(5)]


def test_a_training_says_that_nnunet_has_earlier_folds(make_trainer, monkeypatch):
    error = InputFileError("splits_final.json", "has other folds", "delete it")
    monkeypatch.setattr(base_trainer, "changed_folds", lambda _: error)
    trainer = make_trainer()
    trainer.on_train_start()
    assert f"WARNING: {error}" in log_of(trainer)


def test_a_checkpoint_of_010_continues_with_its_schedule_and_log(make_trainer, monkeypatch):
    monkeypatch.setenv("SGNET_EPOCHS", "3")
    trainer = make_trainer()
    trainer.on_train_start()
    trainer.logger.log("gate_kept_lesion_voxels", [0.5] * 3, 0)
    path = f"{trainer.output_folder}/checkpoint_latest.pth"
    trainer.save_checkpoint(path)
    former = torch.load(path, weights_only=False)
    former[former_names.SCHEDULE] = former["init_args"].pop(SCHEDULE_KEY)
    for old, present in former_names.LOG_KEYS.items():
        former["logging"][old] = former["logging"].pop(present)
    torch.save(former, path)
    monkeypatch.setenv("SGNET_EPOCHS", "5")
    resumed = make_trainer(continue_training=True)
    resumed.load_checkpoint(path)
    assert resumed.schedule == TrainingSchedule(epochs=3, iters=1, val_iters=1)
    assert resumed.logger.get_value("gate_kept_lesion_voxels", step=None) == [[0.5] * 3]
    resumed.save_checkpoint(path)
    assert torch.load(path, weights_only=False)["init_args"][SCHEDULE_KEY]["epochs"] == 3


@pytest.mark.parametrize("name", FRAGILE_ATTRIBUTES)
def test_a_trainer_has_the_attributes_of_nnunet_that_are_relied_on(make_trainer, name):
    found = make_trainer()
    for part in name.split("."):
        assert hasattr(found, part), f"nnU-Net has renamed {name}; sgnet_nnunet relies on it"
        found = getattr(found, part)
