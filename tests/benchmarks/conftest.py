"""A small planned data set for the tests of the study and of the training benchmark."""

import json
import shutil

import pytest
from study import DATASET

from sgnet_nnunet.planning.planner import SGNetPlanner


@pytest.fixture
def planned(nnunet_paths, make_dataset, write_fingerprint):
    """Return nnU-Net's root with a raw data set that SGNetPlanner has planned, with a small patch."""
    raw = make_dataset(nnunet_paths / "nnUNet_raw", name=DATASET, cases=2)
    for kind in ("images", "labels"):
        shutil.copytree(raw / f"{kind}Tr", raw / f"{kind}Ts")
    target = nnunet_paths / "nnUNet_preprocessed" / DATASET
    write_fingerprint(target, cases=2)
    plans = SGNetPlanner(501).plan_experiment()
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = [16, 32, 32]
    configuration["batch_size"] = 2
    (target / "nnUNetPlans.json").write_text(json.dumps(plans))
    shutil.copy(raw / "dataset.json", target)
    # nnU-Net tells by the ending of a file how images are stored; none is read.
    images = target / configuration["data_identifier"]
    images.mkdir()
    (images / "case0.b2nd").touch()
    return nnunet_paths
