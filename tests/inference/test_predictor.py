"""The seam between nnU-Net's predictor and the engines."""

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from sgnet_nnunet.inference import nnunet_adapter as load
from sgnet_nnunet.inference.nnunet_adapter import predict_folder
from sgnet_nnunet.inference.predictor import PredictionOptions


class Tiles:
    """An engine that gives the logits of nnU-Net's sliding window."""

    channels, heads = 2, 2

    def __init__(self, model, folds):
        self.predictor = nnUNetPredictor(1, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        self.predictor.initialize_from_trained_model_folder(str(model), folds, "checkpoint_final.pth")
        self.seen = []

    def logits(self, image):
        assert image.dtype == np.float32
        assert not torch.is_inference_mode_enabled()  # OpenVINO cannot convert a network in it
        self.seen.append(image)
        return self.predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image)).float().numpy()


@pytest.fixture
def engine(model, monkeypatch):
    """Replace the engines; return the one that stands for them, which keeps what it was built with."""
    engine = Tiles(model, (0, 1))

    def build_engine(network, weights, **options):
        engine.network, engine.weights, engine.options = network, weights, options
        return engine

    monkeypatch.setattr(load, "build_engine", build_engine)
    return engine


def test_engine_takes_the_place_of_the_sliding_window(model, images, engine, tmp_path, monkeypatch):
    predict_folder(images, tmp_path / "engine", model_folder=model, options=PredictionOptions(device="cpu"))
    assert len(engine.seen) == 2
    monkeypatch.setattr(load, "build_engine", lambda *_, **__: None)
    options = PredictionOptions(device="cpu", step_size=1)
    predict_folder(images, tmp_path / "tiled", model_folder=model, options=options)
    assert len(engine.seen) == 2
    for name in ("a.nii.gz", "b.nii.gz"):
        ours, theirs = (nib.load(tmp_path / way / name) for way in ("engine", "tiled"))
        np.testing.assert_array_equal(ours.dataobj, theirs.dataobj)
        assert np.asarray(ours.dataobj).any()


def test_engine_is_built_from_all_folds_as_the_options_say(model, images, engine, tmp_path):
    options = PredictionOptions(
        device="cpu", engine="whole", runtime="torch", precision="bf16", max_memory=3 * 10**9
    )
    predict_folder(images, tmp_path, model_folder=model, options=options)
    assert len(engine.weights) == 2
    assert isinstance(engine.network, torch.nn.Module)
    assert engine.options == {
        "requested": "whole",
        "runtime": "torch",
        "precision": "bf16",
        "device": torch.device("cpu"),
        "max_memory": 3 * 10**9,
    }


def test_mirroring_shows_the_engine_every_mirror_image(model, images, engine, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "logits", lambda image: engine.seen.append(image) or image.copy())
    options = PredictionOptions(device="cpu", mirroring=True)
    predict_folder(images, tmp_path, model_folder=model, options=options)
    assert len(engine.seen) == 2 * 8
    np.testing.assert_array_equal(engine.seen[7], engine.seen[0][:, ::-1, ::-1, ::-1])
