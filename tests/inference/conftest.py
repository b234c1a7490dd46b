"""An untrained network in a model's folder, and images to predict."""

import json
import shutil

import numpy as np
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sgnet_nnunet.io.volume import Volume, write_volume
from sgnet_nnunet.planning.planner import SGNetPlanner
from sgnet_nnunet.training.trainers import SGNetNoGateTrainer

KINDS = {
    "labels": {},
    "regions": {
        "labels": {"background": 0, "whole_tumor": [1, 2], "tumor_core": [2]},
        "regions_class_order": [1, 2],
    },
}
MODEL = "SGNetNoGateTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture(scope="session")
def models(tmp_path_factory, make_dataset, write_fingerprint):
    """Return the folder of each kind of model, two folds of it."""
    return {
        kind: write_model(tmp_path_factory.mktemp("nnunet"), options, make_dataset, write_fingerprint)
        for kind, options in KINDS.items()
    }


@pytest.fixture(scope="session")
def model(models):
    return models["labels"]


def write_model(root, options, make_dataset, write_fingerprint):
    folder = root / "nnUNet_results/Dataset501_Tiny" / MODEL
    with pytest.MonkeyPatch.context() as patch:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (root / name).mkdir()
            patch.setenv(name, str(root / name))
        raw = make_dataset(root / "nnUNet_raw", cases=2, **options)
        write_fingerprint(root / "nnUNet_preprocessed/Dataset501_Tiny")
        plans = SGNetPlanner(501).plan_experiment()
    plans["configurations"]["3d_fullres"]["patch_size"] = [16, 32, 32]
    for fold in range(2):
        (folder / f"fold_{fold}").mkdir(parents=True)
        torch.save(checkpoint(plans, seed=fold), folder / f"fold_{fold}/checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    shutil.copy(raw / "dataset.json", folder)
    return folder


def checkpoint(plans, *, seed):
    torch.manual_seed(seed)
    manager = PlansManager(plans)
    network = SGNetNoGateTrainer.build_network_architecture(
        manager, manager.get_configuration("3d_fullres"), 2, 2, enable_deep_supervision=False
    )
    with torch.no_grad():
        # An untrained network says the same everywhere: louder, and about as often one thing as the other.
        network.head.weight *= 100
        network.head.bias -= network.eval()(torch.rand(1, 2, 16, 32, 32))[0].flatten(1).median(dim=1).values
    return {
        "trainer_name": "SGNetNoGateTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "network_weights": network.state_dict(),
    }


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Return a folder of two cases, the second with thick slices and turned axes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    turned = np.array([[0, 0, -2.5, 9], [-0.9, 0, 0, 30], [0, 1.1, 0, -5], [0, 0, 0, 1.0]])
    for name, shape, affine in [("a", (36, 34, 20), np.eye(4)), ("b", (38, 34, 12), turned)]:
        for channel in range(2):
            data = np.zeros(shape, dtype=np.int16)
            data[2:-2, 2:-2, 1:-1] = rng.normal(
                300, 30, size=[n - d for n, d in zip(shape, (4, 4, 2), strict=True)]
            )
            data[8:14, 10:16, 4:8] += 400
            write_volume(folder / f"{name}_{channel:04d}.nii.gz", Volume(data, affine))
    return folder
