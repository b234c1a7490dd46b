"""The studies on tiny inputs: scores of a network, tables of made-up scores, timed steps."""

import json
import shutil

import numpy as np
import pytest
import study
import torch
from study import BUDGETS, DATASET, DEFAULT_PLANS, MODELS, NAMES, SG_NET_PLANS, UNGATED, StudyConfig
from study_results import UNCLIPPED_PLANS, read_rows
from typer.testing import CliRunner

from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.plugin.shims import SHIMS
from sgnet_nnunet.training import baseline_trainers, sgnet_trainer

LEVELS = ("1/8", "1/4", "1/2")
GATED = f"SGNetTrainer__{SG_NET_PLANS}"


def run(*arguments):
    return CliRunner().invoke(study.app, [str(each) for each in arguments], catch_exceptions=False)


def write_rows(folder, run, *, seeds=(1, 2), false_positives=1, suppressed=0, patients=(0, 1, 2), dice=0.8):
    gates = [
        {
            "gate": level, "open_fraction": 0.04, "lesion_voxels": 100, "kept_lesion_voxels": 99,
            "lesions": 4, "kept_lesions": 4 - suppressed,
        }
        for level in (LEVELS if run.startswith("SGNetTrainer") else ())
    ]  # fmt: skip
    metrics = dict.fromkeys(("precision", "recall", "nsd_1mm"), 0.8) | {"hd95_mm": 5.0, "dice": dice}
    rows = [
        {"run": run, "seed": seed, "fold": i, "case": f"p{i}", "parameters": 668_673}
        | metrics
        | {"lesions": 4, "detected": 3, "false_positives": false_positives + i, "gates": gates}
        for seed in seeds
        for i in patients
    ]
    study._append(folder, rows)


@pytest.fixture
def phantoms(tmp_path):
    """Return the folder of a study on phantoms, three of them to test on."""
    labels = tmp_path / "nnUNet_raw" / DATASET / "labelsTs"
    labels.mkdir(parents=True)
    for i in range(3):
        (labels / f"p{i}.nii.gz").touch()
    BUDGETS["smoke"].save(tmp_path)
    return tmp_path


@pytest.fixture
def real(tmp_path):
    """Return the folder of a study that leaves each of three real patients out."""
    raw = tmp_path / "nnUNet_raw" / DATASET
    raw.mkdir(parents=True)
    (raw / "splits_final.json").write_text(json.dumps([{"train": [], "val": [f"p{i}"]} for i in range(3)]))
    study._configure(tmp_path, "real", seeds=2, device=None, collections=("/somewhere/gliomas",))
    return tmp_path


def test_every_trainer_and_nnunets_own_are_in_the_study():
    shims = [shim for shim in SHIMS if "trainers" in shim.path and "benchmark" not in shim.path]
    ours = {name for shim in shims for name in shim.names}
    assert {model.trainer for model in MODELS} == {*ours, "nnUNetTrainer"}


def test_a_report_has_means_differences_and_gates(phantoms):
    write_rows(phantoms, GATED, false_positives=1, suppressed=1)
    write_rows(phantoms, f"{UNGATED}__{SG_NET_PLANS}", seeds=(1,), false_positives=3)
    assert run("report", phantoms, phantoms / "results", "--name", "study").exit_code == 0
    text = (phantoms / "results/study.md").read_text()
    assert "| SG-Net, hard spatial gates | 668,673 | 2 | 3 | 0.800 |" in text
    assert "| SG-Net, hard spatial gates | 0.800 / 0.800 |" in text
    # Only the seed that both networks have is compared, patient by patient.
    assert "-2.000 (-2.000 to -2.000) |" in text
    assert "| SG-Net, hard spatial gates | 1/2 | 0.0400 | 0.9900 | 0.7500 | 6 of 24 |" in text


def test_a_report_of_an_unfinished_study_says_how_much_is_done_and_compares_what_both_plans_have(real):
    write_rows(real, GATED, seeds=(1,), dice=0.8)
    write_rows(real, f"SGNetTrainer__{UNCLIPPED_PLANS}", seeds=(1,), patients=(0, 1), dice=0.7)
    study._append(real, [row | {"run": "elsewhere", "fold": None} for row in read_rows(real)][:3])
    run("report", real, real / "results", "--name", "real")
    text = (real / "results/real.md").read_text()
    assert "**5 of 24 trainings are done.**" in text
    assert "| SG-Net, hard spatial gates, unclipped | -0.100 (-0.100 to -0.100) |" in text
    assert "| SG-Net, hard spatial gates, unclipped | 0.700 | 0.700 | – |" in text
    assert "| elsewhere | 0.800 | 0.800 | 0.800 |" in text
    assert json.loads((real / "results/real.json").read_text())["budget"]["collections"] == ["gliomas"]


def test_comparisons_are_complete_as_early_as_possible():
    jobs = study.trainings(BUDGETS["real"], 2)
    order = [(seed, NAMES[model.run].removeprefix("SG-Net, "), fold) for model, seed, fold in jobs]
    gated, ungated = "hard spatial gates", "no gate"
    assert order[:5] == [
        (1, gated, 0), (1, f"{gated}, unclipped", 0), (1, gated, 1), (1, f"{gated}, unclipped", 1),
        (1, ungated, 0),
    ]  # fmt: skip
    assert len(order) == 2 * 4 * 3
    assert [seed for seed, _, _ in order] == sorted(seed for seed, _, _ in order)


def test_what_is_done_is_not_trained_again(real, monkeypatch):
    trained = []
    monkeypatch.setattr(study, "start_training", lambda job: trained.append((job[1].run, *job[2:])))
    (real / "data.done").touch()
    write_rows(real, GATED, seeds=(1,))
    run("run", real)
    assert len(trained) == 24 - 3
    assert trained[0] == (f"SGNetTrainer__{UNCLIPPED_PLANS}", 1, 0)


def test_each_real_patient_is_left_out_once(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "_plan", lambda *_: None)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    data = np.random.default_rng(0).integers(1, 99, (8, 9, 7)).astype(np.int16)
    for patient in ("a/P1", "a/P2", "b/P3"):
        (tmp_path / patient).mkdir(parents=True)
        for part in ("t1ce_img", "flair_img", "whole_seg"):
            volume = Volume((data > 50).astype(np.uint8) if part == "whole_seg" else data, np.eye(4))
            write_volume(tmp_path / f"{patient}/A_{part}.nii.gz", volume)
    config = StudyConfig(collections=(str(tmp_path / "a"), str(tmp_path / "b")))
    study.prepare(tmp_path / "study", config)
    raw = tmp_path / "study/nnUNet_raw" / DATASET
    names = study.names_of(raw / "labelsTr")
    assert len(names) == json.loads((raw / "dataset.json").read_text())["numTraining"] == 3
    assert study.folds_of(tmp_path / "study") == [[name] for name in names]
    splits = json.loads((raw / "splits_final.json").read_text())
    assert [sorted(split["train"] + split["val"]) for split in splits] == [names] * 3


def test_networks_without_a_common_seed_are_not_compared(phantoms):
    write_rows(phantoms, GATED, seeds=(1,))
    write_rows(phantoms, f"{UNGATED}__{SG_NET_PLANS}", seeds=(2,))
    run("report", phantoms, phantoms)
    assert "Difference" not in (phantoms / "phantom_study.md").read_text()


def test_an_unknown_network_is_refused_before_anything_is_made(tmp_path):
    result = run("run", tmp_path / "study", "--only", "UNetTrainer__nnUNetPlans")
    assert result.exit_code == 2
    assert not (tmp_path / "study").exists()


def test_options_override_the_budget_and_are_kept(tmp_path):
    study._configure(tmp_path, "smoke", seeds=1, device="cuda")
    config = study._configure(tmp_path, "gpu", seeds=None, device=None)
    assert (config.seeds, config.device, config.epochs) == (1, "cuda", 2)
    assert StudyConfig.load(tmp_path) == config


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer_class", "bypassed", "levels"),
    [
        (sgnet_trainer.SGNetTrainer, False, LEVELS),
        (sgnet_trainer.SGNetTrainer, True, ()),
        (baseline_trainers.BaselineUNetTrainer, False, ()),
    ],
)
def test_masks_and_gates_of_a_trained_model_are_scored(planned, trainer_class, bypassed, levels):
    plans = json.loads((planned / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json").read_text())
    raw, model = planned / "nnUNet_raw" / DATASET, planned / "model"
    description = json.loads((raw / "dataset.json").read_text())
    trainer = trainer_class(
        plans | {"continue_training": False}, "3d_fullres", 0, description, torch.device("cpu")
    )
    trainer.initialize()
    (model / "fold_0").mkdir(parents=True)
    trainer.save_checkpoint(str(model / "fold_0/checkpoint_final.pth"))
    for name, content in {"plans": plans, "dataset": description}.items():
        (model / f"{name}.json").write_text(json.dumps(content))
    BUDGETS["smoke"].save(planned)
    rows = study._test(planned, model, "run" + (study.BYPASSED if bypassed else ""), 1, 0)
    assert [row["case"] for row in rows] == ["case0", "case1"]
    for row in rows:
        assert row["parameters"] == sum(p.numel() for p in trainer.network.parameters())
        assert 0 <= row["dice"] < 1
        assert row["lesions"] == 1
        assert tuple(gate["gate"] for gate in row["gates"]) == levels
        assert all(gate["lesion_voxels"] == 8**3 for gate in row["gates"])


def test_a_model_trained_elsewhere_is_one_more_row(real, monkeypatch):
    monkeypatch.setattr(study, "score", lambda *_, images, **__: [{"case": case} for case in images])
    assert run("external", real, real / "model", "--name", "phantoms", "--seed", 3).exit_code == 0
    assert list(read_rows(real)) == [
        {"run": "phantoms", "seed": 3, "fold": None, "case": f"p{i}"} for i in range(3)
    ]


@pytest.mark.slow
def test_steps_and_cases_are_timed_relative_to_the_ungated_network(planned, monkeypatch):
    chosen = [m for m in MODELS if m.trainer in {"SGNetTrainer", UNGATED} and m.plans == SG_NET_PLANS]
    default = next(model for model in MODELS if model.plans == DEFAULT_PLANS)
    monkeypatch.setattr(study, "MODELS", (*chosen, default))
    for name, value in {"TIMED_BATCH": 2, "TIMED_PATCH": (16, 32, 32), "TIMED_CASE": (16, 32, 32)}.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr("sgnet_nnunet.training.settings.keep_freed_memory", lambda: True)
    BUDGETS["smoke"].save(planned)
    shutil.rmtree(planned / "nnUNet_results")
    study.speed(planned, rounds=1)
    gated, ungated = json.loads((planned / "speed.json").read_text())["models"]
    assert (ungated["trainer"], ungated["step_relative"], ungated["case_relative"]) == (UNGATED, 1, 1)
    assert gated["step_relative"] == pytest.approx(gated["step_s"] / ungated["step_s"])
