"""The phantom study on tiny inputs: scores of a network, tables of made-up scores, timed steps."""

import json
import shutil

import phantom_study
import pytest
import torch
from phantom_study import BUDGETS, DATASET, DEFAULT_PLANS, MODELS, SG_NET_PLANS, UNGATED, StudyConfig
from study_results import SCORES, run_folder, score_run
from typer.testing import CliRunner

from sgnet_nnunet.plugin.shims import SHIMS
from sgnet_nnunet.training import baseline_trainers, sgnet_trainer

LEVELS = ("1/8", "1/4", "1/2")


def run(*arguments):
    return CliRunner().invoke(phantom_study.app, [str(each) for each in arguments], catch_exceptions=False)


def write_scores(folder, run, *, seeds=(0, 1), false_positives=1, suppressed=0):
    gates = [
        {
            "gate": level, "open_fraction": 0.04, "lesion_voxels": 100, "kept_lesion_voxels": 99,
            "lesions": 4, "kept_lesions": 4 - suppressed,
        }
        for level in (LEVELS if run.startswith("SGNetTrainer") else ())
    ]  # fmt: skip
    metrics = dict.fromkeys(("dice", "precision", "recall", "nsd_1mm"), 0.8) | {"hd95_mm": 5.0}
    for seed in seeds:
        cases = {
            f"p{i}": metrics
            | {"lesions": 4, "detected": 3, "false_positives": false_positives + i, "gates": gates}
            for i in range(3)
        }
        target = run_folder(folder, run, seed) / SCORES
        target.parent.mkdir(parents=True)
        target.write_text(json.dumps({"parameters": 668_673, "cases": cases}))


def test_every_trainer_and_nnunets_own_are_in_the_study():
    shims = [shim for shim in SHIMS if "trainers" in shim.path and "benchmark" not in shim.path]
    ours = {name for shim in shims for name in shim.names}
    assert {model.trainer for model in MODELS} == {*ours, "nnUNetTrainer"}


def test_a_report_has_means_differences_and_gates(tmp_path):
    write_scores(tmp_path, f"SGNetTrainer__{SG_NET_PLANS}", false_positives=1, suppressed=1)
    write_scores(tmp_path, f"{UNGATED}__{SG_NET_PLANS}", seeds=(0,), false_positives=3)
    BUDGETS["smoke"].save(tmp_path)
    assert run("report", tmp_path, tmp_path / "results", "--name", "study").exit_code == 0
    text = (tmp_path / "results/study.md").read_text()
    assert "| SG-Net, hard spatial gates | 668,673 | 2 | 0.800 |" in text
    assert "| SG-Net, hard spatial gates | 0.800 / 0.800 |" in text
    # Only the seed that both networks have is compared, patient by patient.
    assert "-2.000 (-2.000 to -2.000) |" in text
    assert "| SG-Net, hard spatial gates | 1/2 | 0.0400 | 0.9900 | 0.7500 | 6 of 24 |" in text
    (tmp_path / "results/study.md").unlink()
    assert run("tables", tmp_path / "results", "--name", "study").exit_code == 0
    assert (tmp_path / "results/study.md").read_text() == text


def test_networks_without_a_common_seed_are_not_compared(tmp_path):
    write_scores(tmp_path, f"SGNetTrainer__{SG_NET_PLANS}", seeds=(0,))
    write_scores(tmp_path, f"{UNGATED}__{SG_NET_PLANS}", seeds=(1,))
    BUDGETS["smoke"].save(tmp_path)
    run("report", tmp_path, tmp_path)
    assert "Difference" not in (tmp_path / "phantom_study.md").read_text()


def test_an_unknown_network_is_refused_before_anything_is_made(tmp_path):
    result = run("run", tmp_path / "study", "--only", "UNetTrainer__nnUNetPlans")
    assert result.exit_code == 2
    assert not (tmp_path / "study").exists()


def test_options_override_the_budget_and_are_kept(tmp_path):
    phantom_study._configure(tmp_path, "smoke", seeds=1, device="cuda")
    config = phantom_study._configure(tmp_path, "gpu", seeds=None, device=None)
    assert (config.seeds, config.device, config.shrink) == (1, "cuda", 3)
    assert StudyConfig.load(tmp_path) == config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer_class", "enabled", "levels"),
    [
        (sgnet_trainer.SGNetTrainer, True, LEVELS),
        (sgnet_trainer.SGNetTrainer, False, ()),
        (baseline_trainers.BaselineUNetTrainer, True, ()),
    ],
)
def test_masks_and_gates_of_a_compiled_network_are_scored(planned, tmp_path, trainer_class, enabled, levels):
    plans = json.loads((planned / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    raw = planned / "nnUNet_raw" / DATASET
    description = json.loads((raw / "dataset.json").read_text())
    trainer = trainer_class(plans, "3d_fullres", 0, description, torch.device("cpu"))
    trainer.initialize()
    # As nnU-Net does it for a GPU.
    trainer.network = torch.compile(trainer.network, backend="eager")
    score_run(trainer, raw, raw / "labelsTs", tmp_path / "scores.json", gates=enabled)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["parameters"] == sum(p.numel() for p in trainer.network.parameters())
    assert scores["cases"].keys() == {"case0", "case1"}
    for case in scores["cases"].values():
        assert (case["dice"], case["detected"], case["false_positives"]) == (1, case["lesions"], 0)
        assert tuple(gate["gate"] for gate in case["gates"]) == levels
        assert all(gate["lesion_voxels"] == 8**3 for gate in case["gates"])


@pytest.mark.slow
def test_steps_and_cases_are_timed_relative_to_the_ungated_network(planned, monkeypatch):
    chosen = [m for m in MODELS if m.trainer in {"SGNetTrainer", UNGATED} and m.plans == SG_NET_PLANS]
    default = next(model for model in MODELS if model.plans == DEFAULT_PLANS)
    monkeypatch.setattr(phantom_study, "MODELS", (*chosen, default))
    for name, value in {"TIMED_BATCH": 2, "TIMED_PATCH": (16, 32, 32), "TIMED_CASE": (16, 32, 32)}.items():
        monkeypatch.setattr(phantom_study, name, value)
    monkeypatch.setattr("sgnet_nnunet.training.settings.keep_freed_memory", lambda: True)
    BUDGETS["smoke"].save(planned)
    shutil.rmtree(planned / "nnUNet_results")
    phantom_study.speed(planned, rounds=1)
    gated, ungated = json.loads((planned / "speed.json").read_text())["models"]
    assert (ungated["trainer"], ungated["step_relative"], ungated["case_relative"]) == (UNGATED, 1, 1)
    assert gated["step_relative"] == pytest.approx(gated["step_s"] / ungated["step_s"])
