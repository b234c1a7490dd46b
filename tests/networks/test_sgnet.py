from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgnet_nnunet.networks.gates import GATES
from sgnet_nnunet.networks.sgnet import SGNet

OPEN = 0.15
"""Share of its voxels that each gate of the test network scores as open, before it grows."""


def gated_network(seed, **kwargs):
    """Return a network in evaluation mode whose gates are open in part, and an image."""
    torch.manual_seed(seed)
    network = SGNet(2, 2, **kwargs).eval()
    network.return_gates = True
    image = torch.rand(1, 2, 16, 32, 32)
    with torch.no_grad():
        for level, block in enumerate(network.decoder):
            score = network(image).decisions[level].score
            block.hard_gate.score.bias -= score.quantile(1 - OPEN)
    return network, image


def closed_at(decision):
    """Return where a gate is closed, on the grid of the skip feature that it masks."""
    return torch.nn.functional.interpolate(decision.mask.float(), scale_factor=2) == 0


def disturb_skip(closed, amount, _, inputs):
    coarse, skip, parent = inputs
    return coarse, skip + closed * amount * torch.randn_like(skip), parent


def scramble_feature(closed, _, __, output):
    feature, decision = output
    return torch.where(closed, 100 * torch.randn_like(feature), feature), decision


def test_size_that_does_not_halve_three_times_is_refused_with_the_size():
    with pytest.raises(ValueError, match=r"divisible by 8 along each axis; got \(32, 96, 20\)"):
        SGNet(2, 1)(torch.zeros(1, 2, 32, 96, 20))


def test_widths_set_the_depth_and_so_the_divisor():
    network = SGNet(1, 1, features_per_stage=(4, 8), gate_kwargs={"groups": 2})
    assert network.divisor == 2
    assert network(torch.zeros(1, 1, 2, 4, 6)).shape == (1, 1, 2, 4, 6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"features_per_stage": (16,)}, "two stages or more; got 1"),
        ({"gate": "revolving"}, "'revolving'; choose one of none, hard_spatial, straight_through, soft"),
        ({"gated_levels": [3]}, r"between 0 and 2; got \[3\]"),
        ({"background_logit": 1.0}, "negative; got 1.0"),
    ],
)
def test_impossible_arguments_are_refused_with_their_value(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SGNet(2, 1, **kwargs)


@pytest.mark.parametrize(
    ("gate", "names"),
    [
        ("none", []),
        ("hard_spatial", ["1/8", "1/4", "1/2"]),
        ("soft", ["1/4", "1/2", "1/1"]),
        ("straight_through", ["1/4", "1/2", "1/1"]),
    ],
)
def test_gates_are_returned_when_asked_for_on_the_grids_they_are_named_by(gate, names):
    network = SGNet(2, 1, gate=gate).eval()
    network.return_gates = True
    image = torch.rand(1, 2, 16, 32, 32)
    output = network(image)
    assert network.gate_names == names
    assert [f"1/{32 // a.mask.shape[-1]}" for a in output.decisions] == names
    network.return_gates = False
    assert torch.equal(network(image), output.logits)


def test_deep_supervision_adds_logits_of_the_coarser_levels_and_leaves_the_others():
    torch.manual_seed(0)
    network = SGNet(2, 3, deep_supervision=True).eval()
    image = torch.rand(1, 2, 16, 32, 32)
    logits = network(image)
    network.return_gates = True
    output = network(image)
    assert torch.equal(output.logits, logits)
    assert [tuple(side.shape) for side in output.auxiliary_logits] == [(1, 3, 8, 16, 16), (1, 3, 4, 8, 8)]


def test_only_the_levels_asked_for_are_gated():
    network = SGNet(2, 1, gated_levels=[1]).eval()
    assert network.gate_names == ["1/4"]


def test_gates_of_the_test_network_are_open_in_part():
    network, image = gated_network(0)
    for decision in network(image).decisions:
        assert 0 < decision.mask.float().mean() < 1


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.1, 1e4), st.booleans())
def test_what_a_gate_suppresses_neither_influences_nor_is_foreground(seed, amount, nested):
    kwargs = {"dilation": seed % 2, "nested": nested}
    network, image = gated_network(seed, gate_kwargs=kwargs)
    with torch.no_grad():
        before = network(image)
        outside = before.logits.permute(1, 0, 2, 3, 4)[:, closed_at(before.decisions[-1])[:, 0]]
        assert outside.unique(dim=1).flatten().tolist() == [0.0, -8.0]
        if not nested:
            return
        # The encoder feeds the next stage as well as the skip; only what reaches the decoder is disturbed.
        for block, decision in zip(network.decoder, before.decisions, strict=True):
            block.register_forward_pre_hook(partial(disturb_skip, closed_at(decision), amount))
        after = network(image)
    assert torch.equal(after.logits, before.logits)
    for mine, theirs in zip(after.decisions, before.decisions, strict=True):
        assert torch.equal(mine.mask, theirs.mask)


@pytest.mark.slow
@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**16))
def test_decoder_needs_no_value_where_a_nested_gate_is_closed(seed):
    """What an engine that skips closed voxels relies on: their features may be anything finite."""
    network, image = gated_network(seed)
    with torch.no_grad():
        before = network(image)
        for block, decision in zip(network.decoder, before.decisions, strict=True):
            block.register_forward_hook(partial(scramble_feature, closed_at(decision)))
        after = network(image)
    assert torch.equal(after.logits, before.logits)


@pytest.mark.parametrize(("background_head", "logits"), [(True, [0.0, -8.0, -8.0]), (False, [-8.0] * 3)])
def test_closed_network_calls_everything_background_for_labels_and_regions(background_head, logits):
    network = SGNet(2, 3, background_head=background_head).eval()
    for block in network.decoder:
        torch.nn.init.constant_(block.hard_gate.score.bias, -100.0)
    output = network(torch.rand(1, 2, 8, 16, 16))
    assert output.amax((0, 2, 3, 4)).tolist() == output.amin((0, 2, 3, 4)).tolist() == logits


def test_infinite_feature_outside_a_gate_stays_outside():
    network, image = gated_network(0)
    with torch.no_grad():
        before = network(image).logits
        closed = closed_at(network(image).decisions[0])

        def overflow(_, inputs):
            coarse, skip, parent = inputs
            return coarse, skip.masked_fill(closed, torch.inf), parent

        network.decoder[0].register_forward_pre_hook(overflow)
        assert torch.equal(network(image).logits, before)


def test_bypassed_network_is_the_ungated_one():
    network, image = gated_network(0)
    network.bypass_gates(True)
    ungated = SGNet(2, 2, gate="none").eval()
    ungated.load_state_dict(network.state_dict(), strict=False)
    assert torch.equal(network(image).logits, ungated(image))
    network.bypass_gates(False)
    assert not torch.equal(network(image).logits, ungated(image))


@pytest.mark.parametrize("gate", [gate for gate in GATES if gate not in {"none", "hard_spatial"}])
def test_gradient_reaches_every_skip_gate(gate):
    torch.manual_seed(0)
    network = SGNet(2, 1, gate=gate)
    network(torch.rand(1, 2, 16, 16, 16)).sum().backward()
    for block in network.decoder:
        assert block.skip_gate.score.weight.grad.abs().sum() > 0
