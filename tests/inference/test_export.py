"""Exports to ONNX and OpenVINO."""

import copy
import hashlib
import json
import re
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference import export
from sgnet_nnunet.inference.export import export_onnx, export_openvino
from sgnet_nnunet.inference.exported import open_exported, read_export
from sgnet_nnunet.inference.torch_engines import stage_models
from sgnet_nnunet.networks.gates import HardSpatialGate
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
    for name in ("plans.json", "dataset.json"):
        (folder / name).write_text(json.dumps({"file": name}))
    (folder / "fold_0/debug.json").write_text(json.dumps({"sgnet_operating_point": {"point": 1}}))
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
    assert json.loads((tmp_path / "out/operating_point.json").read_text()) == {"point": 1}
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
    assert export._difference(network, path.read_bytes(), torch.rand(1, 1, 16, 16, 16)) > 0.1


# --- wrong weights behind closed gates ----------------------------------------------------------------------


def closed(make_network, **options):
    """Return a network whose gates are closed nearly everywhere: its logits hide the decoder's weights."""
    network = make_network(open_share=0, **options)
    for gate in gates_in(network):
        gate.score.bias.data -= 5
    return network


def gates_in(network):
    return [module for module in network.modules() if isinstance(module, HardSpatialGate)]


def wrong(weights, rng):
    """Return weights that are all off by a third of the largest, or of which one is no number."""
    values = np.array(weights, dtype=np.float32)
    if rng.random() < 0.2:
        values.flat[rng.integers(values.size)] = np.nan
        return values
    size = max(float(np.abs(values).max()), 0.1) / 3
    return values + rng.choice(np.array([-size, size], dtype=np.float32), values.shape)


@pytest.fixture
def stages_written_wrong(make_network, monkeypatch, tmp_path, rng):
    """Return a function that has the weights of a name written wrong in the stage of a name."""
    folder = tmp_path / "Dataset501_Test" / "SGNetTrainer__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    network = closed(make_network)
    monkeypatch.setattr(export, "load_trained_model", lambda *_, **__: trained(folder, network))
    monkeypatch.setattr(export, "name_of_model", lambda _: "Dataset501_Test/SGNetTrainer")

    def write(name):
        other = copy.deepcopy(network)
        if name:
            tensor = other.state_dict()[name]
            tensor.copy_(torch.from_numpy(wrong(tensor.numpy(), rng)))
        models = stage_models(other)
        monkeypatch.setattr(export, "stage_models", lambda _: models)
        return export_openvino(folder, tmp_path / f"out {name}", folds=["0"])

    return network, write


@pytest.mark.slow
def test_weights_written_wrong_are_found_in_every_stage_though_gates_are_closed(stages_written_wrong, rng):
    network, write = stages_written_wrong
    assert write("") < 1e-4
    names = [name for name, weights in network.state_dict().items() if weights.is_floating_point()]
    for part in ("encoder.[01]", "encoder.[23]", "decoder.0", "decoder.1", "decoder.2", "score", "head"):
        name = rng.choice([name for name in names if re.search(part, name)])
        with pytest.raises(SGNetError, match=r"logits differ from PyTorch's|are not finite"):
            write(name)


@pytest.mark.slow
def test_weights_written_wrong_are_found_in_onnx_though_gates_are_closed(make_network, tmp_path, rng):
    network, path = closed(make_network), tmp_path / "network.onnx"
    assert export_onnx(network, path, input_channels=2) < 1e-4
    image = torch.rand(1, 2, 32, 48, 64, generator=torch.Generator().manual_seed(0))
    assert gates_in(network)[-1](torch.zeros(1, 8, 4, 4, 4)).mask.float().mean() < 0.1
    weights = {tensor.name for tensor in onnx.load(path).graph.initializer} & set(network.state_dict())
    assert sum(name.endswith("hard_gate.score.bias") for name in weights) == len(gates_in(network))
    scores = {name for name in weights if ".score." in name}
    for name in (*scores, *rng.choice(sorted(weights - scores), 5, replace=False)):
        model = onnx.load(path)
        (tensor,) = (each for each in model.graph.initializer if each.name == name)
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32:
            continue
        tensor.CopyFrom(onnx.numpy_helper.from_array(wrong(values, rng), name))
        assert not export._onnx_difference(network, model.SerializeToString(), [image]) <= export.TOLERANCE


def test_weights_that_are_no_numbers_are_not_exported(tmp_path, rng):
    network = tiny()
    name = rng.choice([name for name, weights in network.state_dict().items() if weights.is_floating_point()])
    network.state_dict()[name].flatten()[0] = rng.choice([np.nan, np.inf])
    with pytest.raises(InputFileError, match=rf"network\.onnx: holds weights that are not finite \({name}\)"):
        export_onnx(network, tmp_path / "network.onnx", input_channels=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{}, {"gate": "none"}, {"gated_levels": [1, 2]}, {"gate": "soft"}])
def test_gates_are_opened_in_a_part_of_what_the_coarser_ones_leave(make_network, rng, smooth_image, options):
    network = make_network(open_share=0, **options) if "gate" not in options else make_network(**options)
    before = [gate.score_threshold for gate in gates_in(network)]
    image = torch.from_numpy(smooth_image(rng, (32, 32, 32)))[None]
    shares = []
    for probe in export.partly_open(network, image):
        probe.return_gates = True
        with torch.inference_mode():
            decisions = probe(image).decisions if gates_in(probe) else ()
        assert all(decision.mask.any() for decision in decisions)
        shares.append([float(decision.mask.float().mean()) for decision in decisions])
    half, twentieth = shares
    # Where features are dead, as with gates at some levels here, most voxels have one score.
    assert options or all(few < many for many, few in zip(half, twentieth, strict=True))
    assert [gate.score_threshold for gate in gates_in(network)] == before
