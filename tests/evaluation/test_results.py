"""Predictions that are found in folders and in nnU-Net's results."""

import json
import shutil

import numpy as np
import pytest

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.results import FOREGROUND, results_of_folders, results_of_models
from sgnet_nnunet.nifti import Volume, write_volume


@pytest.fixture
def folders(tmp_path):
    """Two folders with masks of the cases a and b."""
    for folder in ("predicted", "reference"):
        (tmp_path / folder).mkdir()
        for name in ("a", "b"):
            save(tmp_path / folder / f"{name}.nii.gz")
    return tmp_path / "predicted", tmp_path / "reference"


def missing(results):
    return [case.name for case in results.cases if case.prediction is None]


def save(path):
    write_volume(path, Volume(np.ones((2, 2, 2), dtype=np.uint8), np.eye(4)))


def test_masks_are_paired_by_name(folders):
    results = results_of_folders(*folders)
    assert [(case.model, case.name, case.fold) for case in results.cases] == [
        ("predicted", "a", ""),
        ("predicted", "b", ""),
    ]
    assert results.cases[1].prediction == folders[0] / "b.nii.gz"
    assert results.cases[1].reference == folders[1] / "b.nii.gz"
    assert results.dataset == "reference"


def test_compressed_and_plain_files_are_of_one_case(folders):
    (folders[0] / "a.nii.gz").unlink()
    save(folders[0] / "a.nii")
    assert results_of_folders(*folders).cases[0].prediction == folders[0] / "a.nii"


def test_everything_above_zero_is_foreground_without_a_dataset_json(folders):
    results = results_of_folders(*folders)
    assert results.targets == FOREGROUND.targets
    assert results.targets[0].name == "foreground"


@pytest.mark.parametrize("where", ["reference", ".", "predicted"])
def test_dataset_json_beside_the_masks_is_found(folders, where):
    path = folders[0].parent / where / "dataset.json"
    path.write_text(json.dumps({"labels": {"background": 0, "core": 2}}))
    results = results_of_folders(*folders)
    assert [(target.name, target.values) for target in results.targets] == [("core", (2,))]


def test_given_labels_come_first(folders, tmp_path):
    (folders[1] / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "core": 2}}))
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"labels": {"background": 0, "whole": [1, 2]}}))
    assert results_of_folders(*folders, labels=other).targets[0].name == "whole"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"labels": {"background": 0}}', '{"labels": {"a": "b"}}']
)
def test_dataset_json_that_says_nothing_is_refused(folders, tmp_path, content):
    path = tmp_path / "dataset.json"
    path.write_text(content)
    with pytest.raises(InputFileError, match=r"dataset\.json"):
        results_of_folders(*folders, labels=path)


def test_extra_prediction_is_left_out_with_a_warning(folders, caplog):
    save(folders[0] / "c.nii.gz")
    assert len(results_of_folders(*folders).cases) == 2
    assert "c.nii.gz: has no reference" in caplog.text


def test_missing_prediction_is_named_or_allowed(folders):
    (folders[0] / "b.nii.gz").unlink()
    with pytest.raises(
        InputFileError, match=r"b\.nii\.gz: there is no such prediction \(1 of 2 are missing\)"
    ):
        results_of_folders(*folders)
    assert missing(results_of_folders(*folders, allow_missing=True)) == ["b"]


def test_folders_without_a_common_case_are_refused_in_any_case(folders):
    for name in ("a", "b"):
        (folders[0] / f"{name}.nii.gz").rename(folders[0] / f"{name}_seg.nii.gz")
    with pytest.raises(InputFileError, match="same names"):
        results_of_folders(*folders, allow_missing=True)


@pytest.mark.parametrize("empty", [0, 1])
def test_empty_or_absent_folder_is_refused(folders, tmp_path, empty):
    chosen = list(folders)
    chosen[empty] = tmp_path / "nothing"
    with pytest.raises(InputFileError, match="no such folder"):
        results_of_folders(*chosen)
    chosen[empty].mkdir()
    with pytest.raises(InputFileError, match="holds no mask"):
        results_of_folders(*chosen)


@pytest.mark.parametrize("folder", [0, 1])
def test_two_files_of_one_case_are_refused(folders, folder):
    save(folders[folder] / "a.nii")
    with pytest.raises(InputFileError, match=r"a\.nii(\.gz)? is a file of the same case; keep one"):
        results_of_folders(*folders)


def test_hidden_files_are_passed_over(folders):
    save(folders[0] / ".partial-z.nii.gz")
    save(folders[1] / "._a.nii.gz")
    assert len(results_of_folders(*folders).cases) == 2


def test_images_beside_nnunets_labels_are_found(folders):
    labels = folders[1].rename(folders[1].parent / "labelsTr")
    images = labels.parent / "imagesTr"
    images.mkdir()
    for channel in range(2):
        save(images / f"a_{channel:04d}.nii.gz")
    results = results_of_folders(folders[0], labels)
    assert [path.name for path in results.cases[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert results.cases[1].images == ()


MODELS = ["SGNetTrainer", "BaselineUNetTrainer"]


@pytest.fixture
def tree(nnunet_paths, make_results):
    return make_results(nnunet_paths, probabilities=True)


def folder_of(tree, model="SGNetTrainer__nnUNetPlans__3d_fullres"):
    return tree / "nnUNet_results/Dataset501_Tiny" / model


def test_every_model_answers_the_same_cases_in_order(tree):
    results = results_of_models("501", MODELS, ["0", "1", "2"])
    assert [model.name for model in results.models] == MODELS
    names = [case.name for case in results.cases if case.model == "SGNetTrainer"]
    assert names == sorted(names)
    assert names == [case.name for case in results.cases if case.model == "BaselineUNetTrainer"]
    assert len(names) == 6
    assert [case.fold for case in results.cases[:6]] == ["0", "1", "2", "0", "1", "2"]


def test_a_case_has_its_files_and_its_patient(tree):
    case = results_of_models("501", MODELS, ["1"]).cases[0]
    assert case.name == "YG_P000_YG_A001"
    assert case.patient == "YG_P000"
    assert case.prediction == folder_of(tree) / "fold_1/validation/YG_P000_YG_A001.nii.gz"
    assert case.probabilities == folder_of(tree) / "fold_1/validation/YG_P000_YG_A001.npz"
    assert case.reference.parent.name == "gt_segmentations"
    assert [path.name[-11:] for path in case.images] == ["0000.nii.gz", "0001.nii.gz"]


def test_data_set_may_be_named_and_raw_images_may_be_absent(tree, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    results = results_of_models("Dataset501_Tiny", MODELS, ["0"])
    assert results.dataset == "Dataset501_Tiny"
    assert results.cases[0].images == ()


def test_labels_are_those_of_the_model(nnunet_paths, make_results):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    make_results(nnunet_paths, labels=labels)
    results = results_of_models("501", MODELS, ["0"])
    assert {target.name: target.values for target in results.targets} == {"whole": (1, 2), "core": (2,)}
    assert results.known_values == {0, 1, 2, 3}
    assert results.ignored_value == 3


def test_fold_all_has_every_case_and_a_warning(tree, caplog):
    (folder_of(tree) / "fold_0").rename(folder_of(tree) / "fold_all")
    for fold in ("fold_1", "fold_2"):
        shutil.copytree(folder_of(tree) / fold, folder_of(tree) / "fold_all", dirs_exist_ok=True)
    assert len(results_of_models("501", MODELS[:1], ["all"]).cases) == 6
    assert "optimistically biased" in caplog.text


def test_any_trainer_and_plans_are_found_by_name(nnunet_paths, make_results):
    names = ("nnUNetTrainer__nnUNetResEncUNetMPlans", "nnUNetTrainer__nnUNetPlans__2d")
    make_results(nnunet_paths, models=names)
    results = results_of_models("501", names, ["0"])
    assert [model.folder.name for model in results.models] == [
        "nnUNetTrainer__nnUNetResEncUNetMPlans__3d_fullres",
        "nnUNetTrainer__nnUNetPlans__2d",
    ]


def test_missing_fold_is_named_with_the_training(tree):
    shutil.rmtree(folder_of(tree) / "fold_2")
    with pytest.raises(
        SGNetError,
        match=r"fold_2: there is no such fold; run nnUNetv2_train 501 3d_fullres 2 -tr SGNetTrainer, or",
    ):
        results_of_models("501", MODELS, ["0", "1", "2"])


def test_fold_without_final_weights_is_to_be_trained(tree):
    shutil.rmtree(folder_of(tree) / "fold_2/validation")
    with pytest.raises(SGNetError, match="training has not ended"):
        results_of_models("501", MODELS, ["2"])


def test_missing_prediction_is_named_with_the_validation(tree):
    (folder_of(tree) / "fold_2/validation/YG_P001_YG_A002.nii.gz").unlink()
    with pytest.raises(
        SGNetError,
        match=r"YG_P001_YG_A002\.nii\.gz: there is no such prediction; run .* -tr SGNetTrainer --val",
    ):
        results_of_models("501", MODELS, ["0", "1", "2"])


def test_missing_ones_may_be_allowed(tree):
    shutil.rmtree(folder_of(tree) / "fold_2")
    results = results_of_models("501", MODELS, ["0", "1", "2"], allow_missing=True)
    assert missing(results) == ["YG_P001_YG_A002", "YG_P002_YG_A005"]
    assert len(results.cases) == 12


@pytest.mark.parametrize("allow_missing", [False, True])
def test_missing_model_is_named_beside_those_there_are(tree, allow_missing):
    with pytest.raises(
        SGNetError,
        match=r"BaselineResUNetTrainer.* no such model \(trained: BaselineUNetTrainer__.*SGNetTrainer__",
    ):
        results_of_models("501", ["BaselineResUNetTrainer"], ["0"], allow_missing=allow_missing)


@pytest.mark.parametrize(
    ("dataset", "models", "folds", "message"),
    [
        ("7", MODELS, ["0"], "no data set Dataset007_"),
        ("brains", MODELS, ["0"], "neither a number nor a name"),
        ("Dataset009_None", MODELS, ["0"], "no such folder"),
        ("501", MODELS, ["3"], "has 3 folds, no fold 3"),
        ("501", MODELS, ["one"], "not a number"),
        ("501", MODELS, ["0", "all"], "all by itself"),
        ("501", MODELS, [], "no fold is given"),
        ("501", [], ["0"], "no model is given"),
        ("501", ["A__B__C__D"], ["0"], "expected TRAINER"),
        ("501", ["SGNetTrainer", "SGNetTrainer__nnUNetPlans"], ["0"], "give it once"),
    ],
)
def test_what_was_asked_for_wrongly_is_said_in_one_line(tree, dataset, models, folds, message):
    with pytest.raises(SGNetError, match=message) as raised:
        results_of_models(dataset, models, folds)
    assert "\n" not in str(raised.value)


def test_two_data_sets_of_one_number_are_refused(tree):
    (tree / "nnUNet_raw/Dataset501_Other").mkdir()
    with pytest.raises(SGNetError, match="Dataset501_Other and Dataset501_Tiny"):
        results_of_models("501", MODELS, ["0"])


@pytest.mark.parametrize("variable", ["nnUNet_results", "nnUNet_preprocessed"])
def test_unset_variable_is_named_with_the_command(tree, monkeypatch, variable):
    monkeypatch.delenv(variable)
    with pytest.raises(SGNetError, match=f"run: export {variable}="):
        results_of_models("501", MODELS, ["0"])


@pytest.mark.parametrize("content", [None, "not json", "{}", "[1]"])
def test_splits_that_cannot_be_used_are_refused(tree, content):
    splits = tree / "nnUNet_preprocessed/Dataset501_Tiny/splits_final.json"
    splits.unlink()
    if content is not None:
        splits.write_text(content)
    with pytest.raises(SGNetError, match=r"splits_final\.json: "):
        results_of_models("501", MODELS, ["0"])


def test_folds_that_share_a_case_are_refused(tree):
    splits = tree / "nnUNet_preprocessed/Dataset501_Tiny/splits_final.json"
    splits.write_text(json.dumps([{"train": [], "val": ["YG_P000_YG_A000"]}] * 2))
    with pytest.raises(SGNetError, match="folds 0 and 1 both validate on YG_P000_YG_A000"):
        results_of_models("501", MODELS, ["0", "1"])


@pytest.mark.parametrize("raw_is_there", [True, False])
def test_fold_all_is_of_the_cases_that_are_still_in_the_data_set(tree, raw_is_there):
    labels = tree / "nnUNet_raw/Dataset501_Tiny/labelsTr"
    if raw_is_there:
        (labels / "YG_P000_YG_A000.nii.gz").unlink()
    else:
        shutil.rmtree(labels)
    results = results_of_models("501", MODELS[:1], ["all"], allow_missing=True)
    assert len(results.cases) == (5 if raw_is_there else 6)


def test_reference_that_is_gone_is_named(tree):
    (tree / "nnUNet_preprocessed/Dataset501_Tiny/gt_segmentations/YG_P000_YG_A000.nii.gz").unlink()
    with pytest.raises(SGNetError, match=r"YG_P000_YG_A000\.nii\.gz: there is no such reference"):
        results_of_models("501", MODELS, ["0"], allow_missing=True)


def test_models_of_different_labels_are_refused(tree):
    path = folder_of(tree, "BaselineUNetTrainer__nnUNetPlans__3d_fullres") / "dataset.json"
    path.write_text(json.dumps({"labels": {"background": 0, "core": 1}}))
    with pytest.raises(SGNetError, match="its labels are not those of SGNetTrainer"):
        results_of_models("501", MODELS, ["0"])


def test_two_predictions_of_one_case_are_refused(tree):
    path = folder_of(tree) / "fold_0/validation/YG_P000_YG_A000.nii"
    path.write_bytes(b"")
    with pytest.raises(SGNetError, match="is a file of the same case; keep one of the two"):
        results_of_models("501", MODELS, ["0"])
