"""A preprocessed tiny data set, and trainers on it."""

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sgnet_nnunet.planning.planner import SGNetPlanner
from sgnet_nnunet.training import baseline_trainers, benchmark_trainers, notebook_trainer, sgnet_trainer
from sgnet_nnunet.training.gate_monitor import GateLogger

TRAINERS_BY_NAME = {
    name: value
    for module in (sgnet_trainer, notebook_trainer, baseline_trainers, benchmark_trainers)
    for name, value in vars(module).items()
}


KINDS = {
    "labels": {},
    "regions": {
        "labels": {"background": 0, "whole_tumor": [1, 2], "tumor_core": [2]},
        "regions_class_order": [1, 2],
        "values": (1, 2),
    },
    "three labels": {"labels": {"background": 0, "oedema": 1, "core": 2}, "values": (1, 2)},
    "ignore": {"labels": {"background": 0, "tumour": 1, "ignore": 2}, "values": (1, 2)},
}


@pytest.fixture(scope="session")
def preprocessed(
    tmp_path_factory: pytest.TempPathFactory, make_dataset, write_fingerprint, nnunet_folders
) -> Path:
    """Return the folder of nnU-Net's three paths, the tiny data sets of `KINDS` preprocessed."""
    root = tmp_path_factory.mktemp("nnunet")
    with nnunet_folders(root):
        for i, kind in enumerate(KINDS.values()):
            raw = make_dataset(root / "nnUNet_raw", name=f"Dataset{501 + i}_Tiny", **kind)
            target = root / "nnUNet_preprocessed" / raw.name
            write_fingerprint(target)
            _preprocess(raw, target, SGNetPlanner(501 + i).plan_experiment())
    return root


def _preprocess(raw: Path, target: Path, plans: dict) -> None:
    """Preprocess in this process: nnU-Net's own loop spawns workers, which takes longer than the work."""
    manager = PlansManager(plans)
    configuration = manager.get_configuration("3d_fullres")
    dataset = json.loads((raw / "dataset.json").read_text())
    output = target / configuration.data_identifier
    output.mkdir()
    shutil.copytree(raw / "labelsTr", target / "gt_segmentations")
    for label in sorted((raw / "labelsTr").iterdir()):
        case = label.name.removesuffix(".nii.gz")
        images = [str(raw / f"imagesTr/{case}_{c:04d}.nii.gz") for c in range(2)]
        configuration.preprocessor_class(verbose=False).run_case_save(
            str(output / case), images, str(label), manager, configuration, dataset
        )


def touch_progress_png(_logger: object, folder: str) -> None:
    Path(folder, "progress.png").touch()


@pytest.fixture
def make_trainer(preprocessed, nnunet_paths, monkeypatch):
    """Return a function that makes a trainer, short by default, writing to a folder of its own.

    Its `configuration` replaces entries of the plan's.
    """
    monkeypatch.setenv("nnUNet_raw", str(preprocessed / "nnUNet_raw"))
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed / "nnUNet_preprocessed"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    # Matplotlib takes a second an epoch; test_gate_monitor draws it.
    for logger in (LocalLogger, GateLogger):
        monkeypatch.setattr(logger, "plot_progress_png", touch_progress_png)
    for name, value in {"EPOCHS": "2", "ITERS": "1", "VAL_ITERS": "1"}.items():
        monkeypatch.setenv(f"SGNET_{name}", value)

    def make(
        name: str | type = "SGNetTrainer",
        *,
        kind: str = "labels",
        device: str = "cpu",
        continue_training: bool = False,
        patch: tuple[int, ...] = (16, 32, 32),
        fold: int = 0,
        configuration: dict[str, Any] | None = None,
    ):
        folder = preprocessed / "nnUNet_preprocessed" / f"Dataset{501 + list(KINDS).index(kind)}_Tiny"
        plans = deepcopy(json.loads((folder / "nnUNetPlans.json").read_text()))
        plans["continue_training"] = continue_training
        small = {"patch_size": list(patch), "batch_size": 2}
        plans["configurations"]["3d_fullres"] |= small | (configuration or {})
        dataset = json.loads((folder / "dataset.json").read_text())
        kind = TRAINERS_BY_NAME[name] if isinstance(name, str) else name
        return kind(plans, "3d_fullres", fold, dataset, torch.device(device))

    return make
