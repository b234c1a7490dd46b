import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.ensembling.ensemble import merge_files

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.froc import read_model
from sgnet_nnunet.inference.nnunet_adapter import check_alike, predict_folder, predict_with_models
from sgnet_nnunet.inference.predictor import PredictionOptions

OPTIONS = PredictionOptions(device="cpu", engine="tiled", folds=("0",), step_size=1, save_probabilities=True)


def other_of(model, folder):
    """Return a second model: the first one's other fold as its fold 0."""
    other = shutil.copytree(model, folder)
    shutil.copy(other / "fold_1/checkpoint_final.pth", other / "fold_0")
    return other


@pytest.mark.parametrize("kind", ["labels", "regions"])
def test_masks_are_those_of_nnunets_ensemble(models, images, tmp_path, kind):
    folders = [models[kind], other_of(models[kind], tmp_path / "other")]
    for index, folder in enumerate(folders):
        predict_folder(images, tmp_path / str(index), model_folder=folder, options=OPTIONS)
    done = []
    assert (
        predict_with_models(
            images,
            tmp_path / "out",
            model_folders=folders,
            options=OPTIONS,
            on_start=done.append,
            on_done=lambda: done.append("case"),
        )
        == 2
    )
    assert done == [2, "case", "case"]
    model = read_model(folders[0])
    for name in ("a", "b"):
        merge_files(
            [str(tmp_path / f"{index}/{name}.npz") for index in range(2)],
            str(tmp_path / name),
            ".nii.gz",
            model.plans.image_reader_writer_class(),
            model.label_manager,
            save_probabilities=True,
        )
        ours, theirs = (
            np.load(folder / f"{name}.npz")["probabilities"] for folder in (tmp_path / "out", tmp_path)
        )
        np.testing.assert_array_equal(ours, theirs)
        masks = [nib.load(folder / f"{name}.nii.gz") for folder in (tmp_path / "out", tmp_path)]
        np.testing.assert_array_equal(masks[0].dataobj, masks[1].dataobj)
        assert (np.asarray(masks[0].dataobj) != nib.load(tmp_path / f"0/{name}.nii.gz").dataobj).any()


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("dataset.json", "labels", {"background": 0, "oedema": 1}, r"oedema.* for labels"),
        ("dataset.json", "channel_names", {"0": "T1"}, "for channel_names"),
        ("plans.json", "image_reader_writer", "SimpleITKIO", "says SimpleITKIO for image_reader_writer"),
    ],
)
def test_models_that_do_not_fit_together_are_refused(model, tmp_path, file, key, value, message):
    path = shutil.copytree(model, tmp_path / "other") / file
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(SGNetError, match=message):
        check_alike([model, tmp_path / "other"])


def test_all_models_are_loaded_before_anything_is_written(model, images, tmp_path):
    other = shutil.copytree(model, tmp_path / "other")
    (other / "fold_0/checkpoint_final.pth").unlink()
    with pytest.raises(InputFileError, match=r"other/fold_0/checkpoint_final\.pth: there is no such file"):
        predict_with_models(images, tmp_path / "out", model_folders=[model, other], options=OPTIONS)
    assert not (tmp_path / "out").exists()


def test_processes_are_for_one_model(model, images, tmp_path):
    with pytest.raises(SGNetError, match="-npp and -nps are for one model"):
        predict_with_models(
            images,
            tmp_path,
            model_folders=[model, model],
            options=PredictionOptions(preprocessing_processes=1),
        )
