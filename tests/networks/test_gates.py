import pytest
import torch

from sgnet_nnunet.networks.gates import StraightThroughGate, build_gate


def gate_with_score(channels, groups, weight, bias, threshold=0.5):
    gate = StraightThroughGate(channels, groups=groups, threshold=threshold)
    torch.nn.init.constant_(gate.score.weight, weight)
    torch.nn.init.constant_(gate.score.bias, bias)
    return gate


def test_voxels_under_the_threshold_are_exactly_zero_and_the_others_pass_unchanged():
    gate = gate_with_score(4, groups=2, weight=1.0, bias=-1.0)
    skip = torch.zeros(1, 4, 1, 1, 2)
    skip[..., 1] = 2.0  # scores: -1 at the first voxel, 2 + 2 - 1 = 3 at the second
    gated = gate(skip)
    assert torch.equal(gated[..., 0], torch.zeros(1, 4, 1, 1))
    assert torch.equal(gated[..., 1], skip[..., 1])


def test_groups_are_gated_apart():
    gate = gate_with_score(4, groups=2, weight=1.0, bias=-1.0)
    skip = torch.tensor([2.0, 2.0, 0.1, 0.1]).view(1, 4, 1, 1, 1)
    assert gate(skip).flatten().tolist() == [2.0, 2.0, 0.0, 0.0]


def test_threshold_decides_what_passes():
    skip = torch.full((1, 2, 1, 1, 1), 0.5)  # sigmoid(0.5 + 0.5) = 0.73
    assert gate_with_score(2, 1, weight=1.0, bias=0.0, threshold=0.7)(skip).count_nonzero() == 2
    assert gate_with_score(2, 1, weight=1.0, bias=0.0, threshold=0.75)(skip).count_nonzero() == 0


def test_gradient_reaches_the_scores_of_open_and_closed_gates_as_the_sigmoids_own():
    for bias in (-1.0, 1.0):
        gate = gate_with_score(2, groups=1, weight=0.0, bias=bias)
        gate(torch.ones(1, 2, 1, 1, 1)).sum().backward()
        slope = torch.sigmoid(torch.tensor(bias)) * (1 - torch.sigmoid(torch.tensor(bias)))
        assert gate.score.bias.grad.item() == pytest.approx(2 * slope.item())


def test_gate_is_exactly_zero_or_one_in_half_precision():
    torch.manual_seed(0)
    gate = StraightThroughGate(8, groups=4).half()
    admitted = gate.admit(torch.randn(2, 8, 6, 6, 6).half())
    assert set(admitted.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"groups": 3}, "groups=3 for 4 channels"),
        ({"groups": 0}, "groups=0"),
        ({"threshold": 1.0}, "got 1.0"),
    ],
)
def test_impossible_arguments_are_refused_with_their_value(kwargs, message):
    with pytest.raises(ValueError, match=message):
        StraightThroughGate(4, **kwargs)


def test_open_gate_admits_everything():
    skip = torch.rand(1, 4, 2, 2, 2)
    assert torch.equal(build_gate("none", 4)(skip), skip)


def test_unknown_gate_is_refused_and_the_known_ones_named():
    with pytest.raises(ValueError, match="'soft'; choose one of none, straight_through"):
        build_gate("soft", 4)
