"""An untrained network in a model's folder, predicted by nnU-Net's predictor and by ours."""

import json
import logging
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from sgnet_nnunet.cli.main import main
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference.predict import (
    PredictionOptions,
    find_model_folder,
    find_operating_point,
    predict_folder,
)
from sgnet_nnunet.io.volume import Volume, write_volume
from sgnet_nnunet.operating_point.apply import apply_operating_point, foreground_probability
from sgnet_nnunet.operating_point.counts import count_default
from sgnet_nnunet.operating_point.froc import cut_cases
from sgnet_nnunet.operating_point.point import OperatingPoint
from sgnet_nnunet.operating_point.saved import read_model
from sgnet_nnunet.planning.planner import SGNetPlanner
from sgnet_nnunet.results.case import PredictedCase
from sgnet_nnunet.training.trainers import SGNetNoGateTrainer

KINDS = {
    "labels": {},
    "regions": {
        "labels": {"background": 0, "whole_tumor": [1, 2], "tumor_core": [2]},
        "regions_class_order": [1, 2],
    },
}
OPTIONS = PredictionOptions(device="cpu", step_size=1, save_probabilities=True)
MODEL = "SGNetNoGateTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_dataset, write_fingerprint):
    """Return the folder of each kind of model, two folds of it."""
    return {
        kind: write_model(tmp_path_factory.mktemp("nnunet"), options, make_dataset, write_fingerprint)
        for kind, options in KINDS.items()
    }


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
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
        np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(predicted(tmp_path)["a.nii.gz"].dataobj)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_mask_is_that_of_nnunets_probabilities_at_the_point(models, stock, kind, images, tmp_path):
    model = read_model(models[kind])
    saved = {name: np.load(stock[kind] / f"{name}.npz")["probabilities"] for name in ("a", "b")}
    middle = float(np.quantile(foreground_probability(saved["b"], model.label_manager), 0.97))
    point = OperatingPoint(threshold=middle, smallest_lesion_mm3=12)
    predict_folder(images, tmp_path, model_folder=models[kind], operating_point=point, options=OPTIONS)
    for name, probabilities in saved.items():
        mask, properties = model.plans.image_reader_writer_class().read_seg(str(tmp_path / f"{name}.nii.gz"))
        spacing = tuple(properties["spacing"])
        expected = apply_operating_point(probabilities, point, model.label_manager, spacing)
        np.testing.assert_array_equal(mask[0], expected)
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npz")["probabilities"], probabilities)
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
    point = OperatingPoint(threshold=0.5, smallest_lesion_mm3=5)
    for processes in (0, 1):
        predict_folder(
            images,
            tmp_path / str(processes),
            model_folder=model,
            operating_point=point,
            options=PredictionOptions(device="cpu", folds=("1",), step_size=1, export_processes=processes),
        )
    for name, mask in predicted(tmp_path / "0").items():
        np.testing.assert_array_equal(mask.dataobj, nib.load(tmp_path / "1" / name).dataobj)


def test_masks_that_are_there_are_kept_when_going_on(model, images, tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"as it was")
    options = PredictionOptions(device="cpu", folds=("0",), step_size=1, continue_prediction=True)
    predict_folder(images, tmp_path, model_folder=model, options=options)
    assert (tmp_path / "a.nii.gz").read_bytes() == b"as it was"
    assert (tmp_path / "b.nii.gz").is_file()


def test_damaged_image_is_named_and_what_is_done_is_kept(model, images, tmp_path):
    copies = shutil.copytree(images, tmp_path / "images")
    damaged = copies / "b_0001.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:500])
    options = PredictionOptions(device="cpu", folds=("0",), step_size=1)
    with pytest.raises(InputFileError, match=r"b_0000\.nii\.gz: this file or another channel of the case"):
        predict_folder(copies, tmp_path / "out", model_folder=model, options=options)
    assert list(predicted(tmp_path / "out")) == ["a.nii.gz"]


def write_point(path, *, model=f"Dataset501_Tiny/{MODEL}", threshold=0.4):
    point = {"threshold": threshold, "smallest_lesion_mm3": 3.0}
    path.write_text(
        json.dumps({"format": "sgnet operating point", "version": 1, "model": model, "point": point})
    )


@pytest.fixture
def tuned(model):
    path = model / "operating_point.json"
    write_point(path)
    yield path
    path.unlink()


def test_point_in_the_models_folder_is_taken_and_told(model, tuned, caplog):
    caplog.set_level(logging.INFO)
    assert find_operating_point("auto", model) == OperatingPoint(threshold=0.4, smallest_lesion_mm3=3)
    assert f"operating point of {tuned}: threshold 0.4, below 3 mm3 removed" in caplog.text
    assert find_operating_point("none", model) is None


def test_without_a_point_none_is_taken_and_told(model, caplog):
    caplog.set_level(logging.INFO)
    assert find_operating_point("auto", model) is None
    assert "no operating point" in caplog.text


def test_point_of_another_model_is_refused(model, tmp_path):
    path = tmp_path / "point.json"
    write_point(path, model="Dataset501_Tiny/UNetTrainer__nnUNetPlans__3d_fullres")
    message = r"point\.json: was tuned for Dataset501_Tiny/UNetTrainer.*, not for Dataset501_Tiny/SGNetNoGate"
    with pytest.raises(SGNetError, match=message):
        find_operating_point(str(path), model)


def test_named_point_that_is_not_there_is_refused(model, tmp_path):
    with pytest.raises(InputFileError, match=r"no_point\.json: cannot be read"):
        find_operating_point(str(tmp_path / "no_point.json"), model)


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


def test_model_is_found_by_its_data_sets_number_or_name(model, nnunet_paths, monkeypatch):
    monkeypatch.setenv("nnUNet_results", str(model.parent.parent))
    assert find_model_folder("501", MODEL) == model
    assert find_model_folder("Dataset501_Tiny", MODEL) == model
    with pytest.raises(SGNetError, match="data set 77: not exactly one has that number"):
        find_model_folder("77", MODEL)
    monkeypatch.delenv("nnUNet_results")
    with pytest.raises(SGNetError, match="nnUNet_results is not set"):
        find_model_folder("501", MODEL)


def test_command_predicts_at_the_models_point(model, tuned, images, tmp_path, capsys):
    arguments = ["-i", str(images), "-o", str(tmp_path), "-m", str(model), "-f", "0", "1", "-step_size", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["predict", *arguments])
    assert not ended.value.code
    assert "2 masks in" in capsys.readouterr().out
    assert sorted(predicted(tmp_path)) == ["a.nii.gz", "b.nii.gz"]
