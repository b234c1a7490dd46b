"""An untrained network in a model's folder, predicted by nnU-Net's predictor and by ours."""

import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from sgnet_nnunet.cli.main import main
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.froc import count_default, cut_cases, read_model
from sgnet_nnunet.evaluation.operating_point import (
    OperatingPoint,
    apply_operating_point,
    foreground_probability,
)
from sgnet_nnunet.evaluation.results import PredictedCase
from sgnet_nnunet.inference.nnunet_adapter import predict_folder
from sgnet_nnunet.inference.predictor import PredictionOptions

KINDS = ("labels", "regions")
OPTIONS = PredictionOptions(device="cpu", engine="tiled", step_size=1, save_probabilities=True)


def predicted(folder):
    return {path.name: nib.load(path) for path in sorted(folder.glob("*.nii.gz"))}


@pytest.fixture(scope="module")
def stock(models, images, tmp_path_factory):
    """Return the folder of what nnU-Net itself predicts with each kind of model."""
    folders = {}
    for kind, model in models.items():
        folders[kind] = tmp_path_factory.mktemp("stock")
        predictor = nnUNetPredictor(1, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(model), (0, 1), "checkpoint_final.pth")
        predictor.predict_from_files_sequential(str(images), str(folders[kind]), save_probabilities=True)
    return folders


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_point_the_files_are_those_of_nnunet(models, stock, kind, images, tmp_path):
    assert predict_folder(images, tmp_path, model_folder=models[kind], options=OPTIONS) == 2
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in stock[kind].iterdir()}
    for name in ("a.nii.gz", "b.nii.gz", "plans.json", "dataset.json"):
        assert (tmp_path / name).read_bytes() == (stock[kind] / name).read_bytes()
    for name in ("a.npz", "b.npz"):
        ours, theirs = (np.load(folder / name)["probabilities"] for folder in (tmp_path, stock[kind]))
        # nnU-Net resamples with another number of threads.
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert len(np.unique(predicted(tmp_path)["a.nii.gz"].dataobj)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_mask_is_that_of_nnunets_probabilities_at_the_point(models, stock, kind, images, tmp_path):
    model = read_model(models[kind])
    saved = {name: np.load(stock[kind] / f"{name}.npz")["probabilities"] for name in ("a", "b")}
    middle = float(np.quantile(foreground_probability(saved["b"], model.label_manager), 0.97))
    point = OperatingPoint(threshold=middle, min_lesion_volume_mm3=12)
    predict_folder(images, tmp_path, model_folder=models[kind], operating_point=point, options=OPTIONS)
    for name, probabilities in saved.items():
        mask, properties = model.plans.image_reader_writer_class().read_seg(str(tmp_path / f"{name}.nii.gz"))
        spacing = tuple(properties["spacing"])
        expected = apply_operating_point(probabilities, point, model.label_manager, spacing)
        np.testing.assert_array_equal(mask[0], expected)
        saved = np.load(tmp_path / f"{name}.npz")["probabilities"]
        np.testing.assert_allclose(saved, probabilities, atol=1e-6)
        image, written = nib.load(images / f"{name}_0000.nii.gz"), nib.load(tmp_path / f"{name}.nii.gz")
        np.testing.assert_allclose(written.affine, image.affine)
        assert written.shape == image.shape
    assert mask.any()
    np.testing.assert_allclose(spacing, (1.1, 0.9, 2.5), rtol=1e-6)
    everything = apply_operating_point(
        probabilities, OperatingPoint(threshold=middle), model.label_manager, spacing
    )
    assert (everything > 0).sum() > (mask > 0).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_what_nnunet_saves_lies_on_its_reference_when_it_is_tuned(models, stock, kind):
    """Its own masks as references: every lesion is found, in turned images too, and none is false."""
    cases = [
        PredictedCase(
            model="m",
            name=name,
            patient=name,
            reference=stock[kind] / f"{name}.nii.gz",
            prediction=None,
            probabilities=stock[kind] / f"{name}.npz",
        )
        for name in ("a", "b")
    ]
    levels = cut_cases(cases, model_folder=models[kind], thresholds=(0.3, 0.7))
    default = count_default(levels)
    assert (default.lesions > 0).all()
    assert (default.found == default.lesions).all()
    assert not default.false.any()


def test_export_in_a_process_of_its_own_writes_the_same(model, images, tmp_path):
    point = OperatingPoint(threshold=0.5, min_lesion_volume_mm3=5)
    for processes in (0, 1):
        predict_folder(
            images,
            tmp_path / str(processes),
            model_folder=model,
            operating_point=point,
            options=PredictionOptions(
                device="cpu", engine="tiled", folds=("1",), step_size=1, export_processes=processes
            ),
        )
    for name, mask in predicted(tmp_path / "0").items():
        np.testing.assert_array_equal(mask.dataobj, nib.load(tmp_path / "1" / name).dataobj)


def test_masks_that_are_there_are_kept_when_going_on(model, images, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"as it was")
    options = PredictionOptions(
        device="cpu", engine="tiled", folds=("0",), step_size=1, continue_prediction=True
    )
    predict_folder(images, tmp_path, model_folder=model, options=options)
    assert (tmp_path / "a.nii.gz").read_bytes() == b"as it was"
    assert (tmp_path / "b.nii.gz").is_file()


def test_damaged_image_is_named_and_what_is_done_is_kept(model, images, tmp_path):
    copies = shutil.copytree(images, tmp_path / "images")
    damaged = copies / "b_0001.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:500])
    options = PredictionOptions(device="cpu", engine="tiled", folds=("0",), step_size=1)
    with pytest.raises(InputFileError, match=r"b_0000\.nii\.gz: this file or another channel of the case"):
        predict_folder(copies, tmp_path / "out", model_folder=model, options=options)
    assert list(predicted(tmp_path / "out")) == ["a.nii.gz"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": ("7",)}, r"fold_7/checkpoint_final\.pth: there is no such file"),
        ({"checkpoint": "checkpoint_best.pth"}, r"holds no fold_\*/checkpoint_best\.pth"),
        ({"device": "tpu"}, "-device tpu: there is none here; give cpu"),
    ],
)
def test_what_is_not_there_is_named(model, images, tmp_path, options, message):
    with pytest.raises(SGNetError, match=message):
        predict_folder(images, tmp_path / "out", model_folder=model, options=PredictionOptions(**options))
    assert not (tmp_path / "out").exists()


def test_folder_without_images_is_named(model, tmp_path):
    with pytest.raises(InputFileError, match=r"holds no file \*_0000\.nii\.gz"):
        predict_folder(tmp_path, tmp_path / "out", model_folder=model)
    assert not (tmp_path / "out").exists()


def test_command_predicts_all_cases(model, images, tmp_path, capsys):
    arguments = ["-i", str(images), "-o", str(tmp_path), "-m", str(model), "-f", "0", "1"]
    arguments += ["--engine", "tiled", "-step_size", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["predict", *arguments])
    assert not ended.value.code
    assert "2 masks in" in capsys.readouterr().out
    assert sorted(predicted(tmp_path)) == ["a.nii.gz", "b.nii.gz"]


def test_parts_share_the_cases_out(model, images, tmp_path):
    started = []
    for part, name in enumerate(("a.nii.gz", "b.nii.gz")):
        options = PredictionOptions(
            device="cpu", engine="tiled", folds=("0",), step_size=1, num_parts=2, part_id=part
        )
        out = tmp_path / str(part)
        assert predict_folder(images, out, model_folder=model, options=options, on_start=started.append) == 1
        assert list(predicted(out)) == [name]
    assert started == [1, 1]


def test_part_that_is_not_there_is_refused():
    with pytest.raises(SGNetError, match="--part-id 2: of 2 parts there are 0 to 1"):
        PredictionOptions(num_parts=2, part_id=2)


def test_damaged_image_is_named_by_a_process_too(model, images, tmp_path):
    copies = shutil.copytree(images, tmp_path / "images")
    (copies / "a_0000.nii.gz").write_bytes(b"no image")
    options = PredictionOptions(device="cpu", engine="tiled", folds=("0",), preprocessing_processes=1)
    with pytest.raises(InputFileError, match=r"a_0000\.nii\.gz: this file or another channel of the case"):
        predict_folder(copies, tmp_path / "out", model_folder=model, options=options)


def test_mask_that_cannot_be_written_is_named(model, images, tmp_path):
    (tmp_path / "a.nii.gz").mkdir()
    options = PredictionOptions(device="cpu", engine="tiled", folds=("0",), step_size=1)
    with pytest.raises(InputFileError, match=r"a\.nii\.gz: cannot be written"):
        predict_folder(images, tmp_path, model_folder=model, options=options)


def test_nothing_is_printed_and_each_case_is_told(model, images, tmp_path, capsys):
    told = []
    options = PredictionOptions(device="cpu", engine="tiled", folds=("0",), step_size=1)
    predict_folder(
        images,
        tmp_path,
        model_folder=model,
        options=options,
        on_start=told.append,
        on_done=lambda: told.append("case"),
    )
    assert told == [2, "case", "case"]
    assert capsys.readouterr() == ("", "")
