import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.training import settings
from sgnet_nnunet.training.settings import (
    Precision,
    TrainingSchedule,
    emulates_bfloat16,
    keep_freed_memory,
    read_choice,
    read_flag,
)

NAME = "SGNET_SOMETHING"
CPU = torch.device("cpu")


@pytest.mark.parametrize(("given", "on"), [("0", False), ("1", True)])
def test_a_flag_that_is_set_counts(given, on):
    assert read_flag(NAME, default=not on, environment={NAME: given}) == on


@pytest.mark.parametrize("environment", [{}, {NAME: ""}])
@pytest.mark.parametrize("default", [False, True])
def test_a_flag_that_is_not_set_has_its_default(environment, default):
    assert read_flag(NAME, default=default, environment=environment) == default


@pytest.mark.parametrize("given", ["yes", "2", "-1"])
def test_any_other_value_of_a_flag_is_refused(given):
    with pytest.raises(SGNetError, match=f"{NAME}='{given}': must be 0 or 1"):
        read_flag(NAME, default=False, environment={NAME: given})


def test_a_choice_is_refused_with_the_choices():
    assert read_choice(NAME, ("a", "b"), {NAME: "b"}) == "b"
    assert read_choice(NAME, ("a", "b"), {}) is None
    with pytest.raises(SGNetError, match=f"{NAME}='c': must be a or b"):
        read_choice(NAME, ("a", "b"), {NAME: "c"})


def test_nothing_set_gives_the_defaults():
    assert TrainingSchedule.from_environment({}) == TrainingSchedule()


def test_each_variable_sets_its_number():
    environment = {"SGNET_EPOCHS": "3", "SGNET_ITERS": "4", "SGNET_VAL_ITERS": "5", "SGNET_PATIENCE": "6"}
    assert TrainingSchedule.from_environment(environment) == TrainingSchedule(
        epochs=3, iters=4, val_iters=5, patience=6
    )


@pytest.mark.parametrize("text", ["ten", "1.5", "0", "-1", ""])
def test_what_is_no_count_is_refused_with_the_variable_and_its_value(text):
    with pytest.raises(SGNetError, match=f"SGNET_EPOCHS='{text}'"):
        TrainingSchedule.from_environment({"SGNET_EPOCHS": text})


def test_patience_zero_never_stops():
    assert not TrainingSchedule(patience=0).stalled([0.5] * 100)


def test_stops_when_patience_runs_out_and_not_before():
    schedule = TrainingSchedule(patience=3)
    assert not schedule.stalled([])
    assert not schedule.stalled([0.5, 0.4, 0.4])
    assert schedule.stalled([0.5, 0.4, 0.4, 0.4])
    assert not schedule.stalled([0.5, 0.4, 0.4, 0.51])


@pytest.mark.parametrize("environment", [{}, {"SGNET_BF16": "0"}, {"SGNET_BF16": ""}])
def test_bfloat16_is_off_by_default(environment):
    assert not Precision.from_environment(torch.device("cuda"), environment).bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_each_step_runs_in_bfloat16_with_the_weights_of_its_time():
    layer = torch.nn.Linear(2, 1, bias=False)
    precision = Precision.from_environment(CPU, {"SGNET_BF16": "1"})
    outputs = []
    for weight in (1.0, 2.0):
        torch.nn.init.constant_(layer.weight, weight)
        with precision.of_a_step():
            outputs.append(layer(torch.ones(1, 2)))
    assert [output.dtype for output in outputs] == [torch.bfloat16] * 2
    assert [output.item() for output in outputs] == [2.0, 4.0]
    assert not torch.is_autocast_enabled("cpu")


def test_another_device_is_refused():
    with pytest.raises(SGNetError, match="the device is cuda"):
        Precision.from_environment(torch.device("cuda"), {"SGNET_BF16": "1"})


@pytest.mark.parametrize(
    ("machine", "capability", "emulates"),
    [
        ("x86_64", "AVX2", True),
        ("AMD64", "DEFAULT", True),
        ("x86_64", "AVX512", False),
        ("arm64", "DEFAULT", False),
    ],
)
def test_cpus_that_only_emulate_bfloat16_are_known(machine, capability, emulates):
    assert emulates_bfloat16(machine, capability) == emulates


@pytest.mark.parametrize("emulates", [True, False])
def test_the_log_warns_where_bfloat16_is_emulated(monkeypatch, emulates):
    monkeypatch.setattr(settings, "emulates_bfloat16", lambda: emulates)
    assert ("WARNING" in Precision(bfloat16=True).note()) == emulates
    assert "WARNING" not in Precision().note()


FAULTS = """
import resource
import torch
from sgnet_nnunet.training.settings import keep_freed_memory

def step():
    for _ in range(4):
        del_me = torch.ones(8_000_000) + 1

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def faults_of_steps():
    step()
    before = faults()
    for _ in range(5):
        step()
    return faults() - before

by_default = faults_of_steps()
assert keep_freed_memory()
print(by_default, faults_of_steps())
"""


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc: nothing to be set")
def test_pages_are_paid_for_once_instead_of_at_each_step():
    run = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    by_default, kept = map(int, run.stdout.split())
    # Huge pages make both counts smaller, where the kernel gives them.
    assert kept < by_default / 5


@pytest.mark.parametrize(
    ("platform", "library"),
    [
        ("darwin", SimpleNamespace(mallopt=pytest.fail)),
        ("linux", SimpleNamespace()),
        ("linux", SimpleNamespace(mallopt=lambda _, __: 0)),
    ],
)
def test_another_c_library_is_left_as_it_is(monkeypatch, platform, library):
    monkeypatch.setattr(settings.sys, "platform", platform)
    monkeypatch.setattr(settings.ctypes, "CDLL", lambda _: library)
    assert not keep_freed_memory()
