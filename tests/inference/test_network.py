import json
import shutil

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from sgnet_nnunet.inference.trained_model import initialise


@pytest.fixture(scope="module")
def gated(model, tmp_path_factory):
    """Return a model of the plan's own SG-Net, two folds of it."""
    folder = shutil.copytree(model, tmp_path_factory.mktemp("gated") / "model")
    configuration = json.loads((folder / "plans.json").read_text())["configurations"]["3d_fullres"]
    planned = configuration["architecture"]
    for fold in range(2):
        path = folder / f"fold_{fold}/checkpoint_final.pth"
        network = get_network_from_plans(
            planned["network_class_name"], planned["arch_kwargs"], [], 2, 2, allow_init=False
        )
        content = torch.load(path, weights_only=False)
        torch.save({**content, "trainer_name": "SGNetTrainer", "network_weights": network.state_dict()}, path)
    return folder


@pytest.mark.parametrize("kind", ["gated", "model"])
def test_predictor_is_that_of_nnunet(kind, request):
    folder = request.getfixturevalue(kind)
    ours, theirs = (nnUNetPredictor(device=torch.device("cpu")) for _ in range(2))
    initialise(ours, folder, ("0", "1"), "checkpoint_final.pth")
    theirs.initialize_from_trained_model_folder(str(folder), ("0", "1"), "checkpoint_final.pth")
    assert repr(ours.network) == repr(theirs.network)
    assert len(ours.list_of_parameters) == 2
    for our_fold, their_fold in zip(ours.list_of_parameters, theirs.list_of_parameters, strict=True):
        ours.network.load_state_dict(our_fold)
        assert all(torch.equal(our_fold[name], their_fold[name]) for name in their_fold)
    for attribute in ("trainer_name", "allowed_mirroring_axes", "dataset_json"):
        assert getattr(ours, attribute) == getattr(theirs, attribute)
    assert ours.plans_manager.plans == theirs.plans_manager.plans
    assert ours.configuration_manager.configuration == theirs.configuration_manager.configuration


def test_planned_network_needs_no_trainer(gated, monkeypatch):
    monkeypatch.delattr(nnUNetPredictor, "initialize_from_trained_model_folder")
    predictor = nnUNetPredictor(device=torch.device("cpu"))
    initialise(predictor, gated, ("1",), "checkpoint_final.pth")
    assert predictor.network.gate_names
