"""The training benchmark tells the parts of a step apart, and writes its tables."""

import json
from collections.abc import Callable
from importlib.metadata import version
from time import sleep
from types import SimpleNamespace

import pytest
import torch
import training
import typer
from batchgeneratorsv2.transforms.base.basic_transform import ImageOnlyTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from training_speed import augmentation, epochs, preprocessing, steps
from training_speed.augmentation import LoaderClock
from training_speed.contestants import steppers
from training_speed.machine import describe_machine, median_of, peak_megabytes, reset_peak
from training_speed.markdown import to_markdown
from training_speed.preprocessing import _TimedConfiguration
from training_speed.steps import PARTS, StepClock
from typer.testing import CliRunner

CPU = torch.device("cpu")
PAUSE = 0.02


class Slow(torch.nn.Module):
    def __init__(self, inner: Callable, pause: float) -> None:
        super().__init__()
        self.inner, self.pause = inner, pause

    def forward(self, *inputs):
        sleep(self.pause)
        return self.inner(*inputs)


class SlowTransform(ImageOnlyTransform):
    def _apply_to_image(self, img, **_):
        sleep(PAUSE)
        return img


def tiny_trainer():
    network = Slow(torch.nn.Linear(2, 1), 2 * PAUSE)
    loss = Slow(torch.nn.MSELoss(), PAUSE)
    optimizer = torch.optim.SGD(network.parameters())

    def train_step(batch):
        loss(network(batch["data"]), batch["target"]).backward()
        optimizer.step()

    return SimpleNamespace(network=network, loss=loss, optimizer=optimizer, train_step=train_step, device=CPU)


def test_a_step_is_the_sum_of_its_parts_and_each_part_is_its_own():
    clock = StepClock(tiny_trainer())
    batch = {"data": torch.ones(1, 2), "target": torch.ones(1, 1)}
    clock.step(batch)
    times = clock.step(batch)
    assert set(times) == {*PARTS, "step"}
    assert times["step"] == pytest.approx(sum(times[part] for part in PARTS))
    assert times["forward"] >= 2 * PAUSE
    assert PAUSE <= times["loss"] < times["forward"]
    assert times["transfer"] < PAUSE


def test_each_transform_is_charged_with_its_own_time_and_loading_with_the_rest():
    transforms = ComposeTransforms([SlowTransform(), RandomTransform(SlowTransform(), apply_probability=0)])

    def generate_train_batch():
        for _ in range(2):
            sleep(PAUSE)
            transforms(image=torch.zeros(1, 2, 2, 2))

    loader = SimpleNamespace(transforms=transforms, generate_train_batch=generate_train_batch, batch_size=2)
    found = LoaderClock(loader).measure(1, seed=0)
    assert set(found) == {"total", "loading", "SlowTransform"}
    assert found["total"] == pytest.approx(found["loading"] + found["SlowTransform"])
    assert min(found["loading"], found["SlowTransform"]) >= 1000 * PAUSE


def test_a_transform_not_drawn_in_a_round_took_no_time():
    assert augmentation._medians([{"a": 1.0}, {"a": 3.0, "b": 9.0}, {"a": 2.0}]) == {"a": 2.0, "b": 0.0}


def test_resampling_is_timed_whatever_the_plan_resamples_with():
    configuration = _TimedConfiguration(
        SimpleNamespace(resampling_fn_data=lambda x: sleep(PAUSE) or x, spacing=3)
    )
    assert configuration.resampling_fn_data(7) == 7
    assert configuration.resampling >= PAUSE
    assert configuration.spacing == 3


def test_peak_memory_is_that_since_it_was_forgotten():
    reset_peak(CPU)
    before = peak_megabytes(CPU)
    if before is None:
        pytest.skip("only Linux tells")
    torch.ones(20_000_000).sum()
    assert 60 < peak_megabytes(CPU) - before < 400
    reset_peak(CPU)
    assert peak_megabytes(CPU) < before + 60


def test_medians_are_taken_key_by_key():
    assert median_of([{"a": 1, "b": 9}, {"a": 5, "b": 2}, {"a": 2, "b": 3}]) == {"a": 2, "b": 3}


def step_row(name="SG-Net", *, batch=4, computed=4):
    row = {"name": name, "trainer": "SGNetTrainer", "parameters": 668_926, "patch_size": [32, 96, 96]}
    row |= {"batch_size": batch, "patches_computed": computed, "steps_s": [2.0], "peak_mb": 900.0}
    return row | {"seconds": dict.fromkeys(PARTS, 0.4) | {"step": 2.0}}


PATCHES = [{"name": "SG-Net", "batch_size": 4, "milliseconds": {"total": 20.0, "loading": 5.0}}]
EPOCHS = {
    "workers": 2,
    "results": {name: {"fastest_epoch": 8.0, "iterations": 3} for name in epochs.TRAINERS},
    "share_of_speed": 0.91,
}
PREPROCESSING = {
    "shape": [2, 150, 180, 150],
    "spacing_mm": [1.25, 0.9, 0.9],
    "planners": {"SGNetPlanner": {"total": 1.0, "resampling": 0.2}},
}


def test_tables_tell_what_two_cores_feed_and_what_was_scaled():
    results = {"rounds": 5, "command": "python benchmarks/training.py", "machine": describe_machine(CPU)}
    results["machine"]["cores"] = 2
    results["steps"] = [step_row(), step_row("nnU-Net's default", batch=2, computed=1)]
    results |= {"augmentation": PATCHES, "epochs": EPOCHS, "preprocessing": PREPROCESSING}
    text = to_markdown(results)
    assert "| SG-Net | 668,926 | 4 of 32x96x96 |" in text
    assert "| 2 of 32x96x96, 1 computed |" in text
    assert "| patches/s of one worker | 50.0 |" in text
    assert "2 cores, can feed | 40 |" in text  # 4 patches of 20 ms on 2 cores
    assert "| share | 0.910 |" in text
    assert "from 1.25x0.9x0.9 mm" in text
    assert f"torch {version('torch')}" in text


def test_bfloat16_is_compared_on_a_cpu_alone_and_nnunets_default_where_wanted():
    names = [contestant.name for contestant in steppers(torch.device("cuda"), default=False)]
    assert names == ["SG-Net", "SG-Net, no gate"]


def test_a_device_that_is_not_there_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(training.os, "environ", dict(training.os.environ))
    app = typer.Typer()
    app.command()(training.main)
    result = CliRunner().invoke(app, [str(tmp_path), "--folder", str(tmp_path), "-device", "cuda"])
    assert result.exit_code == 2
    assert "no CUDA device was found" in result.output


def test_the_command_measures_everything_on_the_device_and_writes_both_files(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(training, "prepare", lambda *_, **options: asked.update(options))
    monkeypatch.setattr(preprocessing, "measure_preprocessing", lambda *_, **__: PREPROCESSING)
    monkeypatch.setattr(augmentation, "measure_augmentation", lambda *_, **__: PATCHES)
    monkeypatch.setattr(epochs, "measure_epochs", lambda *_, **options: asked.update(options) or EPOCHS)

    def measure(contestants, device, **_):
        asked["contestants"], asked["device"] = [c.name for c in contestants], device
        return [step_row()]

    monkeypatch.setattr(steps, "measure_steps", measure)
    monkeypatch.setattr(training.os, "environ", dict(training.os.environ))
    app = typer.Typer()
    app.command()(training.main)
    arguments = [str(tmp_path / "results"), "--folder", str(tmp_path / "data"), "--rounds", "7"]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    document = json.loads((tmp_path / "results/training.json").read_text())
    assert document["rounds"] == 7
    assert set(document) >= {"machine", "steps", "augmentation", "epochs", "preprocessing", "command"}
    assert asked == {
        "patients": 3,
        "memory_gb": 8,
        "iters": 3,
        "device": CPU,
        "contestants": ["SG-Net", "SG-Net, bfloat16", "SG-Net, no gate", "nnU-Net's default"],
    }
    assert (tmp_path / "results/training.md").read_text().count(" medians of 7 rounds:") == 2
