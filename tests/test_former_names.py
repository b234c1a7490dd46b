"""Models and plans of version 0.1.0 keep loading."""

import torch

from sgnet_nnunet import former_names
from sgnet_nnunet.networks.sgnet import SGNet

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
