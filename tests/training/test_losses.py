import math

import pytest
import torch
from monai.losses.tversky import TverskyLoss
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from torch.nn import functional as F  # noqa: N812

from sgnet_nnunet.networks.gates import GateDecision, GateSupervision
from sgnet_nnunet.networks.sgnet import GatedOutput
from sgnet_nnunet.training.losses import (
    DiceBCELoss,
    GatedLoss,
    SoftTverskyLoss,
    any_foreground,
    foreground_log_odds,
    gate_loss,
)


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


def logits_and_reference(channels=2):
    generator = torch.Generator().manual_seed(0)
    shape = (3, channels, 4, 5, 6)
    logits = torch.randn(shape, generator=generator, requires_grad=True)
    return logits, (torch.rand(shape, generator=generator) > 0.7).float()


def tversky(weight, *, batch_dice=False):
    return SoftTverskyLoss(false_positive_weight=weight, batch_dice=batch_dice, ddp=False)


def test_tversky_equals_a_value_worked_out_by_hand():
    # One voxel of tumour called with 3/4, one of background with 1/4: TP 3/4, FP 1/4, FN 1/4.
    logits = torch.tensor([3.0, 1 / 3]).log().view(1, 1, 1, 1, 2)
    reference = torch.tensor([1.0, 0.0]).view_as(logits)
    expected = 0.75 / (0.75 + 0.7 * 0.25 + 0.3 * 0.25)
    assert tversky(0.7)(logits, reference).item() == pytest.approx(-expected, abs=1e-4)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("weight", [0.2, 0.7])
def test_values_and_gradients_equal_monais(weight, batch_dice):
    logits, reference = logits_and_reference()
    theirs = TverskyLoss(
        sigmoid=True, alpha=weight, beta=1 - weight, batch=batch_dice, smooth_nr=0, smooth_dr=0
    )
    ours, expected = tversky(weight, batch_dice=batch_dice)(logits, reference), theirs(logits, reference)
    torch.testing.assert_close(1 + ours, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, logits)[0] for loss in (ours, expected)), atol=1e-7, rtol=1e-4
    )


@pytest.mark.parametrize("batch_dice", [False, True])
def test_even_weight_equals_nnunets_dice(batch_dice):
    logits, reference = logits_and_reference()
    theirs = loss(batch_dice=batch_dice).overlap
    assert isinstance(theirs, MemoryEfficientSoftDiceLoss)
    torch.testing.assert_close(
        tversky(0.5, batch_dice=batch_dice)(logits, reference), theirs(logits, reference)
    )


def test_the_heavier_a_false_positive_the_dearer_a_prediction_that_floods():
    _, reference = logits_and_reference()
    timid, bold = torch.logit((reference * 0.6).clamp(0.01)), torch.logit((reference + 0.4).clamp(max=0.99))
    losses = {
        weight: [tversky(weight)(logits, reference).item() for logits in (timid, bold)]
        for weight in (0.3, 0.7)
    }
    assert losses[0.7][0] < losses[0.3][0]
    assert losses[0.7][1] > losses[0.3][1]


def test_tversky_ignores_masked_voxels():
    logits, reference = logits_and_reference()
    mask = torch.ones(3, 1, 4, 5, 6)
    mask[:, :, 2:] = 0
    loss = tversky(0.7)
    torch.testing.assert_close(
        loss(logits, reference, loss_mask=mask), loss(logits[:, :, :2], reference[:, :, :2])
    )


def test_processes_pool_their_batches(monkeypatch):
    logits, reference = logits_and_reference()
    loss = SoftTverskyLoss(false_positive_weight=0.7, batch_dice=True, ddp=True)
    elsewhere = []

    def gather_one(sums):
        elsewhere.append(sums)
        return sums[None]

    def gather_both(sums):
        return torch.stack([sums, elsewhere.pop(0)])

    # The other process's sums first, then ours with those gathered.
    monkeypatch.setattr(AllGatherGrad, "apply", gather_one)
    loss(logits[1:2], reference[1:2])
    monkeypatch.setattr(AllGatherGrad, "apply", gather_both)
    gathered = loss(logits[:1], reference[:1])
    pooled, own = (tversky(0.7, batch_dice=True)(logits[:n], reference[:n]) for n in (2, 1))
    torch.testing.assert_close(gathered, pooled)
    assert not torch.isclose(gathered, own)


def test_tversky_of_a_patch_without_tumour_gives_finite_gradients():
    logits, reference = logits_and_reference()
    tversky(0.7)(logits, torch.zeros_like(reference)).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("weight", [-0.1, 0, 1, 2])
def test_weight_beyond_its_range_is_refused(weight):
    with pytest.raises(ValueError, match=f"false_positive_weight must be between 0 and 1; got {weight}"):
        loss(false_positive_weight=weight)


def decision(score):
    return GateDecision(score > 0, score)


def foreground_at(*voxel, size=4):
    foreground = torch.zeros(1, 1, size, size, size, dtype=torch.bool)
    foreground[(0, 0, *voxel)] = True
    return foreground


class TestAnyForeground:
    LABELS = torch.tensor([0, 1, 2, 3]).view(1, 1, 1, 1, 4)

    def test_every_label_but_the_ignored_one_is_foreground(self):
        foreground, known = any_foreground(self.LABELS, regions=False, ignore_label=3)
        assert foreground.flatten().tolist() == [False, True, True, False]
        assert known.flatten().tolist() == [True, True, True, False]

    def test_all_is_known_without_an_ignore_label(self):
        foreground, known = any_foreground(self.LABELS, regions=False, ignore_label=None)
        assert foreground.sum() == 3
        assert known is None

    def test_any_region_is_foreground_and_the_last_channel_is_the_ignored_voxels(self):
        regions = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1]]).view(1, 3, 1, 1, 3)
        foreground, known = any_foreground(regions, regions=True, ignore_label=9)
        assert foreground.flatten().tolist() == [True, True, False]
        assert known.flatten().tolist() == [True, True, False]
        assert any_foreground(regions, regions=True, ignore_label=None)[0].all()


class TestGateLoss:
    def test_target_is_the_max_pooled_foreground_with_its_weight(self):
        score = torch.randn(1, 1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
        target = torch.zeros_like(score)
        target[0, 0, 1, 0, 1] = 1  # the fine voxel (2, 1, 3)
        weight = torch.where(target > 0, 8.0, 1.0)
        expected = F.binary_cross_entropy_with_logits(score, target, weight=weight)
        loss = gate_loss([decision(score)], foreground_at(2, 1, 3), positive_weight=8.0)
        assert loss.item() == pytest.approx(expected.item())

    def test_gates_are_averaged_and_unsupervised_ones_left_out(self):
        scores = [torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 2, 2, 2)]
        gates = [*map(decision, scores), GateDecision(scores[0] > 0)]
        foreground = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
        assert gate_loss(gates, foreground, positive_weight=8.0).item() == pytest.approx(0.6931, abs=1e-4)

    def test_no_gate_costs_nothing(self):
        assert gate_loss([], foreground_at(0, 0, 0), positive_weight=8.0) == 0

    def test_ignored_voxels_count_only_where_they_lie_beside_foreground(self):
        score = torch.full((1, 1, 2, 2, 2), 3.0)
        known = torch.ones(1, 1, 4, 4, 4, dtype=torch.bool)
        known[..., 2:] = False
        # Half of the coarse voxels are ignored; of these one holds a tumour voxel, which is known.
        known[0, 0, 0, 0, 2] = True
        loss = gate_loss([decision(score)], foreground_at(0, 0, 2), positive_weight=1.0, known=known)
        costs = F.softplus(torch.tensor([3.0, 3.0, 3.0, 3.0, -3.0]))
        assert loss.item() == pytest.approx(costs.mean().item())

    def test_all_ignored_is_zero_and_finite(self):
        known = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
        gates = [decision(torch.ones(1, 1, 2, 2, 2))]
        assert gate_loss(gates, known.clone(), positive_weight=8.0, known=known) == 0

    def test_half_precision_scores_far_out_give_a_finite_loss(self):
        score = torch.full((1, 1, 2, 2, 2), -6e4, dtype=torch.float16, requires_grad=True)
        loss = gate_loss([decision(score)], foreground_at(0, 0, 0), positive_weight=100.0)
        loss.backward()
        assert loss.isfinite()
        assert score.grad.isfinite().all()


class TestGatedLoss:
    SEGMENTATION = DiceBCELoss(regions=False, ignore_label=None, batch_dice=True)

    def output(self):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(1, 2, 4, 4, 4, generator=generator, requires_grad=True)
        return GatedOutput(logits, (decision(torch.randn(1, 1, 2, 2, 2, generator=generator)),))

    def test_is_the_sum_of_both_with_the_auxiliary_weight(self):
        output, target = self.output(), foreground_at(1, 1, 1).long()
        gates = gate_loss(output.decisions, target > 0, positive_weight=4.0)
        loss = GatedLoss(self.SEGMENTATION, GateSupervision(positive_weight=4.0, auxiliary_weight=0.3))
        expected = self.SEGMENTATION(output.logits, target) + 0.3 * gates
        assert loss(output, [target]).item() == pytest.approx(expected.item())

    def test_coarser_levels_count_half_as_much_each(self):
        output, target = self.output(), foreground_at(1, 1, 1).long()
        side, coarse = torch.randn(1, 2, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2).long()
        loss = GatedLoss(self.SEGMENTATION, GateSupervision(auxiliary_weight=0.0))
        expected = (self.SEGMENTATION(output.logits, target) + 0.5 * self.SEGMENTATION(side, coarse)) / 1.5
        deep = output._replace(auxiliary_logits=(side,))
        assert loss(deep, [target, coarse]).item() == pytest.approx(expected.item())

    def test_batch_without_foreground_gives_finite_gradients(self):
        output = self.output()
        GatedLoss(self.SEGMENTATION, GateSupervision())(
            output, [torch.zeros(1, 1, 4, 4, 4).long()]
        ).backward()
        assert output.logits.grad.isfinite().all()

    def test_logits_without_gates_are_refused(self):
        loss = GatedLoss(self.SEGMENTATION, GateSupervision())
        with pytest.raises(TypeError, match="needs its GatedOutput; got Tensor"):
            loss(self.output().logits, [foreground_at(1, 1, 1).long()])
