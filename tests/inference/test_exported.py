from types import SimpleNamespace

import numpy as np
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference import predictor as exported
from sgnet_nnunet.inference.engines import Mirrored
from sgnet_nnunet.inference.predictor import PredictionOptions, predict_exported, refuse_options


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"checkpoint": "checkpoint_best.pth"}, "-chk"),
        ({"step_size": 0.75}, "-step_size"),
        ({"preprocessing_processes": 2}, "-npp"),
        ({"export_processes": 1}, "-nps"),
        ({"engine": "tiled"}, "--engine tiled"),
        ({"runtime": "torch"}, "--runtime torch"),
        ({"device": "cuda"}, "-device cuda"),
    ],
)
def test_options_of_trained_models_are_refused(options, flag):
    with pytest.raises(SGNetError, match=f"^{flag}: not for an exported model"):
        refuse_options(PredictionOptions(**options))


def test_options_that_change_nothing_are_taken():
    refuse_options(PredictionOptions(device="cpu", preprocessing_processes=0, runtime="openvino"))


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Replace what reads, opens and predicts an exported folder; return the calls."""
    parts = SimpleNamespace(calls={})

    def predict_folder(images, output, **options):
        parts.predicted = options
        return 2

    def open_exported(folder, **options):
        parts.opened = options
        return SimpleNamespace(channels=2, heads=2, logits=lambda image: image)

    export = SimpleNamespace(configuration="3d_fullres", model="Dataset501_Tiny/M", mirroring_axes=(0, 2))
    monkeypatch.setattr(exported, "read_export", lambda _: export)
    monkeypatch.setattr(exported, "read_plan", lambda _, configuration: configuration)
    monkeypatch.setattr(exported, "open_exported", open_exported)
    monkeypatch.setattr(exported, "predict_folder", predict_folder)
    return parts


def predict(folder, **options):
    return predict_exported(
        folder,
        folder,
        model_folder=folder,
        operating_point="none",
        options=PredictionOptions(**options),
    )


def test_engine_is_opened_as_the_options_say(parts, tmp_path):
    assert predict(tmp_path, folds=("1",), precision="bf16", max_memory=10**9, num_parts=3, part_id=1) == 2
    assert parts.predicted["plan"] == "3d_fullres"
    assert parts.predicted["point"] is None
    assert (parts.predicted["options"].num_parts, parts.predicted["options"].part_id) == (3, 1)
    parts.predicted["open_engine"]()
    assert parts.opened == {"folds": ("1",), "precision": "bf16", "engine": "auto", "max_memory": 10**9}


def test_mirroring_goes_along_the_axes_of_the_export(parts, tmp_path):
    assert predict(tmp_path, mirroring=True) == 2
    engine = parts.predicted["open_engine"]()
    assert isinstance(engine, Mirrored)
    image = np.random.default_rng(0).random((2, 3, 3, 3), dtype=np.float32)
    np.testing.assert_allclose(engine.logits(image), image, rtol=1e-6)
