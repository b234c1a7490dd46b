"""The estimates are those of the measured tables."""

import json
from pathlib import Path
from typing import get_args

import pytest

from sgnet_nnunet.study import costs

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


def read(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_the_times_are_those_that_were_measured():
    gpu = {row["trainer"]: row for row in read("phantom_study_gpu_speed")["models"]}
    training, inference = read("training"), read("inference")
    cpu = {row["name"]: row for row in training["steps"]}
    batch = {
        (row["name"], row["patients"]): row["seconds"] / row["patients"] for row in inference["batch"]["rows"]
    }
    dense = {row["name"]: row["seconds"] for row in inference["network"]["rows"]}
    measured = {
        costs.STEP_S["cpu"]: cpu["SG-Net, no gate"]["seconds"]["step"],
        costs.STEP_S["cuda"]: gpu["SGNetNoGateTrainer"]["step_s"],
        costs.PREPROCESS_S["SGNetPlanner"]: training["preprocessing"]["seconds"]["SGNetPlanner"],
        costs.PREPROCESS_S["ExperimentPlanner"]: training["preprocessing"]["seconds"][
            "nnU-Net's ExperimentPlanner"
        ],
        costs.PREDICT_S["SGNet"]: batch["sgnet predict, trained model", 20],
        costs.PREDICT_S["dense"]: dense["one dense pass, PyTorch"],
        costs.PREDICT_S["nnUNet"]: batch["nnUNetv2_predict", 3],
        costs.STEP_MB: cpu["SG-Net"]["seconds"].get("peak_mb", cpu["SG-Net"].get("peak_mb")),
    }
    for value, figure in measured.items():
        assert value == pytest.approx(figure, rel=0.02)
    for trainer, relative in costs.STEP_RELATIVE.items():
        assert relative == pytest.approx(gpu[trainer]["step_relative"], abs=0.01)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_training_costs_more_the_more_it_does_and_the_slower_the_device(device):
    def minutes(**changes):
        given = {"iterations": 1000, "patch": (32, 96, 96), "batch": 4, "cases": 10} | changes
        return costs.training_cost("SGNetTrainer", device=device, **given).minutes

    for more in ({"iterations": 2000}, {"patch": (64, 96, 96)}, {"batch": 8}, {"cases": 100}):
        assert minutes(**more) > minutes()
    if device == "cuda":
        assert minutes(gpu="T4") > minutes(gpu="A100") > minutes()


def test_every_gpu_has_a_bandwidth():
    assert set(costs.BANDWIDTH_TB_S) == set(get_args(costs.Gpu))


def test_a_network_that_was_not_timed_takes_as_long_as_the_slowest():
    given = {"device": "cuda", "iterations": 1000, "patch": (32, 96, 96), "batch": 4, "cases": 10}
    slowest = costs.training_cost("BaselineAttentionUNetTrainer", **given)
    assert costs.training_cost("OtherTrainer", **given).minutes == slowest.minutes
    assert costs.training_cost("nnUNetTrainer", **given).disk_mb > slowest.disk_mb
