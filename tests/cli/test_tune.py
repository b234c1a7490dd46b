"""`sgnet tune` on results as nnU-Net leaves them, with a predictor that returns known probabilities."""

import json
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch

from sgnet_nnunet.cli.main import main
from sgnet_nnunet.evaluation.froc import SearchGrid
from sgnet_nnunet.files import checksum_of
from sgnet_nnunet.inference.component_rejector import Scene
from sgnet_nnunet.inference.operating_point import Provenance, combine_checksums
from sgnet_nnunet.inference.preprocessing import Prepared

MODEL = "SGNetTrainer__nnUNetPlans__3d_fullres"


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["tune", *arguments])
    return ended.value.code or 0


class SavedMasks:
    """A predictor that gives 0.9 where the mask in the fold's validation folder is set, else 0.1."""

    opened: list = []  # noqa: RUF012

    def __init__(self, folder, options):
        (self.fold,) = options.folds
        self.folder = folder
        provenance = Provenance(
            model=f"Dataset501_Tiny/{folder.name}",
            engine="sparse",
            folds=options.folds,
            weights_sha256="of one fold",
            mirroring=options.mirroring,
            precision=options.precision,
        )
        self.models = [SimpleNamespace(find_provenance=lambda: provenance)]

    @classmethod
    def open(cls, model_folders, *, options, operating_point):
        assert operating_point == "none"
        cls.opened.append(options)
        return cls(model_folders[0], options)

    def predict_cases(self, cases, use, *, on_done, with_scenes):
        for case, paths in cases.items():
            name = paths[0].name.removesuffix("_0000.nii.gz")
            use(case, name, [{"spacing": (1.0, 1.0, 1.0)}], *([self.scene(name)] if with_scenes else []))
            on_done()

    def scene(self, name):
        shape = self.mean_probabilities(name, None).shape[1:]
        known = {
            "spacing": (1.0, 1.0, 1.0),
            "shape_after_cropping_and_before_resampling": shape,
            "bbox_used_for_cropping": [(0, length) for length in shape],
        }
        image = np.random.default_rng(0).uniform(size=(1, *shape)).astype(np.float32)
        return Scene.of(Prepared(image, known), (0, 1, 2), {})

    def mean_probabilities(self, name, _):
        mask = nib.load(self.folder / f"fold_{self.fold}/validation/{name}.nii.gz")
        tumour = (0.1 + 0.8 * np.asarray(mask.dataobj).T).astype(np.float32)
        return np.stack([1 - tumour, tumour])


@pytest.fixture
def model(nnunet_paths, make_results, monkeypatch):
    """Return the folder of a model whose masks are shifted by a voxel and have a false positive each."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (nnunet_paths / name).rmdir()
    make_results(nnunet_paths, models=("BaselineUNetTrainer", "SGNetTrainer"))
    folder = nnunet_paths / "nnUNet_results/Dataset501_Tiny" / MODEL
    plans = {
        "dataset_name": "Dataset501_Tiny",
        "image_reader_writer": "NibabelIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {},
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    for fold in range(3):
        write_weights(folder / f"fold_{fold}/checkpoint_final.pth", fold)
    monkeypatch.setattr("sgnet_nnunet.evaluation.tuning.Predictor", SavedMasks)
    monkeypatch.setattr(SavedMasks, "opened", [])
    return folder


def write_weights(path, fold, **init_args):
    content = {
        "init_args": {"configuration": "3d_fullres"} | init_args,
        "trainer_name": "SGNetTrainer",
        "network_weights": {"fold": torch.tensor([fold])},
    }
    torch.save(content, path)


def files(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_point_and_picture_are_written_into_the_models_folder(model, capsys):
    assert run("-d", "501") == 0
    content = json.loads((model / "operating_point.json").read_text())
    checksums = (checksum_of(model / f"fold_{fold}/checkpoint_final.pth") for fold in range(3))
    assert content["tuned_for"] == {
        "model": f"Dataset501_Tiny/{MODEL}",
        "engine": "sparse",
        "folds": ["0", "1", "2"],
        "weights_sha256": combine_checksums(checksums),
        "mirroring": False,
        "precision": "f32",
        "step_size": 0.5,
    }
    copies = (json.loads((model / f"fold_{fold}/debug.json").read_text()) for fold in range(3))
    assert list(copies) == [{"sgnet_operating_point": content}] * 3
    assert (content["cases"], content["patients"]) == (6, 3)
    assert content["default"]["false_positives_per_case"] == 1
    assert content["point"]["min_lesion_volume_mm3"] > 16  # the volume of the false positives
    assert content["cross_validated"]["false_positives_per_case"] == 0
    assert files(model) == {"dataset.json", "plans.json", "operating_point.json", "operating_point.png"}
    shown = " ".join(capsys.readouterr().out.split())
    assert "false positives per case │ 1.000 │ 0.000 │ -1.000 [-1.000, -1.000]" in shown
    assert (
        "highest lesion F1: threshold 0.5, lesions below 20 mm3 and of a mean probability below 0.9" in shown
    )


def test_every_fold_is_predicted_with_its_own_weights_and_the_options_given(model):
    options = ["--tta", "--engine", "tiled", "-device", "cpu", "--precision", "bf16", "-np", "2"]
    assert run("-d", "501", "-f", "1", "0", *options) == 0
    assert [options.folds for options in SavedMasks.opened] == [("0",), ("1",)]
    first = replace(SavedMasks.opened[0], folds=())
    assert (first.mirroring, first.engine, first.device) == (True, "tiled", "cpu")
    assert (first.precision, first.export_threads) == ("bf16", 2)
    content = json.loads((model / "operating_point.json").read_text())
    assert (content["tuned_for"]["folds"], content["tuned_for"]["mirroring"]) == (["0", "1"], True)


@pytest.mark.slow
def test_several_threads_choose_the_same_point(model, tmp_path):
    for threads in ("1", "3"):
        assert run("-d", "501", "-np", threads, "-o", str(tmp_path / f"{threads}.json")) == 0
    assert (tmp_path / "1.json").read_text() == (tmp_path / "3.json").read_text()


def test_rejector_is_written_with_the_point_and_its_cost_is_shown(model, monkeypatch, capsys):
    grid = SearchGrid(thresholds=(0.5,), volumes_mm3=(0.0,))  # else the false positives are removed by size
    monkeypatch.setattr("sgnet_nnunet.evaluation.tuning.SearchGrid", lambda: grid)
    monkeypatch.setattr("sgnet_nnunet.evaluation.rejection.FEWEST", 2)
    monkeypatch.setattr("sgnet_nnunet.evaluation.rejection.SETTINGS", {"max_iter": 3, "min_samples_leaf": 1})
    assert run("-d", "501", "--rejector", "components", "--most-lost", "0.1") == 0
    content = json.loads((model / "operating_point.json").read_text())
    assert len(content["point"]["rejector"]["trees"]) == 3
    assert content["version"] == 5
    assert "rejector*: false positives per case" in capsys.readouterr().out


def test_too_few_lesions_leave_the_point_without_a_rejector(model, caplog):
    assert run("-d", "501", "--rejector", "components") == 0
    assert "no rejector was fitted: it needs 5 true lesions" in caplog.text
    assert "rejector" not in json.loads((model / "operating_point.json").read_text())["point"]


def test_rejector_by_gates_needs_an_engine_that_gives_their_scores(model, capsys):
    assert run("-d", "501", "--rejector", "gates") == 2
    assert "this engine does not give the gates' scores" in " ".join(capsys.readouterr().err.split())


def test_output_and_sensitivity_can_be_given(model, tmp_path):
    path = tmp_path / "new/point.json"
    assert run("-d", "501", "-f", "0", "1", "--sensitivity", "0.9", "-o", str(path)) == 0
    assert json.loads(path.read_text())["requested_sensitivity"] == 0.9
    assert files(path.parent) == {"point.json", "point.png"}
    assert files(model) == {"dataset.json", "plans.json"}


@pytest.mark.parametrize("seen", [True, False])
def test_a_fold_that_was_trained_on_a_case_it_now_validates_is_refused(model, capsys, seen):
    splits = json.loads(
        (model.parents[2] / "nnUNet_preprocessed/Dataset501_Tiny/splits_final.json").read_text()
    )
    cases = splits[1]["val" if seen else "train"]
    write_weights(model / "fold_1/checkpoint_final.pth", 1, sgnet_training_cases=cases)
    assert run("-d", "501") == (2 if seen else 0)
    assert (f"fold_1/checkpoint_final.pth: was trained on {cases[0]}" in capsys.readouterr().err) is seen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-f", "7"], "has 3 folds, no fold 7"),
        (["-f", "all"], "fold all is validated on its own training cases"),
        (["-f", "0", "1", "--sensitivity", "1"], "no operating point reaches a lesion sensitivity of 1"),
        (["-p", "otherPlans"], "there is no such model"),
        (["-o", "froc.png"], "-o froc.png: is not the name of a JSON file"),
        (["-chk", "best.pth"], "fold_0/best.pth: there is no such file; run nnUNetv2_train 501 3d_fullres 0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(model, capsys, arguments, message):
    if "--sensitivity" in arguments:
        references = model.parents[2] / "nnUNet_preprocessed/Dataset501_Tiny/gt_segmentations"
        add_a_lesion(next(references.glob("*A000.nii.gz")))
    assert run("-d", "501", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("sgnet: ")]) == 1
    assert files(model) == {"dataset.json", "plans.json"}


def test_case_without_images_is_named_before_anything_is_predicted(model, capsys, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    assert run("-d", "501") == 2
    assert "has the images [] in imagesTr of nnUNet_raw, not ['YG_" in capsys.readouterr().err
    assert not SavedMasks.opened


def test_ignore_label_is_refused(model, capsys):
    content = json.loads((model / "dataset.json").read_text())
    content["labels"]["ignore"] = 2
    (model / "dataset.json").write_text(json.dumps(content))
    assert run("-d", "501") == 2
    assert "has an ignore label" in capsys.readouterr().err


def add_a_lesion(path):
    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()
    data[20:22, 0:2, 0:2] = 1
    nib.save(nib.Nifti1Image(data, image.affine), path)
