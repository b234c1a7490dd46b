import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgnet_nnunet.networks.gates import (
    GateSupervision,
    HardSpatialGate,
    SoftGate,
    StraightThroughGate,
    on_grid_of,
)


def skip_gate(channels, groups, weight, bias, threshold=0.5, kind=StraightThroughGate):
    gate = kind(channels, groups=groups, threshold=threshold)
    torch.nn.init.constant_(gate.score.weight, weight)
    torch.nn.init.constant_(gate.score.bias, bias)
    return gate


def hard_gate(channels=2, *, weight=(1.0, 1.0), bias=0.0, **kwargs):
    gate = HardSpatialGate(channels, **{"groups": 2, "dilation": 0, **kwargs})
    gate.score.weight.data = torch.tensor(weight).view(gate.score.weight.shape)
    torch.nn.init.constant_(gate.score.bias, bias)
    return gate


def spot(*, at, size=5, channels=2, value=2.0, elsewhere=-2.0):
    feature = torch.full((1, channels, size, size, size), elsewhere)
    feature[(..., *at)] = value
    return feature


class TestHardSpatialGate:
    def test_opens_exactly_where_the_score_passes(self):
        decision = hard_gate()(spot(at=(1, 2, 3)))
        assert decision.mask.nonzero().tolist() == [[0, 0, 1, 2, 3]]
        assert decision.score[0, 0, 1, 2, 3] == 2

    def test_one_group_suffices_with_max_and_not_with_mean(self):
        feature = torch.tensor([3.0, -5.0]).view(1, 2, 1, 1, 1)
        assert hard_gate(combine="max")(feature).mask.all()
        assert not hard_gate(combine="mean")(feature).mask.any()

    @pytest.mark.parametrize(("threshold", "opened"), [(0.85, True), (0.9, False)])
    def test_threshold_is_on_the_sigmoid(self, threshold, opened):
        feature = torch.full((1, 2, 1, 1, 1), 2.0)  # sigmoid 0.88
        assert hard_gate(threshold=threshold)(feature).mask.item() is opened

    @pytest.mark.parametrize(("dilation", "voxels"), [(0, 1), (1, 27), (2, 125)])
    def test_mask_grows_by_the_dilation(self, dilation, voxels):
        assert hard_gate(dilation=dilation)(spot(at=(2, 2, 2))).mask.sum() == voxels

    def test_nested_gate_stays_within_the_coarser_one_and_ignores_scores_outside_it(self):
        parent = torch.ones(1, 1, 3, 3, 3, dtype=torch.bool)
        parent[..., 2] = False  # covers the fine voxels 4 and 5
        gate = hard_gate(dilation=1)
        inside = gate(spot(at=(2, 2, 3), size=6), parent).mask
        assert inside[..., 3].any()
        assert not inside[..., 4:].any()
        assert not gate(spot(at=(2, 2, 4), size=6), parent).mask.any()  # its dilation would reach 3

    def test_score_that_is_no_number_opens_the_gate(self):
        feature = torch.full((1, 2, 3, 3, 3), -2.0)
        feature[..., 1, 2, 0] = torch.nan
        assert hard_gate()(feature).mask.nonzero().tolist() == [[0, 0, 1, 2, 0]]
        parent = torch.zeros(1, 1, 3, 3, 3, dtype=torch.bool)
        assert not hard_gate()(feature, parent).mask.any()

    def test_gate_that_is_not_nested_ignores_the_coarser_one(self):
        closed = torch.zeros(1, 1, 5, 5, 5, dtype=torch.bool)
        assert hard_gate(nested=False)(spot(at=(0, 0, 0)), closed).mask.any()

    def test_bypassed_gate_is_open_everywhere_and_the_weights_keep_it(self):
        gate, other = hard_gate(bias=-100.0), hard_gate(bias=-100.0)
        gate.bypassed.fill_(True)
        other.load_state_dict(gate.state_dict())
        assert other(spot(at=(0, 0, 0))).mask.all()

    def test_decision_has_no_gradient_and_the_score_has(self):
        decision = hard_gate()(spot(at=(0, 0, 0)))
        assert not decision.mask.requires_grad
        decision.score.sum().backward()

    def test_half_precision_decides_alike(self):
        torch.manual_seed(0)
        gate = HardSpatialGate(8)
        feature = torch.randn(1, 8, 4, 4, 4)
        with torch.autocast("cpu", dtype=torch.float16):
            half = gate(feature)
        decided = gate(feature).score.abs() > 0.05
        assert half.mask.dtype == torch.bool
        near = torch.nn.functional.max_pool3d((~decided).float(), 3, stride=1, padding=1) > 0
        assert torch.equal(half.mask[~near], gate(feature).mask[~near])

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"groups": 3}, "groups=3 for 4 channels"),
            ({"threshold": 0.0}, "got 0.0"),
            ({"combine": "sum"}, "'sum'"),
            ({"dilation": -1}, "got -1"),
        ],
    )
    def test_impossible_arguments_are_refused_with_their_value(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            HardSpatialGate(4, **kwargs)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**16))
def test_mask_on_a_finer_grid_repeats_each_voxel(factor, size, seed):
    mask = torch.rand(1, 1, size, size, size, generator=torch.Generator().manual_seed(seed)) > 0.5
    fine = on_grid_of(mask, torch.zeros(1, 3, *[factor * size] * 3))
    expected = mask
    for axis in (2, 3, 4):
        expected = expected.repeat_interleave(factor, axis)
    assert torch.equal(fine, expected)


class TestStraightThroughGate:
    def test_voxels_under_the_threshold_are_exactly_zero_and_the_others_pass_unchanged(self):
        gate = skip_gate(4, groups=2, weight=1.0, bias=-1.0)
        skip = torch.zeros(1, 4, 1, 1, 2)
        skip[..., 1] = 2.0  # scores: -1 at the first voxel, 2 + 2 - 1 = 3 at the second
        gated, decision = gate(skip)
        assert torch.equal(gated[..., 0], torch.zeros(1, 4, 1, 1))
        assert torch.equal(gated[..., 1], skip[..., 1])
        assert decision.mask.flatten().tolist() == [False, True]

    def test_groups_are_gated_apart_and_one_open_group_makes_the_voxel_open(self):
        gate = skip_gate(4, groups=2, weight=1.0, bias=-1.0)
        gated, decision = gate(torch.tensor([2.0, 2.0, 0.1, 0.1]).view(1, 4, 1, 1, 1))
        assert gated.flatten().tolist() == [2.0, 2.0, 0.0, 0.0]
        assert decision.mask.all()

    def test_threshold_decides_what_passes(self):
        skip = torch.full((1, 2, 1, 1, 1), 0.5)  # sigmoid(0.5 + 0.5) = 0.73
        assert skip_gate(2, 1, weight=1.0, bias=0.0, threshold=0.7)(skip)[0].count_nonzero() == 2
        assert skip_gate(2, 1, weight=1.0, bias=0.0, threshold=0.75)(skip)[0].count_nonzero() == 0

    def test_gradient_reaches_the_scores_of_open_and_closed_gates_as_the_sigmoids_own(self):
        for bias in (-1.0, 1.0):
            gate = skip_gate(2, groups=1, weight=0.0, bias=bias)
            gate(torch.ones(1, 2, 1, 1, 1))[0].sum().backward()
            slope = torch.sigmoid(torch.tensor(bias)) * (1 - torch.sigmoid(torch.tensor(bias)))
            assert gate.score.bias.grad.item() == pytest.approx(2 * slope.item())

    def test_gate_is_exactly_zero_or_one_in_half_precision(self):
        torch.manual_seed(0)
        gate = StraightThroughGate(8, groups=4).half()
        weights = gate.weigh(torch.randn(2, 8, 6, 6, 6).half())
        assert set(weights.unique().tolist()) == {0.0, 1.0}

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"groups": 3}, "groups=3 for 4 channels"),
            ({"groups": 0}, "groups=0"),
            ({"threshold": 1.0}, "got 1.0"),
        ],
    )
    def test_impossible_arguments_are_refused_with_their_value(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            StraightThroughGate(4, **kwargs)


class TestSoftGate:
    def test_weighs_by_the_sigmoid_and_zeroes_nothing(self):
        gate = skip_gate(2, groups=1, weight=0.0, bias=-1.0, kind=SoftGate)
        gated, decision = gate(torch.ones(1, 2, 1, 1, 1))
        assert gated.flatten().tolist() == pytest.approx([0.2689] * 2, abs=1e-4)
        assert decision.mask.all()


@pytest.mark.parametrize(
    "values",
    [
        *({"positive_weight": 0}, {"auxiliary_weight": -1}, {"warm_up": 1.5}),
        *({"hardest_negatives": 0}, {"hardest_negatives": 1.5}, {"open_loss": 2}, {"lesion_weighted": None}),
    ],
)
def test_impossible_supervision_is_refused_with_its_values(values):
    (name, value), *_ = values.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        GateSupervision(**values)
