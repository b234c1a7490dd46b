"""All cases measured into two tables."""

import numpy as np
import pandas as pd
import pytest

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.measurement import (
    CASE_COLUMNS,
    LESION_COLUMNS,
    describe_empty,
    evaluate,
    measure_results,
)
from sgnet_nnunet.evaluation.registry import case_metrics, registered_metrics
from sgnet_nnunet.evaluation.results import results_of_models
from sgnet_nnunet.nifti import Volume, write_volume

MODELS = ["SGNetTrainer", "BaselineUNetTrainer"]


@pytest.fixture
def tree(nnunet_paths, make_results):
    return make_results(nnunet_paths, images=False)


def results_of(**options):
    return results_of_models("501", MODELS, ["0", "1", "2"], **options)


def replace_prediction(tree, values, *, model="SGNetTrainer", case="YG_P000_YG_A000"):
    folder = tree / f"nnUNet_results/Dataset501_Tiny/{model}__nnUNetPlans__3d_fullres/fold_0/validation"
    write_volume(folder / f"{case}.nii.gz", Volume(values, np.diag([-1.0, -1.0, 2.0, 1.0])))


def test_tables_have_the_agreed_columns(tree):
    figures = measure_results(results_of())
    assert list(figures.per_case.columns) == [*CASE_COLUMNS, *(metric.name for metric in case_metrics())]
    assert list(figures.per_lesion.columns) == list(LESION_COLUMNS)
    assert figures.per_case["missing"].dtype == bool


def test_values_are_those_worked_out_by_hand(tree):
    figures = measure_results(results_of())
    perfect, shifted = (figures.per_case[figures.per_case["model"] == model] for model in MODELS)
    assert (perfect["dice"] == 1).all()
    assert (perfect["false_positives"] == 0).all()
    first = shifted.iloc[0]
    # 150 voxels shifted by one of six planes, 12 by one of two; a false positive of 8.
    assert first["dice"] == pytest.approx(2 * (125 + 6) / (162 + 170))
    assert first["reference_volume_mm3"] == 162 * 2
    assert first["false_positives"] == 1
    lesions = figures.per_lesion[
        (figures.per_lesion["model"] == "BaselineUNetTrainer") & (figures.per_lesion["case"] == first["case"])
    ]
    assert lesions["status"].tolist() == ["detected", "detected", "false positive"]
    assert lesions["volume_mm3"].tolist() == [300, 24, 16]
    assert tuple(lesions.iloc[0][["x_mm", "y_mm", "z_mm"]]) == (-5.5, -6.0, 10.0)


def test_evaluate_takes_results_or_folders_by_the_models_names(tree):
    of_results = evaluate(results_of_models("501", MODELS, ["0"]))
    validation = tree / "nnUNet_results/Dataset501_Tiny/{}__nnUNetPlans__3d_fullres/fold_0/validation"
    references = tree / "references"
    references.mkdir()
    for name in set(of_results["case"]):
        path = tree / f"nnUNet_preprocessed/Dataset501_Tiny/gt_segmentations/{name}.nii.gz"
        path.rename(references / path.name)
    labels = tree / "nnUNet_results/Dataset501_Tiny/SGNetTrainer__nnUNetPlans__3d_fullres/dataset.json"
    folders = {model: str(validation).format(model) for model in MODELS}
    of_folders = evaluate(folders, str(references), labels=labels)
    pd.testing.assert_frame_equal(of_folders.drop(columns="fold"), of_results.drop(columns="fold"))
    one = evaluate(folders[MODELS[0]], references, labels=labels)
    assert set(one["model"]) == {"validation"}
    with pytest.raises(SGNetError, match="no references"):
        evaluate(folders)


@pytest.mark.slow
def test_workers_change_nothing(tree):
    alone, side_by_side = (measure_results(results_of(), workers=workers) for workers in (1, 2))
    pd.testing.assert_frame_equal(alone.per_case, side_by_side.per_case)
    pd.testing.assert_frame_equal(alone.per_lesion, side_by_side.per_lesion)


def test_rows_come_in_the_order_of_the_results(tree):
    results = results_of()
    rows = measure_results(results).per_case[["model", "case"]].itertuples(index=False, name=None)
    assert list(rows) == [(case.model, case.name) for case in results.cases]


def test_each_region_has_a_row(nnunet_paths, make_results):
    make_results(nnunet_paths, labels={"background": 0, "whole": [1, 2], "core": [2]}, images=False)
    table = measure_results(results_of()).per_case
    assert table["label"].tolist()[:2] == ["whole", "core"]
    assert table.loc[table["label"] == "core", "empty"].eq("both").all()
    assert table.loc[table["label"] == "core", "dice"].isna().all()


def test_presets_add_their_columns(tree):
    table = measure_results(results_of(), presets=["brats2023", "brats2026"]).per_case
    names = [metric.name for metric in registered_metrics() if metric.preset]
    assert list(table.columns[-len(names) :]) == names


def test_unknown_preset_is_refused(tree):
    with pytest.raises(SGNetError, match="no preset 'brats2020'; name brats2023 or brats2026"):
        measure_results(results_of(), presets=["brats2020"])


def test_progress_counts_every_prediction(tree):
    done = []
    measure_results(results_of(), on_done=done.append)
    assert sum(done) == 12


def test_missing_prediction_is_scored_as_empty_and_said(tree):
    folder = tree / "nnUNet_results/Dataset501_Tiny/SGNetTrainer__nnUNetPlans__3d_fullres/fold_0/validation"
    (folder / "YG_P000_YG_A000.nii.gz").unlink()
    table = measure_results(results_of(allow_missing=True)).per_case
    row = table.iloc[0]
    assert (row["missing"], row["empty"], row["dice"]) == (True, "prediction", 0)
    assert row["hd95_directed_mm"] == pytest.approx(np.hypot(np.hypot(24, 22), 40))
    assert describe_empty(table) == ["SGNetTrainer: 1 of 6 predictions are missing (scored as empty)"]


def test_empty_masks_are_counted_in_words(tree):
    replace_prediction(tree, np.zeros((24, 22, 20), dtype=np.uint8))
    table = measure_results(results_of()).per_case
    (line,) = describe_empty(table)
    assert line.startswith("SGNetTrainer, whole_tumor: in 1 of 6 cases only the prediction is empty")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_bad_mask_is_named_from_any_process(tree, workers):
    replace_prediction(tree, np.full((24, 22, 20), 7, dtype=np.uint8))
    with pytest.raises(InputFileError, match=r"YG_P000_YG_A000\.nii\.gz: has the value 7"):
        measure_results(results_of(), workers=workers)


def test_no_lesion_anywhere_gives_an_empty_table_of_numbers(tree):
    empty = np.zeros((24, 22, 20), dtype=np.uint8)
    reference = tree / "nnUNet_preprocessed/Dataset501_Tiny/gt_segmentations/YG_P000_YG_A000.nii.gz"
    write_volume(reference, Volume(empty, np.diag([-1.0, -1.0, 2.0, 1.0])))
    replace_prediction(tree, empty)
    splits = tree / "nnUNet_preprocessed/Dataset501_Tiny/splits_final.json"
    splits.write_text('[{"train": [], "val": ["YG_P000_YG_A000"]}]')
    figures = measure_results(results_of_models("501", MODELS[:1], ["0"]))
    assert list(figures.per_lesion.columns) == list(LESION_COLUMNS)
    assert figures.per_lesion["volume_mm3"].dtype == float
    assert describe_empty(figures.per_case) == [
        "SGNetTrainer, whole_tumor: in 1 of 1 cases both masks are empty (left out of the means)"
    ]
