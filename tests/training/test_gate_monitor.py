import json

import numpy as np
import pytest
import torch
from PIL import Image

from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.training.gate_monitor import (
    KEYS,
    GateLogger,
    count_gates,
    gates_of_image,
    sum_counts,
    write_gates,
)


def masks(*boxes, size=8):
    mask = torch.zeros(1, 1, size, size, size, dtype=torch.bool)
    for box in boxes:
        mask[(0, 0, *(slice(*ends) for ends in box))] = True
    return mask


WHOLE = ((0, 8), (0, 8), (0, 8))
CORNER = ((0, 2), (0, 2), (0, 2))
FAR = ((5, 7), (5, 7), (5, 7))


def test_counts_voxels_and_lesions_at_every_gate():
    coarse = masks(((0, 1), (0, 1), (0, 1)), size=2)  # the lower 4 x 4 x 4 voxels
    counts = count_gates([coarse, masks(((0, 1), (0, 2), (0, 2)))], masks(CORNER, FAR))
    assert counts.open_fraction == [64 / 512, 4 / 512]
    assert counts.kept_lesion_voxel_share == [0.5, 0.25]
    assert counts.kept_lesion_share == [0.5, 0.5]


def test_lesions_that_touch_by_a_corner_are_one():
    counts = count_gates([masks(CORNER)], masks(CORNER, ((2, 3), (2, 3), (2, 3))))
    assert counts.lesions.tolist() == [1]


def test_counts_of_batches_add_up():
    one = count_gates([masks(CORNER)], masks(CORNER))
    two = count_gates([masks(CORNER)], masks(FAR))
    assert sum_counts([one, two]).kept_lesion_share == [0.5]
    assert sum_counts([one, two]).voxels.tolist() == [1024]


def test_image_without_a_lesion_has_no_share_and_no_warning():
    counts = count_gates([masks()], masks())
    assert np.isnan(counts.kept_lesion_voxel_share + counts.kept_lesion_share).all()
    assert counts.warnings(["1/2"]) == []


def test_suppressed_lesions_are_warned_of():
    voxels, lesions = count_gates([masks(CORNER)], masks(CORNER, FAR)).warnings(["1/2"])
    assert voxels.startswith(
        "WARNING: the gate at 1/2 of the resolution suppresses 50.0% of the lesion voxels"
    )
    assert "50.0% of the whole lesions" in lesions
    assert "positive_weight" in lesions


def test_a_gate_that_keeps_everything_is_not_warned_of():
    assert count_gates([masks(WHOLE)], masks(CORNER)).warnings(["1/2"]) == []


def log_epochs(logger, epochs):
    for epoch in range(epochs):
        for key in logger.my_fantastic_logging:
            value = [0.1 * epoch, 0.5] if key in KEYS else [0.5] if "per_class" in key else 0.5
            logger.log(key, value, epoch)


@pytest.mark.slow
@pytest.mark.slow
def test_progress_plot_gains_a_panel(tmp_path):
    logger = GateLogger(["1/4", "1/2"])
    log_epochs(logger, 3)
    logger.plot_progress_png(str(tmp_path))
    with Image.open(tmp_path / "progress.png") as image:
        assert image.height > 1.3 * 54 / 30 * image.width / 1.2
        panel = np.asarray(image)[image.width * 54 // 30 :]
    assert panel.min() < 200  # something is drawn there


@pytest.mark.slow
def test_network_without_gates_has_nnunets_plot(tmp_path):
    logger = GateLogger([])
    log_epochs(logger, 1)
    logger.plot_progress_png(str(tmp_path))
    with Image.open(tmp_path / "progress.png") as image:
        assert abs(image.height / image.width - 54 / 30) < 0.01


def test_log_comes_back_from_a_checkpoint():
    logger, other = GateLogger(["1/2"]), GateLogger(["1/2"])
    log_epochs(logger, 2)
    other.load_checkpoint(logger.get_checkpoint())
    assert other.get_value("gate_open_fraction", step=None) == [[0.0, 0.5], [0.1, 0.5]]


def test_log_of_a_network_without_gates_can_be_loaded():
    logger = GateLogger(["1/2"])
    logger.load_checkpoint({"train_losses": []})
    assert logger.get_value("gate_open_fraction", step=None) == []


def test_a_log_of_010_continues_under_the_present_keys():
    logger = GateLogger(["1/2"])
    logger.load_checkpoint({"gate_admitted_voxels": [[0.5]], "gate_admitted_lesions": [[1.0]]})
    assert logger.get_value("gate_kept_lesion_voxels", step=None) == [[0.5]]
    assert logger.get_value("gate_kept_lesions", step=None) == [[1.0]]
    assert set(logger.get_checkpoint()) == set(KEYS)


def network(*, bias):
    torch.manual_seed(0)
    built = SGNet(2, 2).eval()
    for block in built.decoder:
        torch.nn.init.constant_(block.hard_gate.score.bias, bias)
    return built


@pytest.mark.slow
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
    masks = gates_of_image(network(bias=-100.0), torch.rand(2, 16, 32, 32), (16, 32, 32))
    cases = {
        "with": count_gates(masks, foreground[None, None]),
        "without": count_gates(masks, torch.zeros_like(foreground)[None, None]),
    }
    write_gates(tmp_path / "gates.json", cases, ["1/8", "1/4", "1/2"])
    written = json.loads((tmp_path / "gates.json").read_text())
    assert written["all_cases"]["1/2"] == {
        "open_fraction": 0.0,
        "lesion_voxels": 8,
        "kept_lesion_voxel_share": 0.0,
        "lesions": 1,
        "kept_lesion_share": 0.0,
    }
    assert written["per_case"]["without"]["1/2"]["kept_lesion_voxel_share"] is None
