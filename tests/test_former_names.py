"""Models and plans of version 0.1.0 keep loading."""

import json

import numpy as np
import pytest
import torch

from sgnet_nnunet import former_names
from sgnet_nnunet.inference.predictor import PredictionOptions
from sgnet_nnunet.inference.trained_model import load_trained_model, open_trained
from sgnet_nnunet.networks.baselines import build_unet
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.nnunet import find_model_folder
from sgnet_nnunet.planning.planner import SGNetPlanner

FORMER_WEIGHTS = {
    ".hard_gate.bypassed": ".admission.held_open",
    ".hard_gate.": ".admission.",
    "auxiliary_heads.": "side_heads.",
}


def in_the_words_of_010(weights):
    """Return weights as version 0.1.0 named them."""
    former = {}
    for name, value in weights.items():
        for present, old in FORMER_WEIGHTS.items():
            if present in name:
                name = name.replace(present, old)  # noqa: PLW2901
                break
        former[name] = value
    return former


def test_weights_and_plan_of_010_give_the_same_logits():
    torch.manual_seed(0)
    network = SGNet(2, 2, gate="hard_spatial", gate_kwargs={"dilation": 0}, deep_supervision=True).eval()
    former = in_the_words_of_010(network.state_dict())
    assert sum("admission" in name for name in former) == 9
    assert sum("side_heads" in name for name in former) == 4
    loaded = SGNet(2, 2, gate="admission", gate_kwargs={"dilation": 0}, deep_supervision=True).eval()
    loaded.load_state_dict(former)
    image = torch.rand(1, 2, 16, 32, 32)
    assert torch.equal(loaded(image), network(image))


def test_present_names_stay():
    weights = SGNet(2, 2).state_dict()
    names = list(weights)
    former_names.rename_weights(weights)
    assert list(weights) == names
    assert former_names.present_trainer("SGNetTrainer") == "SGNetTrainer"


def test_a_model_folder_with_its_trainers_former_name_is_found(tmp_path):
    present = tmp_path / "BaselineUNetTrainer__nnUNetPlans__3d_fullres"
    former = tmp_path / "UNetTrainer__nnUNetPlans__3d_fullres"
    assert former_names.model_folder(present) == present
    former.mkdir()
    assert former_names.model_folder(present) == former
    present.mkdir()
    assert former_names.model_folder(present) == present
    assert former_names.present_trainer("UNetTrainer") == "BaselineUNetTrainer"
    other = tmp_path / "SGNetTrainer__nnUNetPlans__3d_fullres"
    assert former_names.model_folder(other) == other


@pytest.fixture
def write_model_of_010(nnunet_paths, make_dataset, write_fingerprint):
    """Return a function that writes a trained model's folder as version 0.1.0 did."""
    raw = make_dataset(nnunet_paths / "nnUNet_raw", cases=1)
    write_fingerprint(nnunet_paths / "nnUNet_preprocessed" / raw.name, cases=1)
    SGNetPlanner(501).plan_experiment()
    plans = json.loads((nnunet_paths / "nnUNet_preprocessed" / raw.name / "nnUNetPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["gate"] = "admission"

    def write(trainer, network):
        folder = nnunet_paths / "nnUNet_results" / raw.name / f"{trainer}__nnUNetPlans__3d_fullres"
        (folder / "fold_0").mkdir(parents=True)
        (folder / "plans.json").write_text(json.dumps(plans))
        (folder / "dataset.json").write_bytes((raw / "dataset.json").read_bytes())
        content = {
            "network_weights": in_the_words_of_010(network.state_dict()),
            "init_args": {"configuration": "3d_fullres"},
            "trainer_name": trainer,
            "inference_allowed_mirroring_axes": None,
            "sgnet_training_length": {"epochs": 1, "iters": 1, "val_iters": 1, "patience": 0},
        }
        torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
        return folder

    return write


@pytest.mark.parametrize(
    ("trainer", "present", "build"),
    [("SGNetTrainer", "SGNetTrainer", SGNet), ("UNetTrainer", "BaselineUNetTrainer", build_unet)],
)
def test_a_model_of_010_predicts_the_same_logits(write_model_of_010, trainer, present, build):
    torch.manual_seed(0)
    network = build(2, 2).eval()
    folder = write_model_of_010(trainer, network)
    assert find_model_folder("501", f"{present}__nnUNetPlans__3d_fullres") == folder
    image = torch.rand(1, 2, 16, 32, 32)
    with torch.inference_mode():
        expected = network(image)
        assert torch.equal(load_trained_model(folder).network(image), expected)
    if trainer == present:  # the baseline is tiled, which rounds the edges of a tile
        engine = open_trained(folder, PredictionOptions(device="cpu", runtime="torch")).engine
        np.testing.assert_allclose(engine.logits(image[0].numpy()), expected[0].numpy(), atol=1e-4)
