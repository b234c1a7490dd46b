import pytest
import torch

from sgnet_nnunet.networks.sgnet import SGNet


def test_size_that_does_not_halve_three_times_is_refused_with_the_size():
    with pytest.raises(ValueError, match=r"divisible by 8 along each axis; got \(32, 96, 20\)"):
        SGNet(2, 1)(torch.zeros(1, 2, 32, 96, 20))


def test_widths_set_the_depth_and_so_the_divisor():
    network = SGNet(1, 1, features_per_stage=(4, 8), gate_kwargs={"groups": 2})
    assert network.divisor == 2
    assert network(torch.zeros(1, 1, 2, 4, 6)).shape == (1, 1, 2, 4, 6)


def test_one_stage_is_refused():
    with pytest.raises(ValueError, match=r"two stages or more; got \[16\]"):
        SGNet(1, 1, features_per_stage=(16,))


def test_closed_gates_shut_out_the_skips():
    torch.manual_seed(0)
    network = SGNet(1, 1, features_per_stage=(4, 8), gate_kwargs={"groups": 2}).eval()
    gate = network.decoder[0].gate
    torch.nn.init.constant_(gate.score.bias, -100.0)
    image = torch.rand(1, 1, 4, 4, 4)
    shut = network(image)
    with torch.no_grad():
        network.decoder[0].conv[0].weight[:, 4:] = 0  # what the skip feature would be multiplied with
    assert torch.equal(network(image), shut)


def test_gradient_reaches_every_gate():
    torch.manual_seed(0)
    network = SGNet(2, 1)
    network(torch.rand(1, 2, 16, 16, 16)).sum().backward()
    for block in network.decoder:
        assert block.gate.score.weight.grad.abs().sum() > 0
