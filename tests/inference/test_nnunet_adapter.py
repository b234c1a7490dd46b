"""What goes through nnU-Net's own code gives what nnU-Net gives, behind the same reading and options."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.inference.nnunet_adapter import NnunetProcessing, TiledEngine
from sgnet_nnunet.inference.operating_point import OperatingPoint
from sgnet_nnunet.inference.plan import read_description
from sgnet_nnunet.inference.predictor import PlanProcessing, PredictionOptions, Predictor, predict
from sgnet_nnunet.inference.trained_model import load_trained_model

TILED = PredictionOptions(device="cpu", engine="tiled", folds=("0",), step_size=1)


def with_plan(model, folder, **changes):
    """Copy a model and change its plan's configuration."""
    path = shutil.copytree(model, folder) / "plans.json"
    plans = json.loads(path.read_text())
    plans["configurations"]["3d_fullres"] |= changes
    path.write_text(json.dumps(plans))
    return folder


@pytest.mark.slow
def test_plan_that_is_not_reproduced_gives_the_files_of_nnunet(foreign, images, tmp_path):
    expected = tmp_path / "stock"
    expected.mkdir()
    predictor = nnUNetPredictor(1, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(foreign), (0,), "checkpoint_final.pth")
    predictor.predict_from_files_sequential(str(images), str(expected), save_probabilities=True)
    options = PredictionOptions(
        device="cpu", engine="tiled", folds=("0",), step_size=1, save_probabilities=True
    )
    ours = Predictor.open([foreign], options=options)
    assert isinstance(ours.models[0].processing, NnunetProcessing)
    ours.predict_folder(images, tmp_path / "ours")
    for name in ("a", "b"):
        mask = f"{name}.nii.gz"
        assert (tmp_path / "ours" / mask).read_bytes() == (expected / mask).read_bytes()
        saved, their = (
            np.load(folder / f"{name}.npz")["probabilities"] for folder in (tmp_path / "ours", expected)
        )
        np.testing.assert_allclose(saved, their, atol=1e-6)


@pytest.mark.slow
def test_operating_point_is_applied_to_nnunets_probabilities(foreign, images, tmp_path):
    predictor = Predictor.open([foreign], options=TILED)
    sizes = []
    for threshold in (0.3, 0.7):
        predictor.point = OperatingPoint(threshold=threshold)
        predictor.predict_folder(images, tmp_path / "out")
        sizes.append(np.count_nonzero(nib.load(tmp_path / "out/b.nii.gz").dataobj))
    assert sizes[0] > sizes[1] > 0


def test_images_are_read_strictly(foreign, images, tmp_path):
    copies = shutil.copytree(images, tmp_path / "images")
    damaged = copies / "b_0001.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:500])
    with pytest.raises(InputFileError, match=r"b_0001\.nii\.gz"):
        predict(copies, tmp_path / "out", model_folders=[foreign], options=TILED)
    assert (tmp_path / "out/a.nii.gz").is_file()


def test_unknown_normalisation_and_2d_plans_are_left_to_nnunet(model, tmp_path):
    options = replace(TILED, trust=True)  # the class is not nnU-Net's
    for index, changes in enumerate(
        [
            {"normalization_schemes": ["TheirNormalization"] * 2},
            {"spacing": [1.0, 1.0], "patch_size": [32, 32]},
        ]
    ):
        folder = with_plan(model, tmp_path / str(index), **changes)
        processing = Predictor.open([folder], options=options).models[0].processing
        assert isinstance(processing, NnunetProcessing)
    assert isinstance(Predictor.open([model], options=TILED).models[0].processing, PlanProcessing)


def test_cascade_is_refused(model, tmp_path):
    folder = with_plan(model, tmp_path / "cascade", previous_stage="3d_lowres")
    trained = replace(load_trained_model(model), folder=folder, description=read_description(folder))
    with pytest.raises(InputFileError, match=r"second stage of a cascade; .*nnUNetv2_predict"):
        NnunetProcessing(trained)


@pytest.mark.slow
def test_tiled_engine_is_nnunets_sliding_window_over_the_folds(model, images):
    options = PredictionOptions(device="cpu", engine="tiled", step_size=1, mirroring=True)
    opened = Predictor.open([model], options=options)
    engine = opened.models[0].engine
    assert isinstance(engine, TiledEngine)
    provenance = opened.models[0].find_provenance()
    assert (provenance.engine, provenance.step_size) == ("tiled", 1)
    predictor = nnUNetPredictor(1, use_mirroring=True, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0, 1), "checkpoint_final.pth")
    image = np.random.default_rng(0).random((2, 16, 32, 40), dtype=np.float32)
    expected = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image))
    np.testing.assert_array_equal(engine.logits(image), expected.float().numpy())
