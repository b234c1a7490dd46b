"""Trained models are loaded as nnU-Net's predictor loads them, without it."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference import trained_model
from sgnet_nnunet.inference.engines import Mirrored
from sgnet_nnunet.inference.predictor import PredictionOptions
from sgnet_nnunet.inference.trained_model import load_trained_model, open_trained

CHECKPOINT = "checkpoint_final.pth"


@pytest.fixture(scope="module")
def gated(model, tmp_path_factory):
    """Return a model of the plan's own SG-Net, two folds of it."""
    folder = shutil.copytree(model, tmp_path_factory.mktemp("gated") / "model")
    configuration = json.loads((folder / "plans.json").read_text())["configurations"]["3d_fullres"]
    planned = configuration["architecture"]
    for fold in range(2):
        path = folder / f"fold_{fold}" / CHECKPOINT
        network = get_network_from_plans(
            planned["network_class_name"], planned["arch_kwargs"], [], 2, 2, allow_init=False
        )
        content = torch.load(path, weights_only=False)
        torch.save({**content, "trainer_name": "SGNetTrainer", "network_weights": network.state_dict()}, path)
    return folder


@pytest.mark.parametrize("kind", ["gated", "model"])
@pytest.mark.slow
def test_model_is_that_of_nnunets_predictor(kind, request):
    folder = request.getfixturevalue(kind)
    ours, theirs = load_trained_model(folder), nnUNetPredictor(device=torch.device("cpu"))
    theirs.initialize_from_trained_model_folder(str(folder), ("0", "1"), CHECKPOINT)
    assert repr(ours.network) == repr(theirs.network)
    assert list(ours.checkpoints) == ["0", "1"]
    for weights, expected in zip(ours.weights, theirs.list_of_parameters, strict=True):
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
    state, expected = ours.network.state_dict(), theirs.list_of_parameters[0]
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert not ours.network.training
    assert ours.trainer == theirs.trainer_name
    assert ours.mirroring_axes == theirs.allowed_mirroring_axes
    assert ours.configuration == "3d_fullres"


@pytest.mark.slow
def test_planned_network_imports_neither_the_predictor_nor_the_trainer(gated):
    program = (
        "import sys; from pathlib import Path; from sgnet_nnunet.inference.predictor import *;"
        f"model = open_model(Path({str(gated)!r}), PredictionOptions(device='cpu')); model.engine;"
        "print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"nnunetv2.inference", "nnunetv2.training", "pandas", "matplotlib"}
    assert not heavy & set(run.stdout.split())


def test_former_name_of_a_trainer_is_understood(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    path = folder / "fold_0" / CHECKPOINT
    content = torch.load(path, weights_only=False)
    torch.save({**content, "trainer_name": "UNetTrainer"}, path)
    with pytest.raises(InputFileError, match=r"does not fit plans\.json"):
        load_trained_model(folder, folds=("0",))


@pytest.mark.slow
def test_trainer_that_is_not_installed_is_named(model, tmp_path):
    folder = shutil.copytree(model, tmp_path / "model")
    path = folder / "fold_0" / CHECKPOINT
    torch.save({**torch.load(path, weights_only=False), "trainer_name": "TheirTrainer"}, path)
    with pytest.raises(SGNetError, match=r"trainer TheirTrainer is neither nnU-Net's own .*--trust"):
        load_trained_model(folder, folds=("0",))
    with pytest.raises(SGNetError, match="TheirTrainer is not installed"):
        load_trained_model(folder, folds=("0",), trust=True)


@pytest.mark.parametrize("content", [b"no checkpoint", None, {"state_dict": {}}])
def test_damaged_checkpoint_is_named(model, tmp_path, content):
    folder = shutil.copytree(model, tmp_path / "model")
    path = folder / "fold_0" / CHECKPOINT
    if isinstance(content, dict):
        torch.save(content, path)
    else:
        path.write_bytes(content or path.read_bytes()[:-5000])
    with pytest.raises(
        InputFileError, match=r"fold_0/checkpoint_final\.pth: (cannot be read|.*missing required)"
    ):
        load_trained_model(folder, folds=("0",))


def test_folder_without_the_weights_is_named(tmp_path):
    with pytest.raises(InputFileError, match=r"fold_3/checkpoint_best\.pth: there is no such file"):
        load_trained_model(tmp_path, folds=("3",), checkpoint="checkpoint_best.pth")


def test_engine_is_built_from_all_folds_as_the_options_say(model, monkeypatch):
    class Built:
        channels, heads = 2, 2

    def build_engine(network, weights, **options):
        Built.network, Built.weights, Built.options = network, weights, options
        return Built()

    monkeypatch.setattr(trained_model, "build_engine", build_engine)
    options = PredictionOptions(
        device="cpu", engine="whole", runtime="torch", precision="bf16", max_memory=3 * 10**9
    )
    assert isinstance(open_trained(model, options).engine, Built)
    assert isinstance(Built.network, torch.nn.Module)
    assert len(Built.weights) == 2
    assert {"whole", "torch", "bf16", 3 * 10**9} < set(Built.options.values())
    mirrored = open_trained(model, PredictionOptions(device="cpu", mirroring=True)).engine
    assert isinstance(mirrored, Mirrored)
    assert len(mirrored._flips) == 8


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused_in_every_fold(model, tmp_path, rng, value):
    names = list(load_trained_model(model).weights[0])
    for fold in ("0", "1"):
        folder = shutil.copytree(model, tmp_path / fold)
        path = folder / f"fold_{fold}" / CHECKPOINT
        content = torch.load(path, weights_only=False)
        name = rng.choice([name for name in names if content["network_weights"][name].is_floating_point()])
        weights = content["network_weights"][name].flatten()
        weights[rng.integers(weights.numel())] = value
        torch.save(content, path)
        with pytest.raises(
            InputFileError, match=rf"fold_{fold}/{CHECKPOINT}: holds weights that are not finite \({name}\)"
        ):
            load_trained_model(folder)
