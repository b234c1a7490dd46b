"""The study's scores of a trained network."""

import json
import shutil

import pytest
import torch
from study.data import DATASET
from study.score import score_run

from sgnet_nnunet.training import baseline_trainers, benchmark_trainers, notebook_trainer, sgnet_trainer

TRAINERS_BY_NAME = {
    name: value
    for module in (sgnet_trainer, notebook_trainer, baseline_trainers, benchmark_trainers)
    for name, value in vars(module).items()
}


@pytest.fixture
def raw(planned):
    """Return a data set whose cases are test cases too."""
    for kind in ("images", "labels"):
        shutil.copytree(planned / f"{kind}Tr", planned / f"{kind}Ts")
    return planned


@pytest.fixture
def make_trainer(raw, nnunet_paths):
    plans = json.loads((nnunet_paths / "nnUNet_preprocessed" / DATASET / "nnUNetPlans.json").read_text())
    plans["continue_training"] = False
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 32, 32]
    description = json.loads((raw / "dataset.json").read_text())

    def make(name):
        trainer = TRAINERS_BY_NAME[name](plans, "3d_fullres", 0, description, torch.device("cpu"))
        trainer.initialize()
        # As nnU-Net does it for a GPU.
        trainer.network = torch.compile(trainer.network, backend="eager")
        return trainer

    return make


@pytest.mark.parametrize(
    ("name", "decides", "gates"),
    [
        ("SGNetTrainer", True, ["1/8", "1/4", "1/2"]),
        ("SGNetTrainer", False, []),
        ("SGNetNoGateTrainer", True, []),
        ("BaselineUNetTrainer", True, []),
    ],
)
def test_masks_and_the_gates_of_a_compiled_network_are_scored(
    raw, make_trainer, tmp_path, name, decides, gates
):
    trainer = make_trainer(name)
    score_run(trainer, raw, raw / "labelsTs", tmp_path / "scores.json", gates=decides)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["gates"] == gates
    assert scores["parameters"] == sum(p.numel() for p in trainer.network.parameters())
    assert scores["cases"].keys() == {f"case{i}" for i in range(5)}
    for case in scores["cases"].values():
        assert (case["dice"], case["detected"], case["false_positives"]) == (1, case["lesions"], 0)
        assert (case["gates"] is None) == (not gates)
        if gates:
            assert case["gates"]["lesion_voxels"] == [8**3] * 3
