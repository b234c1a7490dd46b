"""The study's own part: the budget it keeps, and the tables it makes of the scores."""

import json
from dataclasses import replace

import pytest
from phantom_study import app
from study.config import (
    BUDGETS,
    DEFAULT_PLANS,
    HELD_OPEN,
    MODELS,
    SG_NET_PLANS,
    TVERSKY_PLANS,
    StudyConfig,
    for_this_cpu,
    overridden,
)
from study.markdown import to_markdown
from study.summary import case_rows, summarise
from study.train import SCORES, run_folder
from typer.testing import CliRunner

from sgnet_nnunet.plugin.shims import SHIMS

LEVELS = ("1/8", "1/4", "1/2")


def case(*, false_positives, shut_out=()):
    gates = {
        "open_fraction": [0.5, 0.2, 0.04],
        "lesion_voxels": [100] * 3,
        "admitted_voxels": [100, 100, 99],
        "lesions": [4] * 3,
        "admitted_lesions": [4, 4, 4 - len(shut_out)],
        "shut_out_diameters_mm": list(shut_out),
    }
    scores = dict.fromkeys(("dice", "precision", "recall", "nsd_1mm"), 0.8) | {"hd95_mm": 5.0}
    return scores | {"lesions": 4, "detected": 3, "false_positives": false_positives, "gates": gates}


def write_scores(folder, run, *, false_positives, shut_out=()):
    for seed in range(2):
        target = run_folder(folder, run, seed)
        target.mkdir(parents=True)
        cases = {f"p{i}": case(false_positives=false_positives + i, shut_out=shut_out) for i in range(3)}
        gates = list(LEVELS) if run.startswith("SGNetTrainer") else []
        (target / SCORES).write_text(json.dumps({"parameters": 668_673, "gates": gates, "cases": cases}))


@pytest.fixture
def study(tmp_path):
    """Return a study with two seeds of two networks, one gated."""
    write_scores(tmp_path, f"SGNetTrainer__{SG_NET_PLANS}", false_positives=1, shut_out=(4.0, 6.0))
    write_scores(tmp_path, f"SGNetNoGateTrainer__{SG_NET_PLANS}", false_positives=3)
    return tmp_path, StudyConfig(seeds=2)


def test_every_trainer_and_nnunets_own_are_in_the_study():
    assert {model.trainer for model in MODELS} == {*SHIMS[0].names, "nnUNetTrainer"}


def test_means_are_over_patients_and_seeds_and_the_rest_is_left_out(study):
    gated, ungated = summarise(*study)["models"]
    assert (gated["trainer"], gated["seeds"]) == ("SGNetTrainer", 2)
    assert gated["mean"]["false_positives"] == 2
    assert ungated["mean"]["false_positives"] == 4
    assert gated["mean"]["lesion_sensitivity"] == 0.75


def test_difference_is_paired_over_patients(study):
    gated, ungated = summarise(*study)["models"]
    assert gated["against_no_gate"]["false_positives"] == {"mean": -2.0, "low": -2.0, "high": -2.0}
    assert ungated["against_no_gate"] is None


def test_difference_is_over_the_seeds_that_both_networks_have(study):
    folder, config = study
    (run_folder(folder, f"SGNetTrainer__{SG_NET_PLANS}", 1) / SCORES).unlink()
    unlucky = run_folder(folder, f"SGNetNoGateTrainer__{SG_NET_PLANS}", 1) / SCORES
    cases = {f"p{i}": case(false_positives=50) for i in range(3)}
    unlucky.write_text(json.dumps({"parameters": 668_673, "gates": [], "cases": cases}))
    gated = summarise(folder, config)["models"][0]
    assert gated["against_no_gate"]["false_positives"]["mean"] == -2.0


def test_networks_without_a_seed_in_common_are_not_compared(study):
    folder, config = study
    (run_folder(folder, f"SGNetTrainer__{SG_NET_PLANS}", 1) / SCORES).unlink()
    (run_folder(folder, f"SGNetNoGateTrainer__{SG_NET_PLANS}", 0) / SCORES).unlink()
    assert summarise(folder, config)["models"][0]["against_no_gate"] is None


def test_difference_is_to_the_ungated_network_of_the_same_plan(study):
    folder, config = study
    write_scores(folder, f"SGNetTrainer__{TVERSKY_PLANS}", false_positives=2)
    write_scores(folder, f"SGNetNoGateTrainer__{TVERSKY_PLANS}", false_positives=7)
    write_scores(folder, f"nnUNetTrainer__{DEFAULT_PLANS}", false_positives=4)
    rows = [
        (row["trainer"], row["plans"], (row["against_no_gate"] or {"false_positives": {"mean": 0.0}}))
        for row in summarise(folder, config)["models"]
    ]
    assert {row[:2]: row[2]["false_positives"]["mean"] for row in rows} == {
        ("SGNetTrainer", SG_NET_PLANS): -2,
        ("SGNetNoGateTrainer", SG_NET_PLANS): 0,
        ("nnUNetTrainer", DEFAULT_PLANS): 1,
        ("SGNetTrainer", TVERSKY_PLANS): -5,
        ("SGNetNoGateTrainer", TVERSKY_PLANS): 0,
    }


def test_unknown_network_to_train_is_named(tmp_path):
    result = CliRunner().invoke(app, ["run", str(tmp_path / "study"), "--only", "SGNetTrainer"])
    assert result.exit_code == 2
    assert "no such network: SGNetTrainer" in result.output
    assert not (tmp_path / "study").exists()


def started(folder, monkeypatch, *options):
    """Return what `run` starts, the names of runs in order."""
    starts = []
    monkeypatch.setattr("phantom_study.prepare", lambda *_: None)
    monkeypatch.setattr(
        "phantom_study.run_jobs",
        lambda _, jobs, **__: iter([(job, starts.append(job[1].run)) for job in jobs]),
    )
    result = CliRunner().invoke(app, ["run", str(folder), "--seeds", "1", *options])
    assert result.exit_code == 0, result.output
    return starts


def test_gates_are_held_open_after_every_training(tmp_path, monkeypatch):
    starts = started(tmp_path, monkeypatch)
    bypassed = [run.endswith(HELD_OPEN) for run in starts]
    assert bypassed == sorted(bypassed)
    assert {run.removesuffix(HELD_OPEN) for run in starts if run.endswith(HELD_OPEN)} < set(starts)


def test_a_network_and_its_gates_held_open_are_chosen_apart(tmp_path, monkeypatch):
    run = f"SGNetTrainer__{SG_NET_PLANS}"
    assert started(tmp_path, monkeypatch, "--only", run) == [run]
    assert started(tmp_path, monkeypatch, "--only", run + HELD_OPEN) == [run + HELD_OPEN]


def test_what_has_scores_is_not_started_again(tmp_path, monkeypatch):
    run = f"SGNetTrainer__{SG_NET_PLANS}"
    write_scores(tmp_path, run, false_positives=1)
    starts = started(tmp_path, monkeypatch)
    assert run not in starts
    assert run + HELD_OPEN in starts


def test_imitated_bfloat16_is_left_out(monkeypatch):
    for emulates in (True, False):
        monkeypatch.setattr("study.config.emulates_bfloat16", lambda emulates=emulates: emulates)
        assert for_this_cpu(BUDGETS["cpu"]).bfloat16 is not emulates


def test_gates_are_summed_and_lesions_of_5_mm_counted(study):
    gated, ungated = summarise(*study)["models"]
    assert gated["gates"]["1/2"] == {
        "open_fraction": pytest.approx(0.04),
        "admitted_voxel_share": 0.99,
        "admitted_lesion_share": 0.5,
    }
    assert gated["lesions_shut_out"] == 12
    assert gated["lesions_shut_out_of_5mm_or_more"] == 6
    assert ungated["gates"] is None


def test_every_case_of_every_seed_is_a_row(study):
    rows = list(case_rows(*study))
    assert len(rows) == len({(row["run"], row["seed"], row["case"]) for row in rows}) == 2 * 2 * 3
    assert {row["false_positives"] for row in rows if row["run"].startswith("SGNetNoGate")} == {3, 4, 5}


def test_report_writes_summary_tables_and_cases(study, tmp_path):
    folder, config = study
    config.save(folder / "config.json")
    result = CliRunner().invoke(app, ["report", str(folder), str(tmp_path / "results"), "--name", "mine"])
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "mine.json",
        "mine.md",
        "mine_cases.jsonl",
    ]
    rows = (tmp_path / "results" / "mine_cases.jsonl").read_text().splitlines()
    assert [json.loads(row)["case"] for row in rows[:3]] == ["p0", "p1", "p2"]


def test_markdown_has_a_row_a_network_in_every_table(study):
    text = to_markdown(summarise(*study))
    assert "| SG-Net, hard spatial gate | 668,673 | 2 | 0.800 | 0.800 | 0.800 | 5.0 |" in text
    assert "| SG-Net, hard spatial gate | 1/2 | 0.0400 | 0.9900 | 0.5000 |" in text
    assert text.count("SG-Net, no gate") == 2


def test_markdown_has_the_thresholds_once_they_are_measured(study):
    folder, config = study
    assert "thresholds set on" not in to_markdown(summarise(folder, config))
    figures = {
        "dice": 0.5,
        "lesion_sensitivity": 0.25,
        "false_positives": 1.0,
        "open_fraction": [0.3, 0.2, 0.1],
        "admitted_voxel_share": [1.0, 1.0, 0.75],
        "admitted_lesion_share": [1.0, 1.0, 0.5],
    }
    row = {"shut_out_share": 0.01, "training": figures, "test": figures | {"dice": 0.25}}
    (folder / "thresholds.json").write_text(json.dumps({"seed0": [row], "seed1": [row]}))
    text = to_markdown(summarise(folder, config))
    assert "| 0.01 | test | 0.250 | 0.250 | 1.00 | 0.1000 | 0.7500 | 0.5000 |" in text


@pytest.mark.parametrize("name", BUDGETS)
def test_budget_comes_back_from_its_file(tmp_path, name):
    BUDGETS[name].save(tmp_path / "config.json")
    assert StudyConfig.load(tmp_path / "config.json") == BUDGETS[name]


def test_seeds_and_device_can_be_changed():
    changed = overridden(BUDGETS["cpu"], seeds=1, device="cuda")
    assert changed == replace(BUDGETS["cpu"], seeds=1, device="cuda")
    assert overridden(BUDGETS["cpu"], seeds=None, device=None) == BUDGETS["cpu"]
