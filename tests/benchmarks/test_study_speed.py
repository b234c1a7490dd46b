"""The study times a step and a case of every network, by the step of its own trainer."""

import json
import shutil

import pytest
from study import speed
from study.config import BUDGETS, DEFAULT_PLANS, MODELS, SG_NET_PLANS
from study.data import DATASET


@pytest.fixture
def measured(planned, nnunet_paths, monkeypatch):
    target = nnunet_paths / "nnUNet_preprocessed" / DATASET
    shutil.copy(planned / "dataset.json", target)
    for other in {model.plans for model in MODELS} - {SG_NET_PLANS, DEFAULT_PLANS}:
        shutil.copy(target / f"{SG_NET_PLANS}.json", target / f"{other}.json")
    for name, size in (("BATCH_SIZE", 2), ("PATCH_SIZE", (16, 32, 32)), ("CASE_SIZE", (16, 32, 32))):
        monkeypatch.setattr(speed, name, size)
    monkeypatch.setattr(speed, "keep_freed_memory", lambda: True)
    speed.measure_speed(nnunet_paths, BUDGETS["smoke"], rounds=1)
    return json.loads((nnunet_paths / "speed.json").read_text())


def test_every_trainer_but_nnunets_own_is_timed_against_the_ungated_one(measured):
    rows = {row["trainer"]: row for row in measured["models"]}
    assert rows.keys() == {model.trainer for model in MODELS if model.plans != DEFAULT_PLANS}
    assert all(row["step_s"] > 0 and row["case_s"] > 0 for row in rows.values())
    ungated = rows[speed.REFERENCE]
    assert (ungated["step_relative"], ungated["case_relative"]) == (1, 1)
    gated = rows["SGNetTrainer"]
    assert gated["step_relative"] == pytest.approx(gated["step_s"] / ungated["step_s"])
