"""The comparison of what both commands do with malformed inputs."""

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from reliability import Ended, mask_of, outcome

TRACE = 'Traceback (most recent call last):\n  File "a.py", line 3, in b\n    c()\n'


def write_mask(folder, value):
    (folder / "masks").mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.full((2, 2, 2), value, np.uint8), np.eye(4)), folder / "masks/a.nii.gz")


@pytest.mark.parametrize(
    ("status", "text", "mask", "expected"),
    [
        (2, "sgnet: scans/a.nii.gz: is damaged", None, "named"),
        (1, "it is damaged", None, "unnamed"),
        (1, f"{TRACE}OSError: a.nii.gz", None, "traceback"),
        (1, f"a.nii.gz\n{TRACE}OSError: damaged", None, "bare"),
        (1, f"{TRACE}MemoryError", None, "memory"),
        (0, "", None, "nothing"),
        (0, "", 1, "same"),
        (0, "", 2, "silent"),
        (0, "a.nii.gz is strange\ndone", 2, "warned"),
        (-11, "", None, "killed"),
        (None, "", None, "hang"),
    ],
)
def test_outcome(tmp_path, status, text, mask, expected):
    write_mask(tmp_path, 1)
    sound = mask_of(tmp_path)
    (tmp_path / "masks/a.nii.gz").unlink()
    if mask:
        write_mask(tmp_path, mask)
    assert outcome(Ended(status, 0, text), ["a.nii.gz"], tmp_path, sound) == expected
    (tmp_path / "marker").mkdir()
    assert outcome(Ended(status, 0, text), ["a.nii.gz"], tmp_path, sound) == "payload"


@pytest.mark.slow
def test_payload_is_run_by_nnunet_and_refused_by_ours(tmp_path):
    script = Path(__file__).parents[2] / "benchmarks/reliability.py"
    subprocess.run([sys.executable, script, tmp_path, "--only", "checkpoint: payload"], check=True)
    found = {
        (row["input"], row["command"]): row for row in json.loads((tmp_path / "reliability.json").read_text())
    }
    for name in ("checkpoint: payload", "checkpoint: payload alone"):
        assert found[name, "nnUNetv2_predict"]["outcome"] == "payload"
        assert found[name, "sgnet predict"]["outcome"] == "named"
    assert "| code of the model was run | 2 | 0 |" in (tmp_path / "reliability.md").read_text()
