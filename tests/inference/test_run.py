"""Which way models go, and that an exported one goes without PyTorch."""

import subprocess
import sys
from pathlib import Path

import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference import nnunet_adapter as ensemble
from sgnet_nnunet.inference import nnunet_adapter as predict
from sgnet_nnunet.inference import predictor as exported
from sgnet_nnunet.inference import predictor as find
from sgnet_nnunet.inference.predictor import PredictionOptions, predict_images

OPTIONS = PredictionOptions()


@pytest.fixture
def ways(monkeypatch, tmp_path):
    """Replace the ways to predict; return what each was called with."""
    ways = {}

    def note(way):
        return lambda *_, **options: ways.update({way: options}) or 3

    monkeypatch.setattr(exported, "predict_exported", note("exported"))
    monkeypatch.setattr(ensemble, "predict_with_models", note("ensemble"))
    monkeypatch.setattr(predict, "predict_folder", note("trained"))
    monkeypatch.setattr(find, "find_operating_point", lambda wanted, folder: f"{wanted} of {folder.name}")
    for name in ("one", "two", "exported"):
        (tmp_path / name).mkdir()
    (tmp_path / "exported/export.json").touch()
    return ways


def run(*folders, **options):
    return predict_images(Path("in"), Path("out"), model_folders=folders, options=OPTIONS, **options)


def test_trained_model_is_predicted_at_its_point(ways, tmp_path):
    assert run(tmp_path / "one") == 3
    assert list(ways) == ["trained"]
    assert ways["trained"]["operating_point"] == "auto of one"


def test_several_models_are_averaged_at_no_point(ways, tmp_path):
    assert run(tmp_path / "one", tmp_path / "two") == 3
    assert ways["ensemble"]["model_folders"] == (tmp_path / "one", tmp_path / "two")
    with pytest.raises(SGNetError, match=r"point\.json: is for a single model"):
        run(tmp_path / "one", tmp_path / "two", operating_point="point.json")


def test_exported_model_goes_its_own_way_alone(ways, tmp_path):
    assert run(tmp_path / "exported", operating_point="none") == 3
    assert list(ways) == ["exported"]
    assert ways["exported"]["operating_point"] == "none"
    with pytest.raises(SGNetError, match="an exported model is predicted alone"):
        run(tmp_path / "one", tmp_path / "exported")


def test_the_way_of_exported_models_imports_no_pytorch():
    program = "import sys, sgnet_nnunet.cli.predict, sgnet_nnunet.inference.exported; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"torch", "monai", "matplotlib", "pandas", "nnunetv2.inference"}
    assert not heavy & set(modules.stdout.split())
