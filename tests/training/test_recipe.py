from pathlib import Path

import pytest
import torch
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.training import base_trainer as recipe


def log_of(trainer):
    return Path(trainer.log_file).read_text()


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


def test_a_training_on_the_cpu_keeps_its_memory_from_its_start(make_trainer, monkeypatch):
    kept = []
    monkeypatch.setattr(recipe, "keep_freed_memory", lambda: kept.append(True))
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
        ("BaselineAttentionUNetTrainer", [True, False]),
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
