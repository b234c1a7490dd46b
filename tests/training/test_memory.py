import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from sgnet_nnunet.training import settings as module
from sgnet_nnunet.training.settings import keep_freed_memory

FAULTS = """
import resource
import torch
from sgnet_nnunet.training.memory import keep_freed_memory

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
    monkeypatch.setattr(module.sys, "platform", platform)
    monkeypatch.setattr(module.ctypes, "CDLL", lambda _: library)
    assert not keep_freed_memory()
