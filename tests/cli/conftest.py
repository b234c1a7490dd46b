"""Real work for each command, seconds of it."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sgnet_nnunet.nifti import Volume, write_volume

FEATURES = [4, 8, 8, 16]


@pytest.fixture(scope="session")
def write_workplace(make_results, make_dataset, write_fingerprint, nnunet_folders):
    """Return a function that writes nnU-Net's paths, a collection, a model with gates, and results."""

    def write(folder, *, cases, folds, shape, patients, image_shape):
        rng = np.random.default_rng(0)
        models = ("SGNetTrainer", "BaselineUNetTrainer")
        make_results(folder, models=models, cases=cases, folds=folds, shape=shape)
        image = rng.integers(100, 1000, image_shape).astype(np.int16)
        for number in range(patients):
            patient = folder / f"collection/P{number}"
            patient.mkdir(parents=True)
            for part in ("t1ce_img", "flair_img", "core_seg", "whole_seg"):
                data = (image > 900).astype(np.uint8) if part.endswith("seg") else image
                write_volume(patient / f"A_{part}.nii.gz", Volume(data, np.eye(4)))
        with nnunet_folders(folder):
            _write_model(folder, make_dataset, write_fingerprint, image_shape)

    return write


@pytest.fixture(scope="session")
def workplace(tmp_path_factory, write_workplace, nnunet_folders):
    """Return a folder with work of seconds for each command."""
    folder = tmp_path_factory.mktemp("workplace")
    write_workplace(folder, cases=12, folds=3, shape=(64, 64, 64), patients=6, image_shape=(96, 96, 64))
    with nnunet_folders(folder):
        yield folder


def _write_model(folder, make_dataset, write_fingerprint, shape):
    """Give each fold of the SG-Net in the results a network, and plans with small patches."""
    import torch  # noqa: PLC0415 - takes seconds

    from sgnet_nnunet.networks.sgnet import SGNet  # noqa: PLC0415
    from sgnet_nnunet.planning.planner import SGNetPlanner  # noqa: PLC0415

    raw = make_dataset(folder / "nnUNet_raw", name="Dataset502_Plans", cases=2, shape=shape)
    write_fingerprint(folder / "nnUNet_preprocessed/Dataset502_Plans", cases=2)
    plans = SGNetPlanner(502).plan_experiment() | {"dataset_name": "Dataset501_Tiny"}
    settings = plans["configurations"]["3d_fullres"]
    settings["patch_size"] = [32, 32, 32]
    settings["architecture"]["arch_kwargs"] = {"features_per_stage": FEATURES, "gate_kwargs": {"groups": 2}}
    network = SGNet(2, 2, features_per_stage=FEATURES, gate="hard_spatial", gate_kwargs={"groups": 2})
    for model in (folder / "nnUNet_results/Dataset501_Tiny").iterdir():
        (model / "plans.json").write_text(json.dumps(plans))
        for fold in model.glob("fold_*"):
            torch.save(
                {
                    "trainer_name": "SGNetTrainer",
                    "init_args": {"configuration": "3d_fullres"},
                    "inference_allowed_mirroring_axes": (0, 1, 2),
                    "network_weights": network.state_dict(),
                },
                fold / "checkpoint_final.pth",
            )
    (folder / "nnUNet_preprocessed/Dataset501_Tiny/nnUNetPlans.json").write_text(json.dumps(plans))
    shutil.copytree(raw / "imagesTr", folder / "images")


@pytest.fixture
def command_lines(workplace: Path) -> Callable[[Path], dict[str, list[str]]]:
    """Return a function that gives a line of each command but link and unlink, for an output folder."""
    return partial(_command_lines, workplace)


def _command_lines(place: Path, output: Path) -> dict[str, list[str]]:
    model = place / "nnUNet_results/Dataset501_Tiny/SGNetTrainer__nnUNetPlans__3d_fullres"
    report = ["-o", output / "report", "-np", "2"]
    masks = [place / "nnUNet_raw/Dataset501_Tiny/labelsTr"] * 2
    lines = {
        "convert": [place / "collection", "-d", "503", "--register", "rigid", "-np", "2"],
        "phantom": [output / "phantoms", "-n", "40", "-np", "2"],
        "predict": [
            "-i",
            place / "images",
            "-o",
            output / "masks",
            "-m",
            model,
            "--engine",
            "tiled",
            "--tta",
        ],
        "segment": [
            *("--t1ce", place / "images/case0_0000.nii.gz", "--flair", place / "images/case0_0001.nii.gz"),
            *("-m", model, "-o", output / "patient", "--engine", "tiled", "--tta"),
        ],
        "export": [model, "-o", output / "exported", "-f", "0", "1", "2"],
        "gates": [model, "-i", place / "images", "-o", output / "gates"],
        "evaluate": [*masks, *report, "--viewer"],
        "compare": ["--models", "SGNetTrainer", "BaselineUNetTrainer", "-f", "0", "1", "2", *report],
        "tune": ["-d", "501", "-f", "0", "1", "2", "-o", output / "point.json"],
        "demo": [output / "demo"],
        "doctor": [],
    }
    return {name: [name, *map(str, arguments)] for name, arguments in lines.items()}
