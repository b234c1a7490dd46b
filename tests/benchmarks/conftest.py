"""Data for the tests of the study."""

import pytest
from study.data import DATASET

from sgnet_nnunet.planning.planner import SGNetPlanner


@pytest.fixture
def planned(nnunet_paths, make_dataset, write_fingerprint):
    """Return the raw folder of a small data set that SGNetPlanner has planned."""
    raw = make_dataset(nnunet_paths / "nnUNet_raw", name=DATASET)
    target = nnunet_paths / "nnUNet_preprocessed" / DATASET
    write_fingerprint(target)
    plans = SGNetPlanner(501).plan_experiment()
    # By a file's ending nnU-Net tells how its images are kept; none is read.
    images = target / plans["configurations"]["3d_fullres"]["data_identifier"]
    images.mkdir()
    (images / "case0.b2nd").touch()
    return raw
