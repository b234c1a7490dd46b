"""`sgnet tune` on a small trained model, and prediction at the operating point that it writes."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.evaluation.froc import SearchGrid
from sgnet_nnunet.evaluation.operating_point import apply_operating_point
from sgnet_nnunet.evaluation.tuning import tune, write_tuning
from sgnet_nnunet.inference.predictor import PredictionOptions, Predictor

OPTIONS = PredictionOptions(device="cpu", runtime="torch")
# Far from the default, so that the masks tell whether the point is applied.
GRID = SearchGrid(thresholds=(0.2, 0.3), volumes_mm3=(5.0, 30.0))


@pytest.fixture
def tuned(model, tmp_path, monkeypatch):
    """Tune a copy of an untrained model on the two cases of its data set, one a fold."""
    root = shutil.copytree(model.parents[2], tmp_path / "nnunet")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(root / name))
    raw, preprocessed = (root / name / model.parent.name for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    shutil.copytree(raw / "labelsTr", preprocessed / "gt_segmentations")
    splits = [{"train": ["case1"], "val": ["case0"]}, {"train": ["case0"], "val": ["case1"]}]
    (preprocessed / "splits_final.json").write_text(json.dumps(splits))
    tuning = tune(501, model=model.name, options=OPTIONS, grid=GRID)
    folder = root / "nnUNet_results" / model.parent.name / model.name
    write_tuning(folder / "operating_point.json", tuning)
    return folder, tuning, raw / "imagesTr"


@pytest.mark.slow
def test_point_is_applied_to_predictions_with_the_folds_it_was_tuned_for(tuned, tmp_path):
    folder, tuning, images = tuned
    assert tuning.provenance.folds == ("0", "1")
    predictor = Predictor.open([folder], options=OPTIONS)
    assert predictor.provenance == tuning.provenance
    assert predictor.predict_folder(images, tmp_path / "out") == 2
    for name in ("case0", "case1"):
        paths = [images / f"{name}_{channel:04d}.nii.gz" for channel in range(2)]
        probabilities, properties = predictor.probabilities(paths)
        expected = apply_operating_point(
            probabilities, tuning.point, predictor.description.labels, tuple(properties["spacing"])
        )
        mask = np.asarray(nib.load(tmp_path / f"out/{name}.nii.gz").dataobj).T
        np.testing.assert_array_equal(mask, expected)
        assert (mask > 0).sum() != (probabilities[1] > 0.5).sum()


def test_point_is_refused_with_the_reason_for_other_folds_settings_and_weights(tuned):
    folder, *_ = tuned
    for change, reason in (
        ({"folds": ("0",)}, "average of folds 0 1, this prediction uses 0"),
        ({"mirroring": True}, "without mirroring"),
        ({"engine": "tiled"}, "this prediction uses tiled"),
    ):
        options = PredictionOptions(**{"device": "cpu", "runtime": "torch", **change})
        with pytest.raises(InputFileError, match=reason):
            Predictor.open([folder], options=options)
        assert Predictor.open([folder], options=options, operating_point="none").point is None
    weights = folder / "fold_1/checkpoint_final.pth"
    checkpoint = torch.load(weights, weights_only=False)
    checkpoint["network_weights"]["head.bias"] += 1
    torch.save(checkpoint, weights)
    with pytest.raises(InputFileError, match=r"operating_point\.json: was tuned for other weights"):
        Predictor.open([folder], options=OPTIONS)
