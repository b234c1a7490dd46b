"""A stranger's model runs no code of its own in any command, unless it is trusted."""

import inspect
import json
import os
import pickle
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import nnunetv2
import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.utils import recursive_find_resampling_fn_by_name
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.froc import read_probabilities
from sgnet_nnunet.evaluation.model_costs import seconds_per_case
from sgnet_nnunet.inference import trust as trust_module
from sgnet_nnunet.inference.trained_model import load_trained_model
from sgnet_nnunet.inference.trust import RESAMPLINGS, find_trainer, read_checkpoint

CHECKPOINT = "checkpoint_final.pth"
SGNET = (sys.executable, "-c", "from sgnet_nnunet.cli.main import main; main()")
EVERY = ("predict", "average", "tiled", "export", "gates", "tune", "compare")


class Payload:
    """An object that makes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def change_checkpoint(folder, **changes):
    for path in folder.glob(f"fold_*/{CHECKPOINT}"):
        torch.save(torch.load(path, weights_only=False) | changes, path)


def change_plans(folder, *, architecture=(), **changes):
    path = folder / "plans.json"
    plans = json.loads(path.read_text())
    settings = plans["configurations"]["3d_fullres"]
    settings["architecture"] |= dict(architecture)
    settings |= {key: value for key, value in changes.items() if key in settings}
    path.write_text(json.dumps(plans | {key: value for key, value in changes.items() if key in plans}))


def refused(commands, name, caplog, words):
    """Run a command, which must refuse the model by name; `compare` does so by a warning."""
    if name == "compare":
        assert getattr(commands, name)() is None
        message = caplog.text
    else:
        with pytest.raises(SGNetError) as caught:
            getattr(commands, name)()
        message = str(caught.value)
    assert words in message
    assert str(commands.folder) in message


@pytest.mark.parametrize("name", EVERY)
def test_pickle_runs_nothing(commands, name, caplog, tmp_path):
    change_checkpoint(commands.folder, extra=Payload(tmp_path / "marker"))
    refused(commands, name, caplog, "pass --trust")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", EVERY)
def test_network_class_runs_nothing(commands, name, caplog, tmp_path, monkeypatch):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/hubconf.py").write_text(f"import os; os.mkdir({str(tmp_path / 'marker')!r})\n")
    monkeypatch.chdir(tmp_path)
    arguments = {"repo_or_dir": "hub", "model": "net", "source": "local"}
    change_plans(
        commands.folder, architecture={"network_class_name": "torch.hub.load", "arch_kwargs": arguments}
    )
    refused(commands, name, caplog, "network_class_name torch.hub.load is not on the list")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", EVERY)
def test_module_named_as_a_layer_is_not_imported(commands, name, caplog, tmp_path, monkeypatch):
    (tmp_path / "planted.py").write_text(f"import os; os.mkdir({str(tmp_path / 'marker')!r})\n")
    monkeypatch.syspath_prepend(tmp_path)
    change_plans(
        commands.folder,
        architecture={"arch_kwargs": {"norm_op": "planted.Norm"}, "_kw_requires_import": ["norm_op"]},
    )
    refused(commands, name, caplog, "norm_op planted.Norm is not on the list")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", EVERY)
def test_planted_trainer_is_not_imported(commands, name, caplog, tmp_path, monkeypatch):
    source = f"import os\nos.mkdir({str(tmp_path / 'marker')!r})\nclass Planted: pass\n"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/planted.py").write_text(source)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "outside"))
    change_checkpoint(commands.folder, trainer_name="Planted")
    refused(commands, name, caplog, "trainer Planted is neither nnU-Net's own nor this package's")
    assert not (tmp_path / "marker").exists()


def test_trainer_put_into_nnunets_own_folder_is_not_imported(tmp_path):
    planted = Path(nnunetv2.__file__).parent / f"training/nnUNetTrainer/planted_{os.getpid()}.py"
    planted.write_text(f"import os\nos.mkdir({str(tmp_path / 'marker')!r})\nclass PlantedToo: pass\n")
    try:
        with pytest.raises(InputFileError, match=r"trainer PlantedToo is neither .*--trust"):
            find_trainer(tmp_path, "PlantedToo")
    finally:
        planted.unlink()
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "name",
    ["nnUNetTrainer", "nnUNetTrainer_5epochs", "nnUNetTrainerNoDA", "SGNetTrainer", "BaselineUNetTrainer"],
)
def test_trainers_of_nnunet_and_of_this_package_are_found(tmp_path, name):
    found = find_trainer(tmp_path, name)
    assert issubclass(found, nnUNetTrainer)
    assert found.__name__ == name


@pytest.mark.parametrize("name", ["", "os", "nnUNetTrainer.os", "../x", "np", ".*", "torch"])
def test_names_that_are_no_trainers_are_refused(tmp_path, name):
    with pytest.raises(InputFileError, match="is neither nnU-Net's own"):
        find_trainer(tmp_path, name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"preprocessor_name": "maybe_mkdir_p"}, "preprocessor_name maybe_mkdir_p is neither"),
        ({"resampling_fn_data": "load_pickle"}, "resampling_fn_data load_pickle is neither"),
        ({"resampling_fn_probabilities": "load_pickle"}, "resampling_fn_probabilities load_pickle"),
        ({"normalization_schemes": ["os", "os"]}, "normalization_schemes os is neither"),
        ({"image_reader_writer": "load_pickle"}, "image_reader_writer load_pickle is neither"),
        ({"label_manager": "maybe_mkdir_p"}, "label_manager maybe_mkdir_p is neither"),
        ({"architecture": {"network_class_name": "os.system"}}, "network_class_name os.system"),
        ({"architecture": {"network_class_name": "sgnet_nnunet.networks.sgnet.torch.hub.load"}}, "torch.hub"),
        ({"architecture": {"network_class_name": "monai.networks.nets.HoVerNet"}}, "HoVerNet"),
        (
            {"architecture": {"arch_kwargs": {"op": "torch.nn.torch.load"}, "_kw_requires_import": ["op"]}},
            "op torch.nn.torch.load is not on the list of layers",
        ),
        ({"architecture": {"arch_kwargs": {"features_per_stage": [10**9, 8]}}}, "above 4096"),
        ({"architecture": {"arch_kwargs": {"features_per_stage": [float("nan")]}}}, "not a number"),
        ({"architecture": {"arch_kwargs": {"unknown": 1}}}, "makes no network of SGNetTrainer"),
        ({"architecture": {"arch_kwargs": {"features_per_stage": [[4]]}}}, "makes no network"),
        ({"architecture": {"arch_kwargs": {"features_per_stage": [4]}}}, "makes no network of SGNetTrainer"),
        ({"architecture": {"arch_kwargs": {"gate": "__import__"}}}, "makes no network of SGNetTrainer"),
    ],
)  # fmt: skip
def test_names_and_numbers_in_plans_are_checked(commands, changes, words):
    change_plans(commands.folder, **changes)
    with pytest.raises(InputFileError, match=r"plans\.json: ") as caught:
        load_trained_model(commands.folder)
    assert words in str(caught.value)


def test_arguments_of_resamplings_are_those_of_nnunets_functions():
    for name, arguments in RESAMPLINGS.items():
        taken = inspect.signature(recursive_find_resampling_fn_by_name(name)).parameters
        assert arguments == set(list(taken)[4:]) - {"device"}


def test_trainer_whose_module_lacks_another_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(trust_module, "_own_module", lambda _: "nnunetv2.training.absent")
    with pytest.raises(InputFileError, match=r"trainer nnUNetTrainerX cannot be imported .*absent"):
        find_trainer(tmp_path, "nnUNetTrainerX")


def test_what_is_trusted_is_loaded_as_before(commands, tmp_path):
    change_checkpoint(commands.folder, extra=Payload(tmp_path / "marker"))
    with pytest.raises(InputFileError, match=r"holds more than weights \(posix\.mkdir\).*--trust"):
        load_trained_model(commands.folder, folds=("0",))
    load_trained_model(commands.folder, folds=("0",), trust=True)
    assert (tmp_path / "marker").exists()


def log_of_nnunet():
    """Return what nnU-Net's trainers log, with every kind of number that they have logged."""
    kinds = (np.float32, np.float64, np.float16, np.int64, np.int32, np.bool_, float, int)
    return {"mean_fg_dice": [kind(1) for kind in kinds], "losses": np.arange(3.0), "names": np.array(["a"])}


@pytest.mark.parametrize("core", ["core", "_core"])
def test_checkpoint_of_nnunet_is_read_of_any_numpy(commands, core):
    path = commands.folder / "fold_0" / CHECKPOINT
    content = torch.load(path, weights_only=False)
    content |= {
        "logging": log_of_nnunet(),
        "_best_ema": np.float64(0.5),
        "current_epoch": 3,
        "grad_scaler_state": {"scale": 65536.0, "growth_factor": 2.0, "_growth_tracker": 7},
        "optimizer_state": torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], 0.1, 0.9).state_dict(),
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu"), "plans": {}},
    }
    torch.save(content, path)
    rewrite_pickle(
        path, lambda data: data.replace(b"numpy._core.", b"numpy.core.") if core == "core" else data
    )
    found = read_checkpoint(path)
    assert found.trainer_name == "SGNetTrainer"
    assert found.inference_allowed_mirroring_axes == (0, 1, 2)
    for name, values in content["network_weights"].items():
        assert torch.equal(values, found.network_weights[name])


def rewrite_pickle(path, change):
    """Change the pickle within a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, change(data) if name.endswith("data.pkl") else data)


def weights_like(values, **changes):
    return {"network_weights": {"head.bias": values} | changes}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "expected object"),
        (torch.zeros(3), "missing required field trainer_name"),
        ({}, "missing required field trainer_name"),
        ({"trainer_name": 3}, r"\$\.trainer_name: expected str, got 3"),
        ({"trainer_name": None}, "got None"),
        ({"init_args": []}, r"\$\.init_args: expected object"),
        ({"init_args": {}}, "missing required field configuration"),
        ({"init_args": {"configuration": 5}}, r"\$\.init_args\.configuration: expected str, got 5"),
        ({"init_args": {"configuration": "../2d"}}, "has no usable configuration ../2d"),
        ({"network_weights": None}, r"\$\.network_weights: expected object, got None"),
        ({"network_weights": [torch.zeros(1)]}, r"\$\.network_weights: expected object"),
        (weights_like(3.0), "expected Tensor"),
        (weights_like(None), "expected Tensor"),
        ({"network_weights": {}}, "does not fit plans.json"),
        (weights_like(torch.zeros(3)), "does not fit plans.json"),
        (weights_like(torch.zeros(2).to_sparse()), "weight head.bias is no dense tensor"),
        (weights_like(torch.zeros(2, device="meta")), "weight head.bias is no dense tensor"),
        (weights_like(torch.zeros(1).expand(10**6, 10**6)), "weight head.bias is no dense tensor"),
        ({"inference_allowed_mirroring_axes": (0, 3)}, "mirroring_axes"),
        ({"inference_allowed_mirroring_axes": "xyz"}, "mirroring_axes"),
    ],
)
def test_checkpoint_of_another_kind_is_named(commands, content, words):
    path = commands.folder / "fold_0" / CHECKPOINT
    whole = torch.load(path, weights_only=False)
    torch.save(whole | content if isinstance(content, dict) and content else content, path)
    with pytest.raises(InputFileError, match=words) as caught:
        load_trained_model(commands.folder, folds=("0",))
    assert caught.value.path in (path, commands.folder / "plans.json")


def test_tensor_that_announces_more_than_the_file_holds_is_refused(commands):
    path = commands.folder / "fold_0" / CHECKPOINT
    before, after = b"(K\x04K\x02K\x03K\x03", b"(M\xd0\x07M\xd0\x07K\x03K\x03"  # 4 x 2; 2000 x 2000
    with zipfile.ZipFile(path) as archive:
        assert before in archive.read(f"{path.stem}/data.pkl")
    rewrite_pickle(path, lambda data: data.replace(before, after, 1))
    with pytest.raises(InputFileError, match=r"cannot be read|no dense tensor"):
        read_checkpoint(path)


def test_every_byte_of_a_damaged_checkpoint_is_an_error_or_harmless(commands, rng):
    path = commands.folder / "fold_0" / CHECKPOINT
    whole = path.read_bytes()
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(content[: rng.integers(len(content) // 2, len(content) + 1)])
        with suppress(InputFileError):
            read_checkpoint(path)


def test_pickle_next_to_a_preprocessed_case_is_not_read(commands, tmp_path):
    trained = load_trained_model(commands.folder, folds=("0",))
    folder = commands.root / "nnUNet_preprocessed/Dataset501_Tiny" / "nnUNetPlans_3d_fullres"
    folder.mkdir()
    np.savez(folder / "case.npz", data=np.zeros((2, 16, 32, 32), np.float32), seg=np.zeros((1, 16, 32, 32)))
    (folder / "case.pkl").write_bytes(pickle.dumps(Payload(tmp_path / "marker")))
    assert seconds_per_case(trained, folder.parent, ["case"])[0] > 0
    assert not (tmp_path / "marker").exists()


def test_probabilities_of_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", probabilities=np.array([Payload(tmp_path / "marker")], dtype=object))
    with pytest.raises(InputFileError, match=r"a\.npz"):
        read_probabilities(tmp_path / "a.npz", heads=2)
    assert not (tmp_path / "marker").exists()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "export", "gates", "tune", "compare"])
def test_commands_run_nothing_of_a_strangers_model(commands, command, tmp_path):
    change_checkpoint(commands.folder, extra=Payload(tmp_path / "marker"))
    run = subprocess.run(
        [*SGNET, command, *commands.arguments(command, tmp_path / "output")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "--trust" in run.stderr
    assert "Traceback" not in run.stderr
    assert bool(run.returncode) == (command != "compare")
    assert not (tmp_path / "marker").exists()
