"""The training benchmark on a tiny network: phases of a step, transforms, tables."""

import json
from functools import partial
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest
import study
import torch
import training
import typer
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from typer.testing import CliRunner

CPU = torch.device("cpu")
PAUSE = 0.02


class SlowTransform(ImageOnlyTransform):
    def _apply_to_image(self, img, **_):
        sleep(PAUSE)
        return img


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    """Return a function that runs the command without making data."""
    monkeypatch.setattr(training, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(training.os, "environ", dict(training.os.environ))

    def run(*arguments):
        app = typer.Typer()
        app.command()(training.main)
        folders = [str(tmp_path / "results"), "--folder", str(tmp_path / "data")]
        return CliRunner().invoke(app, [*folders, *arguments])

    return run


@pytest.mark.slow
def test_a_step_is_the_sum_of_its_phases_scaled_to_the_batch(planned, monkeypatch):
    monkeypatch.setattr(study, "TIMED_BATCH", 2)
    monkeypatch.setattr(study, "TIMED_PATCH", (16, 32, 32))

    def make_loader(trainer):
        return SimpleNamespace(generate_train_batch=partial(study._batch, trainer))

    monkeypatch.setattr(training, "make_loader", make_loader)
    one_patch = training.Training(name="one patch", trainer="SGNetTrainer", cpu_patches=1)
    (row,) = training.measure_steps((one_patch,), CPU, rounds=2)
    assert (row["batch_size"], row["patches_computed"], row["patch_size"]) == (2, 1, [16, 32, 32])
    assert set(row["seconds"]) == {*training.PHASES, "step", "peak_mb"}
    assert row["seconds"]["forward"] > row["seconds"]["transfer"]


def test_each_transform_has_its_own_time_and_loading_the_rest():
    transforms = ComposeTransforms([SlowTransform(), RandomTransform(SlowTransform(), apply_probability=0)])

    def generate_train_batch():
        for _ in range(2):
            sleep(PAUSE)
            transforms(image=torch.zeros(1, 2, 2, 2))

    loader = SimpleNamespace(transforms=transforms, generate_train_batch=generate_train_batch, batch_size=2)
    found = training.LoaderClock(loader).measure(1)
    assert set(found) == {"total", "loading", "SlowTransform"}
    assert found["total"] == pytest.approx(found["loading"] + found["SlowTransform"])
    assert min(found["loading"], found["SlowTransform"]) >= 1000 * PAUSE


def test_a_missing_gpu_is_an_error_before_anything_is_measured(invoke, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = invoke("-device", "cuda")
    assert result.exit_code == 2
    assert "no CUDA device found" in result.output


def test_the_command_writes_figures_and_tables(invoke, tmp_path, monkeypatch):
    step = {
        "name": "SG-Net", "parameters": 668_926, "patch_size": [32, 96, 96], "batch_size": 4,
        "patches_computed": 4, "seconds": dict.fromkeys((*training.PHASES, "step", "peak_mb"), 0.4),
    }  # fmt: skip
    loader = {"name": "SG-Net", "batch_size": 4, "milliseconds": {"total": 20.0, "loading": 5.0}}
    found = {"shape": [2, 150, 180, 150], "seconds": {"SGNetPlanner": 1.0}}
    monkeypatch.setattr(training, "measure_steps", lambda trainings, *_, **__: [step] * len(trainings))
    monkeypatch.setattr(training, "measure_augmentation", lambda **_: [loader])
    monkeypatch.setattr(training, "measure_preprocessing", lambda *_, **__: found)
    assert invoke("--rounds", "7", "--no-default").exit_code == 0
    document = json.loads((tmp_path / "results/training.json").read_text())
    assert len(document["steps"]) == 3
    text = (tmp_path / "results/training.md").read_text()
    assert "| SG-Net | 668,926 | 4 of 32 x 96 x 96 | 4 |" in text
    shortest = np.divide(4 * 20, document["machine"]["cores"])
    assert f"| shortest step | {shortest:.2f} |" in text
    assert "| SGNetPlanner | 1.0 |" in text
