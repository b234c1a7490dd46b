"""The training on synthetic patients: its stages, on small patients and without nnU-Net's commands."""

import json
import shutil

import numpy as np
import pytest
import synthetic
import torch
from typer.testing import CliRunner

from sgnet_nnunet.dataset.collection import PARTS, part_path
from sgnet_nnunet.files import checksum_of
from sgnet_nnunet.inference.shipped import ShippedModel, shipped_model
from sgnet_nnunet.inference.trained_model import load_trained_model
from sgnet_nnunet.inference.trust import load_pickle
from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.phantom.population import draw_ids, patient_rng


@pytest.fixture
def commands(monkeypatch):
    """Replace the phantoms by small ones, and nnU-Net's commands; return what was run."""
    run = []

    def write_phantoms(root, *, patients, seed, workers, config):
        rng = np.random.default_rng(seed)
        for index in range(patients):
            patient, accession = draw_ids(patient_rng(seed, index))
            (root / patient).mkdir(parents=True)
            mask = np.zeros((12, 12, 8), dtype=np.uint8)
            mask[3:7, 3:7, 2:5] = 1
            for part in PARTS:
                scan = rng.integers(1, 99, mask.shape).astype(np.int16)
                data = mask if part.endswith("seg") else scan
                write_volume(part_path(root, patient, accession, part), Volume(data, np.eye(4)))

    monkeypatch.setattr(synthetic, "write_phantoms", write_phantoms)
    monkeypatch.setattr(synthetic, "run_command", lambda arguments, **_: run.append(arguments))
    return run


def train(folder, patients, *options):
    arguments = ["train", str(folder), "-n", str(patients), "-np", "1", *options]
    outcome = CliRunner().invoke(synthetic.app, arguments)
    assert outcome.exit_code == 0, outcome.output


@pytest.mark.parametrize(("patients", "held_out", "seed"), [(8, 4, 21), (10, 4, 21), (8, 2, 3)])
def test_the_same_first_patients_are_held_out_however_many_there_are(
    commands, tmp_path, patients, held_out, seed
):
    train(tmp_path, patients, "--held-out", str(held_out), "--patients-seed", str(seed))
    (fold,) = json.loads((tmp_path / "nnUNet_raw" / synthetic.DATASET / "splits_final.json").read_text())
    ids = [draw_ids(patient_rng(seed, index)) for index in range(patients)]
    cases = [f"{patient}_{accession}" for patient, accession in ids]
    assert sorted(fold["val"]) == sorted(cases[:held_out])
    assert sorted(fold["train"]) == sorted(cases[held_out:])


def test_what_is_finished_is_left_out_and_a_training_goes_on(commands, tmp_path):
    train(tmp_path, 8)
    assert [arguments[0] for arguments in commands] == ["nnUNetv2_plan_and_preprocess", "nnUNetv2_train"]
    assert "--c" not in commands[1]
    fold = synthetic.model_of(tmp_path) / "fold_0"
    fold.mkdir(parents=True)
    (fold / "checkpoint_latest.pth").touch()
    train(tmp_path, 8)
    assert [arguments[0] for arguments in commands[2:]] == ["nnUNetv2_train"]
    assert "--c" in commands[2]


def test_a_training_starts_from_weights_but_goes_on_from_its_own(commands, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.touch()
    train(tmp_path, 8, "-pretrained_weights", str(weights))
    assert commands[1][-2:] == ("-pretrained_weights", str(weights))
    fold = synthetic.model_of(tmp_path) / "fold_0"
    fold.mkdir(parents=True)
    (fold / "checkpoint_best.pth").touch()
    train(tmp_path, 8, "-pretrained_weights", str(weights))
    assert commands[2][-1] == "--c"


def test_gates_that_are_bypassed_are_all_that_differs_in_the_copy(tmp_path):
    copy = synthetic.with_gates_bypassed(shipped_model().trained, tmp_path)
    before, after = (load_trained_model(folder).weights[0] for folder in (shipped_model().trained, copy))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(".bypassed")} != set()
    assert all(after[name].item() for name in changed)


@pytest.mark.slow
def test_a_training_is_shipped_once_with_its_weights_losses_and_checksum(tmp_path, monkeypatch):
    model, shipped = synthetic.model_of(tmp_path / "training"), shipped_model()
    shutil.copytree(shipped.trained, model)
    (model / "fold_all").rename(model / "fold_0")
    content = load_pickle(model / "fold_0/checkpoint_final.pth")
    content["logging"] = {name: [0.5, 0.25] for name in synthetic.CURVES}
    torch.save(content, model / "fold_0/checkpoint_final.pth")
    (tmp_path / "card.md").write_text("# a card\n{sha256}\n")
    monkeypatch.setattr(synthetic, "MODELS", tmp_path / "models")
    (tmp_path / "models").mkdir()
    command = ["ship", str(tmp_path / "training"), "7", str(tmp_path / "card.md")]
    outcome = CliRunner().invoke(synthetic.app, command)
    assert outcome.exit_code == 0, outcome.output
    made = ShippedModel(tmp_path / "models/synthetic-7")
    assert made.weights.read_bytes() == shipped.weights.read_bytes()
    assert checksum_of(made.weights) in made.card.read_text()
    assert (made.folder / "training.csv").read_text().splitlines()[1] == "0,0.5000,0.5000,0.5000"
    assert (made.folder / "openvino/export.json").is_file()
    assert "is there already" in CliRunner().invoke(synthetic.app, command).output
