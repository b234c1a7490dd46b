"""`sgnet tune` on a small trained model, and prediction at the operating point that it writes."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.model_sharing import model_export, model_import
from nnunetv2.utilities import file_path_utilities

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.evaluation.froc import SearchGrid
from sgnet_nnunet.evaluation.tuning import tune, write_tuning
from sgnet_nnunet.inference.operating_point import apply_operating_point
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
    assert predictor.models[0].find_provenance() == tuning.provenance
    assert predictor.predict_folder(images, tmp_path / "out") == 2
    cases = {name: sorted(images.glob(f"{name}_*")) for name in ("case0", "case1")}
    used = []
    predictor.predict_cases(cases, lambda *passed: used.append(passed))
    for name, logits, properties in used:
        probabilities = predictor.mean_probabilities(logits, properties)
        expected = apply_operating_point(
            probabilities, tuning.point, predictor.description.labels, tuple(properties[0]["spacing"])
        )
        mask = np.asarray(nib.load(tmp_path / f"out/{name}.nii.gz").dataobj).T
        np.testing.assert_array_equal(mask, expected)
        assert (mask > 0).sum() != (probabilities[1] > 0.5).sum()


def test_point_is_refused_with_the_reason_for_other_folds_settings_and_weights(tuned):
    folder, *_ = tuned
    for change, reason in (
        ({"folds": ("0",)}, "tuned with folds 0 1, this prediction has 0; predict as it was tuned"),
        ({"mirroring": True}, "tuned with mirroring False"),
        ({"engine": "tiled"}, "tuned with engine whole or sparse, this prediction has tiled"),
    ):
        options = PredictionOptions(**{"device": "cpu", "runtime": "torch", **change})
        with pytest.raises(InputFileError, match=reason):
            Predictor.open([folder], options=options)
        assert Predictor.open([folder], options=options, operating_point="none").point is None
    weights = folder / "fold_1/checkpoint_final.pth"
    checkpoint = torch.load(weights, weights_only=False)
    checkpoint["network_weights"]["head.bias"] += 1
    torch.save(checkpoint, weights)
    with pytest.raises(InputFileError, match=r"operating_point\.json: was tuned with weights_sha256"):
        Predictor.open([folder], options=OPTIONS)


@pytest.mark.slow
def test_image_that_is_damaged_is_refused_in_tuning(tuned):
    folder, _, images = tuned
    path = images / "case1_0001.nii.gz"
    image = nib.load(path)
    data = np.asarray(image.dataobj, dtype=np.float32)
    for value, problem in ((np.nan, "NaN or infinite"), (0, "is blank")):
        data[:] = value
        nib.save(nib.Nifti1Image(data, image.affine), path)
        with pytest.raises(InputFileError, match=rf"case1_0001\.nii\.gz: .*{problem}"):
            tune(501, model=folder.name, options=OPTIONS, grid=GRID)


# --- nnU-Net's zip ------------------------------------------------------------------------------------------


def moved_by_zip(folder, elsewhere, monkeypatch):
    """Move a model to another machine's results by nnU-Net's zip; return its folder there."""
    (folder / "dataset_fingerprint.json").write_text("{}")
    for fold in folder.glob("fold_*"):
        (fold / "progress.png").touch()
        (fold / "validation").mkdir()
        (fold / "validation/summary.json").write_text("{}")
    results = folder.parents[1]
    for module in (model_export, model_import, file_path_utilities):
        monkeypatch.setattr(module, "nnUNet_results", str(results))
    trainer, plans, configuration = folder.name.split("__")
    model_export.export_pretrained_model(
        folder.parent.name, str(elsewhere / "model.zip"), (configuration,), trainer, plans, folds=(0, 1)
    )
    monkeypatch.setattr(model_import, "nnUNet_results", str(elsewhere))
    model_import.install_model_from_zip_file(str(elsewhere / "model.zip"))
    return elsewhere / folder.relative_to(results)


@pytest.mark.slow
def test_point_of_a_model_that_nnunets_zip_has_moved_is_applied_in_plain_sight(
    tuned, tmp_path, monkeypatch, caplog
):
    folder, tuning, _ = tuned
    (tmp_path / "elsewhere").mkdir()
    (folder / "fold_0/debug.json").write_text(json.dumps({"device": "cpu"}))
    write_tuning(folder / "operating_point.json", tuning)
    assert json.loads((folder / "fold_0/debug.json").read_text())["device"] == "cpu"
    there = moved_by_zip(folder, tmp_path / "elsewhere", monkeypatch)
    assert not (there / "operating_point.json").exists()
    assert Predictor.open([there], options=OPTIONS).point == tuning.point
    (record,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert f"nnU-Net's zip leaves out {there / 'operating_point.json'}" in record.getMessage()
    assert Predictor.open([there], options=OPTIONS, operating_point="none").point is None
    with pytest.raises(InputFileError, match=r"debug\.json: was tuned with folds 0 1, this prediction has 1"):
        Predictor.open([there], options=replace(OPTIONS, folds=("1",)))
    Predictor.open([there, there], options=OPTIONS)
    assert f"those of {there.name}, {there.name} are not used" in caplog.text


@pytest.mark.slow
def test_point_that_is_given_elsewhere_is_no_point_of_the_model(tuned, tmp_path):
    folder, tuning, _ = tuned
    before = (folder / "fold_0/debug.json").read_text()
    write_tuning(folder / "other.json", tuning)
    (tmp_path / "out").mkdir()
    write_tuning(tmp_path / "out/operating_point.json", tuning)
    assert (folder / "fold_0/debug.json").read_text() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["operating_point.json"]
