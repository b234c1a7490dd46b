import json

import pytest
import torch

from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.training.gate_monitor import (
    count_gates,
    gates_of_image,
    measure_gates,
    sum_counts,
    write_gates,
)


def network(*, bias):
    torch.manual_seed(0)
    built = SGNet(2, 2).eval()
    for block in built.decoder:
        torch.nn.init.constant_(block.hard_gate.score.bias, bias)
    return built


@pytest.mark.parametrize(("bias", "expected"), [(100.0, True), (-100.0, False)])
def test_open_and_closed_gates_are_seen_as_such_on_an_image_of_odd_size(bias, expected):
    image = torch.rand(2, 20, 37, 33)
    masks = gates_of_image(network(bias=bias), image, (16, 32, 32))
    assert [mask.shape for mask in masks] == [(1, 1, 20, 37, 33)] * 3
    assert all(mask.all() if expected else not mask.any() for mask in masks)


def test_voxel_is_open_where_any_window_opens_it():
    built = network(bias=0.0)
    image = torch.rand(2, 16, 32, 48)
    masks = gates_of_image(built, image, (16, 32, 32))
    built.return_gates = True
    expected = torch.zeros(1, 1, 16, 32, 48, dtype=torch.bool)
    for start in (0, 16):
        window = built(image[None, ..., start : start + 32]).decisions[-1].mask
        expected[..., start : start + 32] |= (
            window.repeat_interleave(2, 2).repeat_interleave(2, 3).repeat_interleave(2, 4)
        )
    assert torch.equal(masks[-1], expected)


def test_network_is_left_as_it_was():
    built = network(bias=0.0)
    gates_of_image(built, torch.rand(2, 16, 32, 32), (16, 32, 32))
    assert built.return_gates is False


def test_figures_are_written_for_each_case_and_for_all_and_nothing_is_null(tmp_path):
    foreground = torch.zeros(16, 32, 32, dtype=torch.bool)
    foreground[4:6, 4:6, 4:6] = True
    image = torch.rand(2, 16, 32, 32)
    cases = {
        "with": measure_gates(network(bias=-100.0), image, foreground, (16, 32, 32)),
        "without": measure_gates(network(bias=-100.0), image, torch.zeros_like(foreground), (16, 32, 32)),
    }
    write_gates(tmp_path / "gates.json", cases, ["1/8", "1/4", "1/2"])
    written = json.loads((tmp_path / "gates.json").read_text())
    assert written["all_cases"]["1/2"] == {
        "open_fraction": 0.0,
        "lesion_voxels": 8,
        "admitted_voxel_share": 0.0,
        "lesions": 1,
        "admitted_lesion_share": 0.0,
    }
    assert written["per_case"]["without"]["1/2"]["admitted_voxel_share"] is None


def test_counts_of_all_cases_are_their_sum():
    mask = torch.ones(1, 1, 2, 2, 2, dtype=torch.bool)
    counts = count_gates([mask], mask)
    assert sum_counts([counts, counts]).lesions.tolist() == [2]
