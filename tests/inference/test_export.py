"""Exports to ONNX and OpenVINO."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference import export
from sgnet_nnunet.inference.export import export_onnx, export_openvino
from sgnet_nnunet.inference.exported import open_exported, read_export
from sgnet_nnunet.networks.sgnet import SGNet


def trained(folder, network):
    """Return what `load_trained_model` gives, as far as an export looks at it."""
    return SimpleNamespace(
        folder=folder,
        network=network,
        configuration="3d_fullres",
        mirroring_axes=(0, 2),
        checkpoints={"0": folder / "fold_0" / "checkpoint_final.pth"},
    )


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model's folder, whose network is put in the place of the loaded one."""
    folder = tmp_path / "Dataset501_Test" / "SGNetTrainer__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    for name in ("plans.json", "dataset.json", "operating_point.json"):
        (folder / name).write_text(json.dumps({"file": name}))
    torch.manual_seed(0)
    network = SGNet(2, 2, features_per_stage=(4, 8, 8), gate_kwargs={"groups": 2}).eval()
    monkeypatch.setattr(export, "load_trained_model", lambda *_, **__: trained(folder, network))
    monkeypatch.setattr(export, "name_of_model", lambda _: "Dataset501_Test/SGNetTrainer")
    return folder, network


@pytest.mark.slow
def test_exported_folder_holds_the_description_and_opens(model, tmp_path):
    folder, network = model
    assert export_openvino(folder, tmp_path / "out", folds=["0"]) < 1e-4
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"export.json", "fold_0", "plans.json", "dataset.json", "operating_point.json"}
    written = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (written["configuration"], written["mirroring_axes"]) == ("3d_fullres", [0, 2])
    checksum = hashlib.sha256(b"weights").hexdigest()
    assert read_export(tmp_path / "out").weights_sha256 == {"0": checksum}
    engine = open_exported(tmp_path / "out")
    image = np.random.default_rng(0).random((2, 8, 16, 16), dtype=np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(image)[None])[0]
    np.testing.assert_allclose(engine.logits(image), expected, atol=1e-3)


@pytest.mark.slow
def test_export_that_drifts_is_not_left_behind(model, tmp_path, monkeypatch):
    folder, _ = model
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(SGNetError, match="logits differ from PyTorch's by"):
        export_openvino(folder, tmp_path / "out", folds=["0"])
    assert {path.name for path in tmp_path.iterdir()} == {"Dataset501_Test"}


def test_folder_in_use_is_left_alone(model, tmp_path):
    folder, _ = model
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mask.nii.gz").write_text("")
    with pytest.raises(InputFileError, match="is there already"):
        export_openvino(folder, tmp_path / "out", folds=["0"])
    assert (tmp_path / "out" / "mask.nii.gz").exists()


def test_network_that_is_no_sgnet_is_refused(model, tmp_path, monkeypatch):
    folder, _ = model
    network = torch.nn.Conv3d(2, 2, 1)
    monkeypatch.setattr(export, "load_trained_model", lambda *_, **__: trained(folder, network))
    with pytest.raises(SGNetError, match="Conv3d is not an SG-Net of three or more levels"):
        export_openvino(folder, tmp_path / "out", folds=["0"])


def tiny():
    torch.manual_seed(0)
    return SGNet(1, 1, features_per_stage=(4, 8), gate_kwargs={"groups": 2})


def test_missing_extra_is_named_with_the_command(without_module, tmp_path):
    without_module("onnxscript")
    with pytest.raises(
        SGNetError, match=r"onnxscript is not installed; run: pip install 'sgnet-nnunet\[onnx\]'"
    ):
        export_onnx(tiny(), tmp_path / "network.onnx", input_channels=1)


@pytest.mark.slow
def test_file_that_computes_something_else_is_not_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(export, "_difference", lambda *_: float("nan"))
    with pytest.raises(SGNetError, match="differ from PyTorch's by nan"):
        export_onnx(tiny(), tmp_path / "network.onnx", input_channels=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_logits_that_differ_are_told_apart(tmp_path):
    path = tmp_path / "network.onnx"
    network = tiny()
    assert export_onnx(network, path, input_channels=1) < 1e-5
    torch.nn.init.constant_(network.head.bias, 3.0)
    network.bypass_gates(True)
    assert export._difference(network, path, torch.rand(1, 1, 16, 16, 16)) > 0.1
