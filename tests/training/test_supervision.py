import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from sgnet_nnunet.networks.gates import GateDecision
from sgnet_nnunet.networks.sgnet import GatedOutput
from sgnet_nnunet.training.losses import (
    DiceBCELoss,
    GatedLoss,
    GateSupervision,
    any_foreground,
    gate_loss,
)


def decision(score):
    return GateDecision(score > 0, score)


def foreground_at(*voxel, size=4):
    foreground = torch.zeros(1, 1, size, size, size, dtype=torch.bool)
    foreground[(0, 0, *voxel)] = True
    return foreground


@pytest.mark.parametrize("values", [{"positive_weight": 0}, {"auxiliary_weight": -1}, {"warm_up": 1.5}])
def test_impossible_supervision_is_refused_with_its_values(values):
    (name, value), *_ = values.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        GateSupervision(**values)


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


class TestAdmissionLoss:
    def test_target_is_the_max_pooled_foreground_with_its_weight(self):
        score = torch.randn(1, 1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
        wanted = torch.zeros_like(score)
        wanted[0, 0, 1, 0, 1] = 1  # the fine voxel (2, 1, 3)
        weight = torch.where(wanted > 0, 8.0, 1.0)
        expected = F.binary_cross_entropy_with_logits(score, wanted, weight=weight)
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

    def test_observer_sees_the_output_and_the_full_target(self):
        seen = []
        loss = GatedLoss(self.SEGMENTATION, GateSupervision())
        loss.observer = lambda *pair: seen.append(pair)
        output, target = self.output(), foreground_at(1, 1, 1).long()
        loss(output, [target])
        assert seen[0][0] is output
        assert seen[0][1] is target
