"""The model in the package, as it is installed."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.files import checksum_of
from sgnet_nnunet.inference import shipped
from sgnet_nnunet.inference.predictor import PredictionOptions, open_model
from sgnet_nnunet.inference.shipped import OPENVINO, SYNTHETIC, find_models, shipped_model
from sgnet_nnunet.inference.trained_model import load_trained_model


@pytest.fixture(scope="module")
def model():
    return shipped_model()


def test_the_three_forms_of_the_weights_are_one_network(model, rng, smooth_image):
    weights = load_file(model.weights)
    trained = load_trained_model(model.trained)
    assert trained.weights[0].keys() == weights.keys()
    assert all(torch.equal(values, weights[name]) for name, values in trained.weights[0].items())
    image = np.clip(smooth_image(rng, (16, 32, 32)), 0, 1)
    options = PredictionOptions(device="cpu", runtime="torch")
    by_torch, by_openvino = (
        open_model(folder, options_).engine.logits(image)
        for folder, options_ in (
            (model.trained, options),
            (model.folder / OPENVINO, PredictionOptions()),
        )
    )
    np.testing.assert_allclose(by_openvino, by_torch, atol=1e-3)


def test_its_name_and_version_are_in_the_provenance_of_every_prediction(model):
    for folder in (model.trained, model.folder / OPENVINO):
        found = open_model(folder, PredictionOptions(device="cpu")).find_provenance()
        assert found.model.startswith(f"{model.name}/")


def test_the_card_says_what_it_was_trained_on_and_what_it_is_not_for(model):
    card = model.card.read_text(encoding="utf-8")
    assert model.name in card
    assert checksum_of(model.weights) in card
    for words in ("phantom", "Dice", "false positives", "not a medical device"):
        assert words in card


def test_no_path_and_no_name_of_a_patient_is_in_its_files(model):
    for path in (path for path in model.folder.rglob("*") if path.is_file()):
        assert not re.search(rb"/(home|root|tmp|work|Users)/|YG_[A-Z0-9]", path.read_bytes()), path


def test_nnunets_pretraining_takes_its_checkpoint(model):
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights  # noqa: PLC0415

    network = load_trained_model(model.trained).network
    with torch.no_grad():
        for values in network.parameters():
            values.zero_()
    load_pretrained_weights(network, str(model.checkpoint))
    expected = load_file(model.weights)
    assert all(torch.equal(values, expected[name]) for name, values in network.state_dict().items())


def test_a_folder_of_that_name_comes_first(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = [Path(SYNTHETIC), Path("other")]
    assert find_models(named, PredictionOptions()) == [model.folder / OPENVINO, Path("other")]
    (tmp_path / SYNTHETIC).mkdir()
    assert find_models(named, PredictionOptions()) == named
    assert find_models([], PredictionOptions()) == [model.folder / OPENVINO]


def test_without_openvino_pytorch_predicts(model, monkeypatch):
    monkeypatch.setattr(shipped, "find_spec", lambda _: None)
    assert find_models([], PredictionOptions()) == [model.trained]


def test_an_installation_without_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "MODELS", tmp_path)
    with pytest.raises(SGNetError, match="holds no model synthetic; install sgnet-nnunet again"):
        find_models([], PredictionOptions())


def test_the_newest_version_is_taken_by_number(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "MODELS", tmp_path)
    for version in (1, 2, 10):
        (tmp_path / f"{SYNTHETIC}-{version}").mkdir()
    assert shipped_model().name == f"{SYNTHETIC}-10"
