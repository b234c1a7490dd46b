from importlib.metadata import PackageNotFoundError

import pytest
import torch

from sgnet_nnunet.plugin import doctor
from sgnet_nnunet.plugin.shims import SHIMS, write_shims


@pytest.fixture
def environment(tmp_path):
    for name in doctor.NNUNET_PATHS:
        (tmp_path / name).mkdir()
    return {name: str(tmp_path / name) for name in doctor.NNUNET_PATHS}


def finding(findings, subject):
    return next(f for f in findings if f.subject == subject)


def test_a_sound_installation_needs_no_remedy(environment):
    findings = doctor.examine(environment)
    assert [f for f in findings if f.remedy] == []
    assert {name for shim in SHIMS for name in shim.names} <= {f.subject for f in findings}


def test_missing_face_is_mended_by_link(environment, package, monkeypatch):
    monkeypatch.setattr(doctor, "nnunet_package", lambda: package)
    missing = finding(doctor.examine(environment), "SGNetPlanner")
    assert missing.state.startswith("not found")
    assert missing.remedy == "sgnet link"


def test_outdated_face_is_told_from_a_missing_one(environment, package, monkeypatch):
    write_shims(package)
    (package / SHIMS[0].path).write_text("old")
    monkeypatch.setattr(doctor, "nnunet_package", lambda: package)
    assert finding(doctor.examine(environment), "SGNetTrainer").state.startswith("outdated")


@pytest.mark.parametrize(
    ("change", "state", "remedy"),
    [
        (lambda env: env.pop("nnUNet_raw"), "not set", "export nnUNet_raw="),
        (lambda env: env.update(nnUNet_raw="/nowhere/at/all"), "no such folder", "mkdir -p"),
    ],
)
def test_each_wrong_path_has_one_command_that_mends_it(environment, change, state, remedy):
    change(environment)
    wrong = finding(doctor.examine(environment), "nnUNet_raw")
    assert state in wrong.state
    assert wrong.remedy.startswith(remedy)


def test_folder_without_write_permission_is_wrong(environment, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert finding(doctor.examine(environment), "nnUNet_results").remedy.startswith("chmod u+w")


def test_old_nnunet_is_wrong(environment, monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda _: "2.5.1")
    assert finding(doctor.examine(environment), "nnunetv2").remedy == "pip install 'nnunetv2>=2.8'"


def test_missing_package_is_named_with_its_install_command(environment, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)
    assert finding(doctor.examine(environment), "torch").remedy == "pip install torch"


def test_class_of_the_same_name_elsewhere_is_told(environment, monkeypatch):
    class SGNetPlanner:
        pass

    monkeypatch.setattr(doctor, "_look_up", lambda *_: SGNetPlanner)
    hidden = finding(doctor.examine(environment), "SGNetPlanner")
    assert "hidden by another class" in hidden.state
    assert hidden.remedy == f"mv {__file__} {__file__}.off"


def test_broken_module_in_nnunets_folder_is_told(environment, monkeypatch):
    def fail(*_):
        raise ImportError("no module named gone")

    monkeypatch.setattr(doctor, "_look_up", fail)
    assert "look-up fails: no module named gone" in finding(doctor.examine(environment), "SGNetTrainer").state


@pytest.mark.parametrize(
    ("cuda", "mps", "state"), [(True, False, "CUDA: T4"), (False, True, "MPS"), (False, False, "CPU")]
)
def test_device_is_named(environment, monkeypatch, cuda, mps, state):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T4")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert finding(doctor.examine(environment), "device").state.startswith(state)
