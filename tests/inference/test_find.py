"""Which model and which operating point a prediction takes."""

import json
import logging

import pytest

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.operating_point import OperatingPoint
from sgnet_nnunet.inference.predictor import find_operating_point

MODEL = "SGNetNoGateTrainer__nnUNetPlans__3d_fullres"


def write_point(path, *, model=f"Dataset501_Tiny/{MODEL}", threshold=0.4):
    point = {"threshold": threshold, "min_lesion_volume_mm3": 3.0}
    tuned = {"model": model, "engine": "whole", "folds": ["0"], "weights_sha256": ""}
    path.write_text(
        json.dumps({"format": "sgnet operating point", "version": 2, "tuned_for": tuned, "point": point})
    )


@pytest.fixture
def tuned(model):
    path = model / "operating_point.json"
    write_point(path)
    yield path
    path.unlink()


def test_point_in_the_models_folder_is_taken_and_told(model, tuned, caplog):
    caplog.set_level(logging.INFO)
    assert find_operating_point("auto", model) == OperatingPoint(threshold=0.4, min_lesion_volume_mm3=3)
    assert f"operating point of {tuned}: threshold 0.4, lesions below 3 mm3 removed" in caplog.text
    assert find_operating_point("none", model) is None


def test_without_a_point_none_is_taken_and_told(model, caplog):
    caplog.set_level(logging.INFO)
    assert find_operating_point("auto", model) is None
    assert "no operating point" in caplog.text


def test_point_of_another_model_is_refused(model, tmp_path):
    path = tmp_path / "point.json"
    write_point(path, model="Dataset501_Tiny/BaselineUNetTrainer__nnUNetPlans__3d_fullres")
    message = r"was tuned for Dataset501_Tiny/BaselineUNetTrainer.*, not for Dataset501_Tiny/SGNetNoGate"
    with pytest.raises(SGNetError, match=message):
        find_operating_point(str(path), model)


def test_named_point_that_is_not_there_is_refused(model, tmp_path):
    with pytest.raises(InputFileError, match=r"no_point\.json: cannot be read"):
        find_operating_point(str(tmp_path / "no_point.json"), model)
