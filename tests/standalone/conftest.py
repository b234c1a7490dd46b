"""A plan as nnU-Net writes it, read by both sides, and scans with holes and turned axes."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sgnet_nnunet.io.volume import Volume, write_volume
from sgnet_nnunet.standalone.plan import read_plan

TURNED = np.array([[0, 0, -2.5, 9], [-0.9, 0, 0, 30], [0, 1.1, 0, -5], [0, 0, 0, 1.0]])
KINDS = {
    "labels": {},
    "classes": {"labels": {"background": 0, "necrosis": 1, "oedema": 2, "tumour": 3}},
    "regions": {
        "labels": {"background": 0, "whole_tumor": [1, 2], "tumor_core": [2]},
        "regions_class_order": [1, 2],
    },
}


def write_model(folder, *, top=None, configuration=None, dataset=None):
    """Write the two files of a model, with some of their values replaced."""
    resampling = {"is_seg": False, "force_separate_z": False, "memefficient_seg_resampling": False}
    settings = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [16, 32, 32],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["PercentileTo01Normalization", "ZScoreNormalization"],
        "use_mask_for_norm": [False, False],
        "resampling_fn_data": "resample_torch_fornnunet",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_torch_fornnunet",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities": "resample_torch_fornnunet",
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
        **(configuration or {}),
    }
    statistics = {"mean": 300.0, "std": 50.0, "percentile_00_5": 100.0, "percentile_99_5": 700.0}
    plans = {
        "dataset_name": "Dataset501_Tiny",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": settings},
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": statistics, "1": statistics},
        **(top or {}),
    }
    description = {
        "channel_names": {"0": "T1ce", "1": "FLAIR"},
        "labels": {"background": 0, "whole_tumor": 1},
        "numTraining": 8,
        "file_ending": ".nii.gz",
        **(dataset or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def make_model(tmp_path):
    """Return a function that writes a model's folder and returns it."""
    return lambda **changes: write_model(tmp_path / "model", **changes)


@pytest.fixture
def make_plan(make_model):
    """Return a function that returns a plan as read here, and nnU-Net's manager of it."""

    def make(**changes):
        plan = read_plan(make_model(**changes), "3d_fullres")
        return plan, PlansManager(plan.plans)

    return make


@pytest.fixture(params=KINDS)
def kind(request):
    """Return what a kind of labels changes in `dataset.json`."""
    return KINDS[request.param]


@pytest.fixture
def turned():
    """Return an affine whose axes are turned, with thick slices."""
    return TURNED.copy()


@pytest.fixture
def make_case(tmp_path):
    """Return a function that writes a scan to the folder `images` and returns its files."""
    return lambda name, **options: write_case(tmp_path / "images", name, **options)


@pytest.fixture(scope="session")
def pool():
    """Return where channels are worked on."""
    with ThreadPoolExecutor(2) as executor:
        yield executor


def write_case(folder, name, *, shape=(24, 22, 14), affine=None, channels=2, seed=0):
    """Write a scan: a bright ball with holes in a background of zeros."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    corners = np.stack(np.meshgrid(*[np.linspace(-1.15, 1.05, n) for n in shape], indexing="ij"))
    ball = (corners**2).sum(axis=0) < 1
    files = []
    for channel in range(channels):
        data = np.where(ball, rng.normal(300, 60, shape), 0).astype(np.int16)
        data[tuple(n // 2 for n in shape)] = 900
        data[tuple(slice(n // 2 - 4, n // 2 - 2) for n in shape)] = 0
        files.append(folder / f"{name}_{channel:04d}.nii.gz")
        write_volume(files[-1], Volume(data, np.eye(4) if affine is None else affine))
    return files
