"""The studies on tiny inputs: scores of a network, tables of made-up scores, timed steps."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import study
import study_froc
import torch
from study import DATASET, GATED, NAMES, SG_NET_PLANS, UNGATED
from study_results import UNCLIPPED_PLANS, read_rows
from typer.testing import CliRunner

from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.plugin.shims import SHIMS
from sgnet_nnunet.study.study_file import read_study
from sgnet_nnunet.training import baseline_trainers, sgnet_trainer

pytest.importorskip("yaml")

LEVELS = ("1/8", "1/4", "1/2")
STUDIES = sorted((Path(study.__file__).parent / "studies").glob("*.yaml"))
STUDY = """\
work: {work}
data: {{raw: {raw}}}
plans:
  nnUNetPlans: {{planner: SGNetPlanner, patch_size: [16, 32, 32], batch_size: 2}}
  nnUNetUnclippedPlans: {{planner: SGNetUnclippedPlanner}}
networks:
  - {{trainer: SGNetTrainer}}
  - {{trainer: SGNetNoGateTrainer}}
  - {{trainer: SGNetTrainer, plans: nnUNetUnclippedPlans}}
folds: all
seeds: [1, 2]
epochs: 2
iterations: 2
device: cpu
"""


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


def write_study(folder, raw):
    path, given = folder / "study.yaml", folder.with_name(f"{folder.name}-given") / DATASET
    given.parent.mkdir()
    given.symlink_to(raw)  # a study refuses data in the folder that it writes to
    path.write_text(STUDY.format(work=folder, raw=given))
    return path


@pytest.fixture
def make_study(tmp_path):
    """Return a function that writes a study, in whose work folder is a raw data set of these folds."""

    def make(*folds, test=()):
        raw = tmp_path / "nnUNet_raw" / DATASET
        for case in test:
            (raw / "labelsTs").mkdir(parents=True, exist_ok=True)
            (raw / f"labelsTs/{case}.nii.gz").touch()
        raw.mkdir(parents=True, exist_ok=True)
        (raw / "dataset.json").write_text("{}")
        splits = [{"train": ["q"], "val": list(fold)} for fold in folds]
        (raw / "splits_final.json").write_text(json.dumps(splits))
        return write_study(tmp_path, raw)

    return make


@pytest.fixture
def phantoms(make_study):
    """Return a study on phantoms, three of them to test on."""
    return make_study(["q1"], test=("p0", "p1", "p2"))


@pytest.fixture
def real(make_study):
    """Return a study that leaves each of three patients out."""
    return make_study(["p0"], ["p1"], ["p2"])


def test_every_trainer_and_nnunets_own_are_in_the_study():
    shims = [shim for shim in SHIMS if "trainers" in shim.path and "benchmark" not in shim.path]
    ours = {name for shim in shims for name in shim.names}
    assert {run.partition("__")[0] for run in NAMES} == {*ours, "ShortNNUNetTrainer"}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_can_be_read(path, tmp_path, make_dataset):
    raw = make_dataset(tmp_path / "study_output/phantoms", name=DATASET, cases=3)
    (raw / "splits_final.json").write_text(json.dumps([{"train": ["case0"], "val": ["case1"]}]))
    for name in ("COLLECTION", "ANOTHER"):
        patient = tmp_path / f"benchmarks/studies/{name}/{name}1"
        patient.mkdir(parents=True)
        (patient / "A_t1ce_img.nii.gz").touch()
    copy = tmp_path / "benchmarks/studies" / path.name
    copy.write_text(path.read_text())
    file = read_study(copy)
    assert file.folds == ((0, 1) if path.stem == "real" else (0,))
    assert {study.run_of(network) for network in file.study.networks} <= set(NAMES)


def test_a_report_has_means_differences_and_gates(phantoms):
    folder = phantoms.parent
    write_rows(folder, GATED, false_positives=1, suppressed=1)
    write_rows(folder, f"{UNGATED}__{SG_NET_PLANS}", seeds=(1,), false_positives=3)
    assert run("report", phantoms, folder / "results", "--name", "study").exit_code == 0
    text = (folder / "results/study.md").read_text()
    assert "Budget: 1 training and 3 test patients; 8 patches of 16 x 32 x 32 voxels" in text
    assert "| SG-Net, hard spatial gates | 668,673 | 2 | 3 | 0.800 |" in text
    assert "| SG-Net, hard spatial gates | 0.800 / 0.800 |" in text
    # Only the seed that both networks have is compared, patient by patient.
    assert "-2.000 (-2.000 to -2.000) |" in text
    assert "| SG-Net, hard spatial gates | 1/2 | 0.0400 | 0.9900 | 0.7500 | 6 of 24 |" in text


def test_a_report_of_an_unfinished_study_says_how_much_is_done_and_compares_what_both_plans_have(real):
    folder = real.parent
    write_rows(folder, GATED, seeds=(1,), dice=0.8)
    write_rows(folder, f"SGNetTrainer__{UNCLIPPED_PLANS}", seeds=(1,), patients=(0, 1), dice=0.7)
    study._append(folder, [row | {"run": "elsewhere", "fold": None} for row in read_rows(folder)][:3])
    run("report", real, folder / "results", "--name", "real")
    text = (folder / "results/real.md").read_text()
    assert "**5 of 18 trainings are done.**" in text
    assert "| SG-Net, hard spatial gates, unclipped | -0.100 (-0.100 to -0.100) |" in text


def test_phantoms_are_made_once_some_to_train_on_and_others_to_test_on(tmp_path, monkeypatch):
    data = np.random.default_rng(0).integers(1, 99, (8, 9, 7)).astype(np.int16)

    def write(folder, *, patients, seed, **_):
        for patient in range(patients):
            path = folder / f"{seed}P{patient}"
            path.mkdir(parents=True)
            for part in ("t1ce_img", "flair_img", "whole_seg"):
                volume = Volume((data > 50).astype(np.uint8) if part == "whole_seg" else data, np.eye(4))
                write_volume(path / f"A_{part}.nii.gz", volume)

    monkeypatch.setattr(study, "write_phantoms", write)
    options = ("--training", 2, "--validation", 1, "--test", 1, "-np", 1)
    assert run("phantoms", tmp_path, *options).exit_code == 0
    (fold,) = json.loads((tmp_path / DATASET / "splits_final.json").read_text())
    assert [len(fold[part]) for part in ("train", "val")] == [2, 1]
    tested = study.names_of(tmp_path / DATASET / "labelsTs")
    assert len(tested) == 1
    assert not {*tested} & {*fold["train"], *fold["val"]}
    monkeypatch.delattr(study, "write_phantoms")
    assert run("phantoms", tmp_path, *options).exit_code == 0


def test_only_what_is_trained_and_has_no_scores_is_tested(real, monkeypatch):
    folder = real.parent
    write_rows(folder, GATED, seeds=(1,), patients=(0,))
    for fold in (0, 1):
        model = folder / f"results/seed1/{DATASET}/SGNetTrainer__nnUNetPlans__3d_fullres/fold_{fold}"
        model.mkdir(parents=True)
        (model / "checkpoint_final.pth").touch()
    monkeypatch.setattr(study, "score", lambda *_, images, **__: [{"case": case} for case in images])
    assert run("score", real).exit_code == 0
    assert list(read_rows(folder))[1:] == [
        {"run": name, "seed": 1, "fold": 1, "case": "p1"} for name in (GATED, GATED + study.BYPASSED)
    ]
    write_rows(folder, GATED, seeds=(2,), patients=(0,))  # which is not trained any more
    assert run("score", real, "--again").exit_code == 0
    again = [(row["run"], row["seed"], row["fold"]) for row in read_rows(folder)]
    assert again[0] == (GATED, 2, 0)
    assert again[1:] == [(name, 1, fold) for fold in (0, 1) for name in (GATED, GATED + study.BYPASSED)]


def test_rows_that_were_scored_before_counts_were_kept_can_be_reported_and_give_the_power(phantoms):
    folder = phantoms.parent
    write_rows(folder, GATED)
    write_rows(folder, f"{UNGATED}__{SG_NET_PLANS}", false_positives=2)
    run("report", phantoms, folder / "results", "--name", "study")
    text = (folder / "results/study.md").read_text()
    assert "No counts at thresholds were kept of SG-Net, hard spatial gates, SG-Net, no gate" in text
    assert not (folder / "results/study_froc.png").exists()
    printed = run("power", folder / "results/study_cases.jsonl", "--patients", 64).output
    assert "| SG-Net, hard spatial gates | 2 | – | – | – | – | 0.000 | 0.00 |" in printed


def test_networks_without_a_common_seed_are_not_compared(phantoms):
    folder = phantoms.parent
    write_rows(folder, GATED, seeds=(1,))
    write_rows(folder, f"{UNGATED}__{SG_NET_PLANS}", seeds=(2,))
    run("report", phantoms, folder)
    assert "seeds averaged, with" not in (folder / "phantom_study.md").read_text()


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
    rows = study._test(
        read_study(write_study(planned, raw)), model, "run" + (study.BYPASSED if bypassed else ""), 1, 0
    )
    assert [row["case"] for row in rows] == ["case0", "case1"]
    for row in rows:
        assert row["parameters"] == sum(p.numel() for p in trainer.network.parameters())
        assert 0 <= row["dice"] < 1
        assert row["lesions"] == 1
        assert tuple(gate["gate"] for gate in row["gates"]) == levels
        assert all(gate["lesion_voxels"] == 8**3 for gate in row["gates"])
        place = study_froc.GRID.thresholds.index(0.5)
        assert row["found_at"][place] + row["false_positives_at"][place] >= row["false_positives"]
        assert (len(row["found_each"]), len(row["diameters_mm"])) == (1, 1)


def test_a_model_trained_elsewhere_is_one_more_row(real, monkeypatch):
    monkeypatch.setattr(study, "score", lambda *_, images, **__: [{"case": case} for case in images])
    assert run("external", real, real.parent / "model", "--name", "phantoms", "--seed", 3).exit_code == 0
    assert list(read_rows(real.parent)) == [
        {"run": "phantoms", "seed": 3, "fold": None, "case": f"p{i}"} for i in range(3)
    ]


@pytest.mark.slow
def test_steps_and_cases_are_timed_relative_to_the_ungated_network(planned, monkeypatch):
    for name, value in {"TIMED_BATCH": 2, "TIMED_PATCH": (16, 32, 32), "TIMED_CASE": (16, 32, 32)}.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr("sgnet_nnunet.training.settings.keep_freed_memory", lambda: True)
    path = write_study(planned, planned / "nnUNet_raw" / DATASET)
    path.write_text(
        path.read_text().replace("  - {trainer: SGNetTrainer, plans: nnUNetUnclippedPlans}\n", "")
    )
    shutil.rmtree(planned / "nnUNet_results")
    study.speed(path, rounds=1)
    gated, ungated = json.loads((planned / "speed.json").read_text())["models"]
    assert (ungated["trainer"], ungated["step_relative"], ungated["case_relative"]) == (UNGATED, 1, 1)
    assert gated["step_relative"] == pytest.approx(gated["step_s"] / ungated["step_s"])
