import platform
from importlib.metadata import PackageNotFoundError

import pytest
import torch

from sgnet_nnunet.nnunet import FOLDER_VARIABLES
from sgnet_nnunet.plugin import doctor
from sgnet_nnunet.plugin.shims import SHIMS, write_shims


@pytest.fixture
def environment(tmp_path):
    for name in FOLDER_VARIABLES:
        (tmp_path / name).mkdir()
    return {name: str(tmp_path / name) for name in FOLDER_VARIABLES}


def finding(groups, subject):
    return next(one for group in groups for one in group.findings if one.subject == subject)


def test_a_sound_installation_has_one_line_a_group(environment):
    groups = doctor.examine(environment)
    assert [group.problems for group in groups] == [()] * 4
    summaries = {group.name: group.summary for group in groups}
    names = {name for shim in SHIMS for name in shim.names}
    assert f"all {len(names)} " in summaries["classes"]
    assert platform.python_version() in summaries["versions"]
    assert environment["nnUNet_raw"] in summaries["folders"]
    assert names <= {one.subject for group in groups for one in group.findings}


def test_a_missing_shim_is_fixed_by_link(environment, package, monkeypatch):
    monkeypatch.setattr(doctor, "nnunet_package", lambda: package)
    groups = doctor.examine(environment)
    missing = finding(groups, "SGNetPlanner")
    assert missing.state.startswith("not found")
    assert missing.remedy == "sgnet link"
    assert missing in next(group for group in groups if group.name == "classes").problems


def test_an_outdated_shim_is_told_from_a_missing_one(environment, package, monkeypatch):
    write_shims(package)
    (package / SHIMS[0].path).write_text("old")
    monkeypatch.setattr(doctor, "nnunet_package", lambda: package)
    assert finding(doctor.examine(environment), "SGNetTrainer").state.startswith("outdated")


@pytest.mark.parametrize(
    ("folder", "state", "remedy"),
    [("", "not set", "export nnUNet_raw="), ("/nowhere/at/all", "no such folder", "mkdir -p")],
)
def test_each_wrong_folder_has_one_command_that_fixes_it(environment, folder, state, remedy):
    wrong = finding(doctor.examine(environment | {"nnUNet_raw": folder}), "nnUNet_raw")
    assert state in wrong.state
    assert wrong.remedy.startswith(remedy)


def test_a_folder_without_write_permission_is_wrong(environment, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert finding(doctor.examine(environment), "nnUNet_results").remedy.startswith("chmod u+w")


@pytest.mark.parametrize(
    ("found", "wrong"), [("2.5.1", True), ("2.80", True), ("2.8.1", False), ("2.8", False)]
)
def test_a_version_of_nnunet_that_is_not_tested_is_wrong(environment, monkeypatch, found, wrong):
    monkeypatch.setattr(doctor, "version", lambda _: found)
    groups = doctor.examine(environment)
    assert finding(groups, "nnunetv2").remedy == ("pip install 'nnunetv2==2.8.*'" if wrong else None)
    assert finding(groups, "torch").remedy is None


def test_a_missing_package_is_named_with_its_install_command(environment, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", missing)
    assert finding(doctor.examine(environment), "torch").remedy == "pip install torch"


def test_a_class_of_the_same_name_elsewhere_is_reported(environment, monkeypatch):
    class SGNetPlanner:
        pass

    monkeypatch.setattr(doctor, "_look_up", lambda *_: SGNetPlanner)
    hidden = finding(doctor.examine(environment), "SGNetPlanner")
    assert "hidden by another class" in hidden.state
    assert hidden.remedy == f"mv {__file__} {__file__}.off"


def test_a_broken_module_in_nnunets_folder_is_reported(environment, monkeypatch):
    def fail(*_):
        raise ImportError("no module named gone")

    monkeypatch.setattr(doctor, "_look_up", fail)
    assert "look-up fails: no module named gone" in finding(doctor.examine(environment), "SGNetTrainer").state


@pytest.mark.parametrize(
    ("cuda", "mps", "state"), [(True, False, "CUDA: T4"), (False, True, "MPS"), (False, False, "CPU")]
)
def test_the_device_is_named(environment, monkeypatch, cuda, mps, state):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "T4")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert finding(doctor.examine(environment), "device").state.startswith(state)
