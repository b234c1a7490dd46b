import pytest
import torch
from monai.losses.tversky import TverskyLoss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.ddp_allgather import AllGatherGrad

from sgnet_nnunet.training.losses import SoftTverskyLoss, build_overlap_loss


def logits_and_truth(channels=2):
    generator = torch.Generator().manual_seed(0)
    shape = (3, channels, 4, 5, 6)
    logits = torch.randn(shape, generator=generator, requires_grad=True)
    return logits, (torch.rand(shape, generator=generator) > 0.7).float()


def tversky(weight, *, batch_dice=False):
    return SoftTverskyLoss(false_positive_weight=weight, batch_dice=batch_dice, ddp=False)


def test_value_equals_one_worked_out_by_hand():
    # One voxel of tumour called with 3/4, one of background with 1/4: TP 3/4, FP 1/4, FN 1/4.
    logits = torch.tensor([3.0, 1 / 3]).log().view(1, 1, 1, 1, 2)
    reference = torch.tensor([1.0, 0.0]).view_as(logits)
    expected = 0.75 / (0.75 + 0.7 * 0.25 + 0.3 * 0.25)
    assert tversky(0.7)(logits, reference).item() == pytest.approx(-expected, abs=1e-4)


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("weight", [0.2, 0.7])
def test_values_and_gradients_equal_monais(weight, batch_dice):
    logits, reference = logits_and_truth()
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
    logits, reference = logits_and_truth()
    theirs = build_overlap_loss(batch_dice=batch_dice, ddp=False)
    assert isinstance(theirs, MemoryEfficientSoftDiceLoss)
    torch.testing.assert_close(
        tversky(0.5, batch_dice=batch_dice)(logits, reference), theirs(logits, reference)
    )


def test_the_heavier_a_false_positive_the_dearer_a_prediction_that_floods():
    _, reference = logits_and_truth()
    timid, bold = torch.logit((reference * 0.6).clamp(0.01)), torch.logit((reference + 0.4).clamp(max=0.99))
    losses = {
        weight: [tversky(weight)(logits, reference).item() for logits in (timid, bold)]
        for weight in (0.3, 0.7)
    }
    assert losses[0.7][0] < losses[0.3][0]
    assert losses[0.7][1] > losses[0.3][1]


def test_masked_voxels_count_for_nothing():
    logits, reference = logits_and_truth()
    mask = torch.ones(3, 1, 4, 5, 6)
    mask[:, :, 2:] = 0
    loss = tversky(0.7)
    torch.testing.assert_close(
        loss(logits, reference, loss_mask=mask), loss(logits[:, :, :2], reference[:, :, :2])
    )


def test_processes_pool_their_batches(monkeypatch):
    logits, reference = logits_and_truth()
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


def test_patch_without_tumour_gives_finite_gradients():
    logits, reference = logits_and_truth()
    tversky(0.7)(logits, torch.zeros_like(reference)).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("weight", [-0.1, 0, 1, 2])
def test_weight_beyond_its_range_is_refused(weight):
    with pytest.raises(ValueError, match=f"false_positive_weight must be between 0 and 1; got {weight}"):
        build_overlap_loss(batch_dice=True, ddp=False, false_positive_weight=weight)
