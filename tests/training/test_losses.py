import math

import numpy as np
import pytest
import torch
from monai.losses.tversky import TverskyLoss
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.training.loss.robust_ce_loss import TopKLoss
from nnunetv2.utilities.ddp_allgather import AllGatherGrad
from scipy import ndimage
from torch.nn import functional as F  # noqa: N812

from sgnet_nnunet.networks.gates import GateDecision, GateSupervision
from sgnet_nnunet.networks.sgnet import GatedOutput
from sgnet_nnunet.training.losses import (
    DiceBCELoss,
    GatedLoss,
    LossSettings,
    SoftTverskyLoss,
    any_foreground,
    bicc_loss,
    cells_of,
    foreground_log_odds,
    gate_loss,
    label_lesions,
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


def blobs(generator, *, shape=(2, 2, 6, 7, 8), share=0.06):
    """Return logits and a reference, 0 or 1, with a few small components each."""
    logits, reference = (torch.rand(shape, generator=generator) < share for _ in range(2))
    noise = torch.rand(shape, generator=generator)
    return torch.where(logits, 0.2 + 2 * noise, -0.2 - 2 * noise), reference.float()


def bicc_by_hand(logits, reference, counted):
    """Return the loss of a patch from all distances, voxel by voxel; NumPy alone."""
    probability = np.where(counted, 1 / (1 + np.exp(-logits)), 0)
    reference = np.where(counted, reference, 0)
    voxels = np.stack(np.indices(reference.shape), -1).reshape(-1, 3)
    sides = []
    for side in (reference > 0, probability > 0.5):
        labels, number = ndimage.label(side, structure=np.ones((3, 3, 3)))
        if not number:
            continue
        members = [labels.ravel() == each for each in range(1, number + 1)]
        distances = [((voxels[:, None] - voxels[each]) ** 2).sum(-1).min(1) for each in members]
        cells, losses = cells_of(labels, number).ravel() - 1, []
        # The nearest, though which of several as near is not defined.
        assert (np.take_along_axis(np.array(distances), cells[None], 0)[0] == np.min(distances, 0)).all()
        for each, member in enumerate(members):
            p, t = (value.ravel()[cells == each] for value in (probability, reference))
            alone = probability.ravel()[member].mean() - 1
            losses.append(-2 * (p * t).sum() / (p.sum() + t.sum()) if t.any() else alone)
        sides.append(np.mean(losses))
    return np.mean(sides) if sides else 0.0


class TestBicc:
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("share", [0.005, 0.03, 0.08])
    def test_equals_the_definition_worked_out_voxel_by_voxel(self, share, masked):
        generator = torch.Generator().manual_seed(round(1000 * share))
        logits, reference = blobs(generator, share=share)
        mask = (torch.rand(2, 1, 6, 7, 8, generator=generator) > 0.3).float() if masked else None
        counted = np.ones((2, 1, 6, 7, 8), bool) if mask is None else mask.numpy() > 0
        expected = [
            bicc_by_hand(logits[n, c].double().numpy(), reference[n, c].numpy(), counted[n, 0])
            for n in range(2)
            for c in range(2)
        ]
        assert bicc_loss(logits, reference, mask).item() == pytest.approx(np.mean(expected), abs=1e-5)

    def test_a_small_false_positive_costs_as_much_as_a_large_one(self):
        reference = torch.zeros(1, 1, 4, 8, 8)
        small, large = torch.full_like(reference, -30), torch.full_like(reference, -30)
        small[0, 0, 1, 1, 1] = 1.5
        large[0, 0, 1:3, 1:6, 1:6] = 1.5
        losses = [bicc_loss(logits, reference, None).item() for logits in (small, large)]
        assert losses == pytest.approx([torch.tensor(1.5).sigmoid().item() - 1] * 2, abs=1e-5)

    def test_the_gradient_suppresses_every_false_positive_component(self):
        reference = torch.zeros(1, 1, 4, 9, 9)
        reference[..., 1:3, 1:3, 1:3] = 1
        logits = torch.where(reference > 0, 3.0, -6.0)
        false = torch.zeros_like(reference, dtype=torch.bool)
        false[..., 1:3, 6:8, 6:8] = True
        logits = torch.where(false, 4.0, logits).requires_grad_()
        (gradient,) = torch.autograd.grad(bicc_loss(logits, reference, None), logits)
        assert (gradient[false] > 0).all()
        assert (gradient[reference > 0] < 0).all()

    def test_a_patch_without_a_component_is_zero_with_finite_gradients(self):
        logits = torch.full((2, 1, 4, 4, 4), -30.0, requires_grad=True)
        value = loss(regions=True, settings=LossSettings(bicc_weight=1.0))(logits, torch.zeros(2, 1, 4, 4, 4))
        value.backward()
        assert bicc_loss(logits, torch.zeros_like(logits), None) == 0
        assert logits.grad.isfinite().all()

    def test_all_probabilities_at_the_extremes_have_finite_gradients(self):
        _, reference = blobs(torch.Generator().manual_seed(5))
        for value in (-1e4, 1e4):
            logits = torch.full_like(reference, value, requires_grad=True)
            bicc_loss(logits, reference, None).backward()
            assert logits.grad.isfinite().all()


class TestLossSettings:
    def test_bicc_takes_its_weight_from_dice(self):
        logits, reference = blobs(torch.Generator().manual_seed(1))
        given = loss(regions=True, settings=LossSettings(bicc_weight=0.75))
        entropy = F.binary_cross_entropy_with_logits(logits, reference)
        dice, bicc = given.overlap(logits, reference), bicc_loss(logits, reference, None)
        torch.testing.assert_close(given(logits, reference), 0.25 * dice + 0.75 * bicc + entropy)

    @pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
    def test_top_k_equals_nnunets_where_that_is_the_cross_entropy_of_two_classes(self, share):
        generator = torch.Generator().manual_seed(2)
        logits = torch.randn(2, 2, 5, 6, 7, generator=generator)
        target = torch.randint(0, 2, (2, 1, 5, 6, 7), generator=generator)
        given = loss(settings=LossSettings(top_k=share))
        log_odds, reference = foreground_log_odds(logits), target.float()
        expected = given.overlap(log_odds, reference) + TopKLoss(k=100 * share)(logits, target)
        torch.testing.assert_close(given(logits, target), expected)

    @pytest.mark.parametrize("regions", [False, True])
    @pytest.mark.parametrize(
        "settings", [{"top_k": 0.2}, {"bicc_weight": 0.5}, {"bicc_weight": 1, "top_k": 0.1}]
    )
    def test_nothing_of_an_ignored_voxel_counts(self, settings, regions):
        generator = torch.Generator().manual_seed(3)
        logits = torch.randn(2, 3, 5, 6, 7, generator=generator)
        ignored = torch.rand(2, 1, 5, 6, 7, generator=generator) < 0.4
        labels = torch.randint(0, 3, (2, 1, 5, 6, 7), generator=generator)
        values = []
        for change in (0, 1):
            changed = torch.where(ignored, (labels + change) % 3, labels)
            target = torch.where(ignored, 3, labels)
            if regions:
                target = torch.cat([changed > 0, changed == 1, changed == 2, ignored], dim=1)
                target[:, :-1] &= ~ignored
            given = loss(regions=regions, ignore_label=3, settings=LossSettings(**settings))
            values.append(given(logits + 5 * change * ignored, target))
        torch.testing.assert_close(*values)

    def test_a_batch_that_is_all_ignored_is_finite(self):
        logits = torch.randn(1, 2, 2, 2, 2, requires_grad=True)
        given = loss(ignore_label=2, settings=LossSettings(bicc_weight=0.5, top_k=0.1))
        value = given(logits, torch.full((1, 1, 2, 2, 2), 2))
        value.backward()
        assert value.isfinite()
        assert logits.grad.abs().sum() == 0

    @pytest.mark.parametrize("masked", [False, True])
    def test_off_is_the_same_bit_for_bit_as_dice_and_the_mean_of_bce(self, masked):
        logits, reference = blobs(torch.Generator().manual_seed(4))
        ignored = torch.zeros(2, 1, 6, 7, 8, dtype=torch.bool)
        ignored[:, :, ::2] = masked
        given = loss(regions=True, ignore_label=9)
        dice = given.overlap(logits, reference, loss_mask=(~ignored).float())
        entropy = F.binary_cross_entropy_with_logits(logits, reference, reduction="none")
        expected = dice + (entropy * ~ignored).sum() / (2 * (~ignored).sum())
        assert given(logits, torch.cat([reference, ignored.float()], dim=1)) == expected
        assert loss(regions=True)(logits, reference) == given.overlap(logits, reference) + entropy.mean()

    @pytest.mark.parametrize(
        "values",
        [{"bicc_weight": -0.1}, {"bicc_weight": 1.1}, {"top_k": 0}, {"top_k": 2}, {"top_k": math.nan}],
    )
    def test_a_number_out_of_range_is_refused_with_its_value(self, values):
        (name, value), *_ = values.items()
        with pytest.raises(ValueError, match=f"{name}={value}"):
            LossSettings(**values)


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
        loss = gate_loss([decision(score)], foreground_at(2, 1, 3), GateSupervision(positive_weight=8.0))
        assert loss.item() == pytest.approx(expected.item())

    def test_gates_are_averaged_and_unsupervised_ones_left_out(self):
        scores = [torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 2, 2, 2)]
        gates = [*map(decision, scores), GateDecision(scores[0] > 0)]
        foreground = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
        assert gate_loss(gates, foreground, GateSupervision(positive_weight=8.0)).item() == pytest.approx(
            0.6931, abs=1e-4
        )

    def test_no_gate_costs_nothing(self):
        assert gate_loss([], foreground_at(0, 0, 0), GateSupervision(positive_weight=8.0)) == 0

    def test_ignored_voxels_count_only_where_they_lie_beside_foreground(self):
        score = torch.full((1, 1, 2, 2, 2), 3.0)
        known = torch.ones(1, 1, 4, 4, 4, dtype=torch.bool)
        known[..., 2:] = False
        # Half of the coarse voxels are ignored; of these one holds a tumour voxel, which is known.
        known[0, 0, 0, 0, 2] = True
        loss = gate_loss(
            [decision(score)], foreground_at(0, 0, 2), GateSupervision(positive_weight=1.0), known=known
        )
        costs = F.softplus(torch.tensor([3.0, 3.0, 3.0, 3.0, -3.0]))
        assert loss.item() == pytest.approx(costs.mean().item())

    def test_all_ignored_is_zero_and_finite(self):
        known = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
        gates = [decision(torch.ones(1, 1, 2, 2, 2))]
        assert gate_loss(gates, known.clone(), GateSupervision(positive_weight=8.0), known=known) == 0

    def test_half_precision_scores_far_out_give_a_finite_loss(self):
        score = torch.full((1, 1, 2, 2, 2), -6e4, dtype=torch.float16, requires_grad=True)
        loss = gate_loss([decision(score)], foreground_at(0, 0, 0), GateSupervision(positive_weight=100.0))
        loss.backward()
        assert loss.isfinite()
        assert score.grad.isfinite().all()


class TestGateOptions:
    def test_lesions_are_numbered_across_the_batch_the_smaller_the_higher(self):
        foreground = torch.zeros(2, 1, 4, 6, 6, dtype=torch.bool)
        foreground[0, 0, 0, 0, 0] = foreground[0, 0, 2:, 2:4, 2:4] = foreground[1, 0, 0, 0, :3] = True
        labels = label_lesions(foreground)
        assert labels[0, 0, 0, 0, 0] == 2
        assert labels[0, 0, 3, 3, 3] == 1
        assert labels[1].max() == 3
        assert (labels > 0).equal(foreground)

    def test_every_lesion_has_the_same_weight_and_the_sum_stays(self):
        foreground = torch.zeros(2, 1, 8, 8, 8, dtype=torch.bool)
        foreground[0, 0, 0, 0, 0] = foreground[0, 0, 4:, 2:8, 2:8] = foreground[1, 0, 0, 0, :4] = True
        score = torch.zeros(2, 1, 4, 4, 4, requires_grad=True)
        gradients = []
        for weighted in (False, True):
            supervision = GateSupervision(positive_weight=4.0, lesion_weighted=weighted)
            (gradient,) = torch.autograd.grad(gate_loss([decision(score)], foreground, supervision), score)
            gradients.append(gradient)
        plain, equal = gradients
        small, large, other = (
            equal[0, 0, 0, 0, 0],
            equal[0, 0, 2:, 1:, 1:].sum(),
            equal[1, 0, 0, 0, :2].sum(),
        )
        assert small.item() == pytest.approx(large.item()) == pytest.approx(other.item())
        assert (small + large + other).item() == pytest.approx(plain[plain < 0].sum().item())
        torch.testing.assert_close(equal[plain > 0], plain[plain > 0])

    @pytest.mark.parametrize("ignored", [False, True])
    def test_only_the_hardest_background_counts(self, ignored):
        score = torch.arange(8.0).view(1, 1, 2, 2, 2)
        foreground, known = foreground_at(0, 0, 0), torch.ones(1, 1, 4, 4, 4, dtype=torch.bool)
        known[0, 0, 3, 3, 3] = not ignored  # the highest score
        given = GateSupervision(positive_weight=2.0, hardest_negatives=0.3)
        found = gate_loss([decision(score)], foreground, given, known=known if ignored else None)
        hardest = torch.tensor([6.0] if ignored else [7.0, 6.0])
        entropies = torch.cat([2 * F.softplus(-score[..., :1, :1, :1].flatten()), F.softplus(hardest)])
        assert found.item() == pytest.approx(entropies.mean().item())

    def test_all_foreground_and_all_ignored_are_finite_with_every_option(self):
        given = GateSupervision(lesion_weighted=True, hardest_negatives=0.1)
        gates = [decision(torch.ones(1, 1, 2, 2, 2))]
        full = torch.ones(1, 1, 4, 4, 4, dtype=torch.bool)
        assert gate_loss(gates, full, given).isfinite()
        assert gate_loss(gates, ~full, given).isfinite()
        assert gate_loss(gates, ~full, given, known=~full) == 0

    @pytest.mark.parametrize("opened", [True, False])
    def test_open_loss_counts_what_is_open_and_every_lesion(self, opened):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(2, 2, 4, 4, 4, generator=generator)
        score = torch.randn(2, 1, 2, 2, 2, generator=generator)
        target = (torch.rand(2, 1, 4, 4, 4, generator=generator) > 0.8).long()
        mask = score > 0 if opened else torch.ones_like(score, dtype=torch.bool)
        counted = mask.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4) | (target > 0)
        segmentation = loss(ignore_label=7, batch_dice=True)
        given = GatedLoss(segmentation, GateSupervision(open_loss=True, auxiliary_weight=0.0))
        expected = segmentation(logits, torch.where(counted, target, 7))
        output = GatedOutput(logits, (GateDecision(mask, score),))
        torch.testing.assert_close(given(output, [target]), expected)

    def test_open_loss_without_a_hard_gate_is_the_loss_of_all_voxels(self):
        logits, target = torch.randn(1, 2, 4, 4, 4), foreground_at(1, 1, 1).long()
        output = GatedOutput(logits, (GateDecision(torch.ones(1, 1, 4, 4, 4)),))
        given = GatedLoss(loss(), GateSupervision(open_loss=True))
        assert given(output, [target]) == loss()(logits, target)


class TestGatedLoss:
    SEGMENTATION = DiceBCELoss(regions=False, ignore_label=None, batch_dice=True)

    def output(self):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(1, 2, 4, 4, 4, generator=generator, requires_grad=True)
        return GatedOutput(logits, (decision(torch.randn(1, 1, 2, 2, 2, generator=generator)),))

    def test_is_the_sum_of_both_with_the_auxiliary_weight(self):
        output, target = self.output(), foreground_at(1, 1, 1).long()
        gates = gate_loss(output.decisions, target > 0, GateSupervision(positive_weight=4.0))
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
