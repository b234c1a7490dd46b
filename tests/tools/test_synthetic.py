"""The training on synthetic patients: its stages, on small patients and without nnU-Net's commands."""

import json

import numpy as np
import pytest
import synthetic
from typer.testing import CliRunner

from sgnet_nnunet.dataset.collection import PARTS, part_path
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


def train(folder, patients):
    outcome = CliRunner().invoke(synthetic.app, ["train", str(folder), "-n", str(patients), "-np", "1"])
    assert outcome.exit_code == 0, outcome.output


@pytest.mark.parametrize("patients", [8, 10])
def test_the_same_first_patients_are_held_out_however_many_there_are(commands, tmp_path, patients):
    train(tmp_path, patients)
    (fold,) = json.loads((tmp_path / "nnUNet_raw" / synthetic.DATASET / "splits_final.json").read_text())
    ids = [draw_ids(patient_rng(synthetic.SEED, index)) for index in range(patients)]
    cases = [f"{patient}_{accession}" for patient, accession in ids]
    assert sorted(fold["val"]) == sorted(cases[: synthetic.VALIDATION])
    assert sorted(fold["train"]) == sorted(cases[synthetic.VALIDATION :])


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
