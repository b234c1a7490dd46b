import shutil
from pathlib import Path

import numpy as np
import pytest

from sgnet_nnunet import demo as module
from sgnet_nnunet.dataset.collection import PARTS, part_path
from sgnet_nnunet.demo import DemoPlan, run_demo
from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.nnunet import FOLDER_VARIABLES


def write_small_patients(root, *, patients, seed, workers, on_done, config):
    rng = np.random.default_rng(seed)
    for i in range(patients):
        label = np.zeros((12, 12, 8), dtype=np.uint8)
        label[3:7, 3:7, 2:5] = 1
        (root / f"YG_{i:02d}").mkdir(parents=True)
        for part in PARTS:
            data = label if part.endswith("seg") else rng.integers(1, 99, size=label.shape).astype(np.int16)
            write_volume(part_path(root, f"YG_{i:02d}", "YG_A", part), Volume(data, np.eye(4)))
        on_done(f"YG_{i:02d}")


@pytest.fixture
def commands(monkeypatch):
    """Replace the phantoms by small ones and nnU-Net by a copy of the reference; return what was run."""
    run = []

    def run_command(arguments, *, environment, log, on_line):
        run.append((arguments, environment))
        for line in ["Epoch time: 1 s\n"] * int(environment["SGNET_EPOCHS"]):
            on_line(line)
        if arguments[0] == "nnUNetv2_predict":
            reference = Path(environment["nnUNet_raw"], "Dataset501_BrainMetsLung/labelsTs")
            shutil.copytree(reference, arguments[arguments.index("-o") + 1])

    monkeypatch.setattr(module, "write_phantoms", write_small_patients)
    monkeypatch.setattr(module, "run_command", run_command)
    return run


def test_runs_nnunets_three_commands_and_scores_the_held_out_patients(commands, tmp_path):
    steps = []
    result = run_demo(
        tmp_path,
        DemoPlan(patients=10, epochs=3),
        report=lambda stage, done, total: steps.append((stage, done, total)),
    )
    assert [arguments[0] for arguments, _ in commands] == [
        "nnUNetv2_plan_and_preprocess",
        "nnUNetv2_train",
        "nnUNetv2_predict",
    ]
    assert list(result.scores) == ["YG_08_YG_A", "YG_09_YG_A"]
    assert all(scores.dice == 1 for scores in result.scores.values())
    assert result.overlay.is_file()
    assert ("training", 2, 3) in steps
    assert ("phantom patients", 10, 10) in steps


def test_every_command_works_in_the_demos_own_folders(commands, tmp_path):
    run_demo(tmp_path, DemoPlan(), report=lambda *_: None)
    for _, environment in commands:
        assert {environment[name] for name in FOLDER_VARIABLES} == {
            str(tmp_path / n) for n in FOLDER_VARIABLES
        }
