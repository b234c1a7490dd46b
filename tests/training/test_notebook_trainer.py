import numpy as np
import pytest
import torch
from monai.losses.dice import DiceCELoss

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.training.notebook_trainer import NotebookLoss, PlateauSchedule, SGNetNotebookTrainer


def test_loss_of_two_softmax_heads_is_the_notebooks_of_one_sigmoid():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 4, 4, 4, generator=generator)
    target = (torch.rand(2, 1, 4, 4, 4, generator=generator) > 0.7).long()
    loss = NotebookLoss(regions=False, ignore_label=None)(logits, target)
    expected = DiceCELoss(sigmoid=True, squared_pred=True)(logits[:, 1:] - logits[:, :1], target.float())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_regions_are_averaged():
    logits = torch.randn(1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    target = (logits > 0.5).long()
    loss = NotebookLoss(regions=True, ignore_label=None)
    apart = [
        DiceCELoss(sigmoid=True, squared_pred=True)(logits[:, c : c + 1], target[:, c : c + 1].float())
        for c in range(2)
    ]
    assert loss(logits, target).item() == pytest.approx(torch.stack(apart).mean().item())


def test_ignored_voxels_have_no_gradient():
    logits = torch.randn(1, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.zeros(1, 1, 4, 4, 4).long()
    target[..., 2:] = 2
    NotebookLoss(regions=False, ignore_label=2)(logits, target).backward()
    assert logits.grad[..., 2:].abs().max() == 0
    assert logits.grad[..., :2].abs().min() > 0


class TestPlateauSchedule:
    def rate_after(self, scores):
        optimizer = torch.optim.Adam([torch.zeros(1)], lr=1.0)
        PlateauSchedule(optimizer, 1e-4, lambda: scores).step(len(scores))
        return optimizer.param_groups[0]["lr"]

    def test_better_scores_keep_the_rate(self):
        assert self.rate_after([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]) == 1e-4

    def test_rate_halves_in_the_sixth_epoch_without_a_better_score(self):
        assert self.rate_after([0.5] * 6) == 1e-4
        assert self.rate_after([0.5] * 7) == 5e-5

    def test_rate_follows_from_the_log_so_a_continued_training_has_it_too(self):
        assert self.rate_after([0.5] * 13) == 2.5e-5


def test_trainer_has_the_notebooks_optimiser_length_and_loss(make_trainer, monkeypatch):
    for name in ("EPOCHS", "ITERS", "VAL_ITERS"):
        monkeypatch.delenv(f"SGNET_{name}")
    trainer = make_trainer("SGNetNotebookTrainer")
    trainer.initialize()
    assert isinstance(trainer.optimizer, torch.optim.Adam)
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-4
    assert isinstance(trainer.loss.segmentation, NotebookLoss)
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.schedule.patience) == (100, 16, 10)


def test_training_stops_on_the_pseudo_dice_itself(make_trainer):
    assert make_trainer("SGNetNotebookTrainer").STALLS_ON == "mean_fg_dice"
    assert make_trainer().STALLS_ON == "ema_fg_dice"


def test_patches_are_turned_in_plane_and_flipped_left_to_right_only(make_trainer):
    trainer = make_trainer("SGNetNotebookTrainer")
    transforms = trainer.get_training_transforms((4, 6, 6), (0, 0), [[1, 1, 1]], (2,), False)
    image = torch.arange(4 * 6 * 6).float().view(1, 4, 6, 6)
    np.random.seed(0)  # noqa: NPY002 - the transforms draw from it
    torch.manual_seed(0)
    seen = set()
    for _ in range(60):
        turned = transforms(image=image.clone(), segmentation=image[:1].clone().long())
        assert torch.equal(turned["segmentation"][0].float(), turned["image"])
        slices = turned["image"][0, :, 0, 0] // 36
        assert slices.tolist() == [0, 1, 2, 3]
        seen.add(turned["image"][0, 0, 0, 0].item())
    assert seen == {0.0, 5.0, 30.0, 35.0}


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_a_subclass_sets_the_probability_of_a_turn(make_trainer, probability):
    trainer = make_trainer(type("Turning", (SGNetNotebookTrainer,), {"PROBABILITY": probability}))
    pipeline = trainer.get_training_transforms((4, 6, 6), (0, 0), [[1, 1, 1]], (2,), False)
    assert pipeline.transforms[0].apply_probability == probability


def test_mirroring_is_left_out_of_inference(make_trainer):
    trainer = make_trainer("SGNetNotebookTrainer")
    rotation, dummy_2d, patch, mirror = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert trainer.inference_allowed_mirroring_axes is None
    assert (rotation, dummy_2d, list(patch), mirror) == ((0.0, 0.0), False, [16, 32, 32], (2,))


def test_patch_that_cannot_be_turned_is_refused_with_its_size(make_trainer):
    trainer = make_trainer("SGNetNotebookTrainer", patch=(16, 32, 48))
    with pytest.raises(SGNetError, match=r"\[16, 32, 48\] \(z, y, x\) is not square in-plane"):
        trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
