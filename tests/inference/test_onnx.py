import pytest
import torch

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference import export as onnx
from sgnet_nnunet.networks.sgnet import SGNet


def tiny():
    torch.manual_seed(0)
    return SGNet(1, 1, features_per_stage=(4, 8), gate_kwargs={"groups": 2})


def test_missing_extra_is_named_with_the_command(without_module, tmp_path):
    without_module("onnxscript")
    with pytest.raises(
        SGNetError, match=r"onnxscript is not installed; run: pip install 'sgnet-nnunet\[onnx\]'"
    ):
        onnx.export_onnx(tiny(), tmp_path / "network.onnx", input_channels=1)


def test_file_that_computes_something_else_is_not_left_behind(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx, "_difference", lambda *_: float("nan"))
    with pytest.raises(SGNetError, match="differ from PyTorch's by nan"):
        onnx.export_onnx(tiny(), tmp_path / "network.onnx", input_channels=1)
    assert list(tmp_path.iterdir()) == []


def test_logits_that_differ_are_told_apart(tmp_path):
    path = tmp_path / "network.onnx"
    network = tiny()
    assert onnx.export_onnx(network, path, input_channels=1) < 1e-5
    torch.nn.init.constant_(network.head.bias, 3.0)
    network.bypass_gates(True)
    assert onnx._difference(network, path, torch.rand(1, 1, 16, 16, 16)) > 0.1
