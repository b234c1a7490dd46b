import math

import pytest
import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from sgnet_nnunet.training.losses import DiceBCELoss, foreground_log_odds


def loss(**kwargs):
    return DiceBCELoss(**{"regions": False, "ignore_label": None, "batch_dice": False} | kwargs)


def test_binary_loss_equals_a_value_worked_out_by_hand():
    # Two voxels, log-odds ln 3 (p = 3/4) and -ln 3 (p = 1/4); the first is tumour.
    logits = torch.tensor([[[0.0, 0.0], [math.log(3), -math.log(3)]]]).view(1, 2, 1, 1, 2)
    target = torch.tensor([1, 0]).view(1, 1, 1, 1, 2)
    dice = 2 * 0.75 / (1 + 1)
    entropy = -math.log(0.75)  # the same at both voxels
    assert loss()(logits, target).item() == pytest.approx(entropy - dice, abs=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_log_odds_are_those_of_the_softmax(classes):
    torch.manual_seed(0)
    logits = torch.randn(2, classes, 3, 4, 5)
    probabilities = torch.softmax(logits, dim=1)[:, 1:]
    torch.testing.assert_close(torch.sigmoid(foreground_log_odds(logits)), probabilities)


def test_two_classes_give_the_difference_of_the_logits():
    logits = torch.tensor([1.5, 4.0]).view(1, 2, 1, 1, 1)
    assert foreground_log_odds(logits).item() == 2.5


def test_log_odds_stay_finite_for_extreme_logits():
    logits = torch.tensor([-3e4, 3e4, 0.0]).view(1, 3, 1, 1, 1)
    assert foreground_log_odds(logits).isfinite().all()


@pytest.mark.parametrize("batch_dice", [False, True])
def test_regions_without_ignored_voxels_equal_nnunets_own_loss(batch_dice):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 2, 4, 4, 4), torch.rand(2, 2, 4, 4, 4) > 0.7
    kwargs = {"batch_dice": batch_dice, "do_bg": True, "smooth": 1e-5, "ddp": False}
    theirs = DC_and_BCE_loss({}, kwargs, dice_class=MemoryEfficientSoftDiceLoss)
    torch.testing.assert_close(
        loss(regions=True, batch_dice=batch_dice)(logits, target), theirs(logits, target)
    )


@pytest.mark.parametrize("regions", [False, True])
def test_ignored_voxels_count_for_nothing(regions):
    torch.manual_seed(0)
    heads = 2 if regions else 3
    logits = torch.randn(1, heads, 2, 4, 4)
    labels = torch.randint(0, 3, (1, 1, 2, 4, 4))
    if regions:
        target = torch.cat([labels >= 1, labels == 2], dim=1)
        ignored = torch.zeros(1, 1, 2, 4, 4, dtype=torch.bool)
        ignored[:, :, 1] = True
        with_ignored = torch.cat([target, ignored], dim=1)
    else:
        target = labels
        with_ignored = labels.clone()
        with_ignored[:, :, 1] = 3
    ours = loss(regions=regions, ignore_label=3)(logits, with_ignored)
    kept = loss(regions=regions)(logits[:, :, :1], target[:, :, :1])
    torch.testing.assert_close(ours, kept)


def test_batch_that_is_all_ignored_gives_a_finite_loss_and_no_gradient():
    logits = torch.randn(1, 2, 2, 2, 2, requires_grad=True)
    value = loss(ignore_label=2)(logits, torch.full((1, 1, 2, 2, 2), 2))
    value.backward()
    assert value.isfinite()
    assert logits.grad.abs().sum() == 0


def test_patch_without_tumour_gives_finite_gradients():
    logits = torch.randn(2, 2, 4, 4, 4, requires_grad=True)
    loss()(logits, torch.zeros(2, 1, 4, 4, 4)).backward()
    assert logits.grad.isfinite().all()


def test_half_precision_logits_of_a_whole_batch_do_not_overflow():
    logits = torch.full((4, 2, 32, 96, 96), 20.0, dtype=torch.float16)
    value = loss(batch_dice=True)(logits, torch.ones(4, 1, 32, 96, 96))
    assert value.dtype == torch.float32
    assert value.isfinite()


def test_float_labels_as_nnunet_loads_them_are_understood():
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 2, 2, 2), torch.randint(0, 3, (1, 1, 2, 2, 2))
    torch.testing.assert_close(loss()(logits, target.float()), loss()(logits, target))
