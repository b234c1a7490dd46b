"""The smaller speed benchmarks on tiny inputs, and what they share."""

import ctypes
import sys

import kept_memory
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import typer
from timing import in_turn, markdown, median_of, run_measured
from typer.testing import CliRunner

from sgnet_nnunet.errors import SGNetError


def run(main, *arguments):
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False).output


def test_functions_are_called_in_turn_until_their_rounds_are_over():
    calls = []
    functions = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    assert in_turn(functions, {"a": 3, "b": 1}) == {"a": [1, 3, 4], "b": [2]}
    assert calls == ["a", "b", "a", "a"]


def test_a_missing_key_counts_as_zero_in_a_median():
    assert median_of([{"a": 1.0}, {"a": 3.0, "b": 9.0}, {"a": 2.0}]) == {"a": 2.0, "b": 0.0}


def test_a_table_shows_missing_values_as_dashes():
    assert markdown(pd.DataFrame({"a": ["1", None]})) == "| a |\n| --- |\n| 1 |\n| – |"


def test_a_command_is_measured_with_its_children(tmp_path):
    code = "import time; a = bytearray(80_000_000); time.sleep(0.4)"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    spent = run_measured([sys.executable, "-c", nested], log=tmp_path / "logs/log")
    assert spent.seconds > 0.4
    if sys.platform == "linux":
        assert 80 < spent.peak_mb < 160


def test_the_error_of_a_command_quotes_its_log(tmp_path):
    with pytest.raises(SGNetError, match=r"status 3; see .*log\nreason"):
        run_measured([sys.executable, "-c", "print('reason'); raise SystemExit(3)"], log=tmp_path / "log")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc: no memory can be kept")
def test_kept_memory_prints_both_kinds_and_the_ratio():
    text = run(kept_memory.main, "--rounds", 1, "--steps", 1, "--shape", "1,2,16,16,16")
    assert [line.split(":")[0] for line in text.splitlines()] == ["memory returned", "memory kept", "ratio"]


def test_metrics_of_every_tool_are_timed(tmp_path):
    pytest.importorskip("panoptica", reason="panoptica needs NumPy below 2.3, which Python 3.14 has not")
    import metric_speed  # noqa: PLC0415

    mask = np.zeros((24, 24, 24), dtype=np.uint8)
    mask[5:15, 5:15, 5:15] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / "case.nii.gz")
    text = run(metric_speed.main, tmp_path, "--rounds", 1)
    assert all(f"| {name} | " in text for name in metric_speed.TIMED)
