import json
import logging
from dataclasses import asdict, replace

import numpy as np
import pytest

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference.operating_point import (
    Calibration,
    OperatingPoint,
    OperatingPointRecord,
    Provenance,
    apply_operating_point,
    combine_checksums,
    find_operating_point,
    foreground_probability,
    name_of_model,
    read_operating_point,
    warn_of_unused_points,
)

ISOTROPIC = (1.0, 1.0, 1.0)


def softmax(logits):
    exp = np.exp(logits - logits.max(axis=0))
    return (exp / exp.sum(axis=0)).astype(np.float32)


def random_probabilities(heads, *, regions, seed=0):
    logits = np.random.default_rng(seed).normal(scale=2, size=(heads, 9, 10, 11))
    return (1 / (1 + np.exp(-logits))).astype(np.float32) if regions else softmax(logits)


def one_label(tumour):
    return np.stack([1 - tumour, tumour]).astype(np.float32)


@pytest.mark.parametrize(("kind", "heads"), [("one label", 2), ("regions", 2)])
def test_the_default_point_gives_nnunets_own_segmentation(label_managers, kind, heads):
    manager = label_managers[kind]
    probabilities = random_probabilities(heads, regions=kind == "regions")
    expected = manager.convert_probabilities_to_segmentation(probabilities)
    got = apply_operating_point(probabilities, OperatingPoint(threshold=0.5), manager, ISOTROPIC)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, expected)


def test_foreground_is_above_the_threshold_and_keeps_its_most_probable_class(label_managers):
    # Voxels: background likeliest but foreground above 0.3; core beats oedema; foreground of 0.25 only.
    probabilities = np.array([[0.6, 0.1, 0.75], [0.1, 0.2, 0.2], [0.25, 0.6, 0.03], [0.05, 0.1, 0.02]])
    got = apply_operating_point(
        probabilities.reshape(4, 1, 1, 3),
        OperatingPoint(threshold=0.3),
        label_managers["three labels"],
        ISOTROPIC,
    )
    assert got.ravel().tolist() == [2, 2, 0]


def test_each_region_is_cut_at_the_threshold_in_nnunets_order(label_managers):
    # whole only; both; core alone, without the whole around it; neither.
    probabilities = np.array([[0.4, 0.9, 0.1, 0.2], [0.2, 0.35, 0.4, 0.2]]).reshape(2, 1, 1, 4)
    got = apply_operating_point(
        probabilities, OperatingPoint(threshold=0.3), label_managers["regions"], ISOTROPIC
    )
    assert got.ravel().tolist() == [1, 2, 2, 0]


def test_lesions_are_removed_whole_by_their_volume_in_mm3(label_managers):
    tumour = np.zeros((3, 6, 6))
    tumour[0, 0, 0] = tumour[1, 1, 1] = tumour[2, 2, 2] = 0.9  # three voxels by their corners: one lesion
    tumour[0, 5, 3:5] = 0.9  # two voxels
    spacing = (5.0, 0.5, 0.5)  # 1.25 mm3 a voxel
    manager = label_managers["one label"]
    for smallest, voxels in [(0, 5), (2.5, 5), (2.6, 3), (3.75, 3), (3.8, 0)]:
        point = OperatingPoint(threshold=0.5, min_lesion_volume_mm3=smallest)
        assert apply_operating_point(one_label(tumour), point, manager, spacing).sum() == voxels


def test_small_lesion_is_removed_only_if_the_model_is_unsure_of_it(label_managers):
    tumour = np.zeros((3, 6, 6))
    tumour[0, 0, 0:2] = 0.6, 0.8  # small, a mean of 0.7
    tumour[2, 3, 0:2] = 0.9  # small
    tumour[0, 3:6, 3:6] = 0.6  # large
    manager = label_managers["one label"]
    for least, voxels in [(1.0, 9), (0.95, 9), (0.8, 11), (0.71, 11), (0.69, 13), (0.5, 13)]:
        point = OperatingPoint(threshold=0.5, min_lesion_volume_mm3=5, min_mean_probability=least)
        assert apply_operating_point(one_label(tumour), point, manager, ISOTROPIC).sum() == voxels


def test_confidence_rises_with_the_mean_probability_within_0_and_1():
    calibration = Calibration(slope=2.0, intercept=-1.0)
    confidence = calibration.confidence(np.array([0.0, 0.3, 0.5, 0.9, 1.0]))
    assert (np.diff(confidence) > 0).all()
    assert 0 <= confidence[0] < confidence[-1] <= 1
    assert confidence[2] == pytest.approx(1 / (1 + np.exp(1)))
    with pytest.raises(ValueError, match="slope must be at least 0"):
        Calibration(slope=-1.0, intercept=0.0)


@pytest.mark.parametrize("probability", [0.0, -0.5, 1.5, float("nan")])
def test_minimum_mean_probability_that_is_none_is_refused(probability):
    with pytest.raises(ValueError, match="min_mean_probability must be above 0, up to 1"):
        OperatingPoint(threshold=0.5, min_mean_probability=probability)


def test_lesion_of_two_classes_is_one_lesion(label_managers):
    probabilities = np.zeros((4, 1, 1, 4), dtype=np.float32)
    probabilities[0] = 1
    probabilities[:, 0, 0, 1], probabilities[:, 0, 0, 2] = (0, 1, 0, 0), (0, 0, 1, 0)
    point = OperatingPoint(threshold=0.5, min_lesion_volume_mm3=2)
    got = apply_operating_point(probabilities, point, label_managers["three labels"], ISOTROPIC)
    assert got.ravel().tolist() == [0, 1, 2, 0]


def test_empty_prediction_stays_empty(label_managers):
    got = apply_operating_point(
        one_label(np.zeros((3, 3, 3))), OperatingPoint(threshold=0.02), label_managers["one label"], ISOTROPIC
    )
    assert not got.any()


@pytest.mark.parametrize(("kind", "heads"), [("one label", 2), ("three labels", 4), ("regions", 2)])
def test_a_higher_threshold_never_adds_foreground(label_managers, kind, heads):
    manager = label_managers[kind]
    probabilities = random_probabilities(heads, regions=kind == "regions", seed=3)
    foreground = foreground_probability(probabilities, manager)
    previous = np.ones(foreground.shape, dtype=bool)
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        mask = (
            apply_operating_point(probabilities, OperatingPoint(threshold=threshold), manager, ISOTROPIC) > 0
        )
        np.testing.assert_array_equal(mask, foreground > threshold)
        assert not (mask & ~previous).any()
        previous = mask


@pytest.mark.parametrize(
    ("threshold", "volume", "message"),
    [
        (0.0, 0.0, "threshold must be between 0 and 1"),
        (1.0, 0.0, "threshold must be"),
        (float("nan"), 0.0, "threshold must be"),
        (0.5, -1.0, "min_lesion_volume_mm3 must be"),
        (0.5, float("inf"), "min_lesion_volume_mm3 must be"),
    ],
)
def test_impossible_points_are_refused(threshold, volume, message):
    with pytest.raises(ValueError, match=message):
        OperatingPoint(threshold=threshold, min_lesion_volume_mm3=volume)


MODEL = "Dataset501_Tiny/SGNetTrainer__nnUNetPlans__3d_fullres"
TUNED = Provenance(model=MODEL, engine="sparse", folds=("0", "1"), weights_sha256="abc")


@pytest.fixture
def model_folder(tmp_path):
    folder = tmp_path / MODEL
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps({"dataset_name": "Dataset501_Tiny"}))
    return folder


def write_point(path, **changes):
    content = {
        "format": "sgnet operating point",
        "version": 3,
        "tuned_for": asdict(TUNED),
        "point": {"threshold": 0.4, "min_lesion_volume_mm3": 3.0},
        **changes,
    }
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def tuned(model_folder):
    return write_point(model_folder / "operating_point.json")


def test_point_and_what_it_was_tuned_for_are_read(tuned):
    point = OperatingPoint(threshold=0.4, min_lesion_volume_mm3=3)
    assert read_operating_point(tuned) == OperatingPointRecord(point=point, tuned_for=TUNED)


@pytest.mark.parametrize("engine", ["sparse", "whole"])
def test_point_is_applied_to_what_it_was_tuned_for(model_folder, tuned, caplog, engine):
    caplog.set_level(logging.INFO)
    provenance = replace(TUNED, engine=engine, folds=("1", "0"))
    point = find_operating_point("auto", model_folder, provenance=lambda: provenance)
    assert point == OperatingPoint(threshold=0.4, min_lesion_volume_mm3=3)
    assert f"{tuned}: {point}" in caplog.text
    assert "applied to the folds' average" in caplog.text
    assert find_operating_point(str(tuned), model_folder, provenance=lambda: TUNED) == point
    assert find_operating_point("none", model_folder, provenance=lambda: TUNED) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "Dataset501_Tiny/Other"}, f"model {MODEL}, this prediction has Dataset501_Tiny/Other"),
        ({"folds": ("0",)}, "folds 0 1, this prediction has 0"),
        ({"folds": ("0", "1", "2")}, "this prediction has 0 1 2"),
        ({"weights_sha256": "def"}, "weights_sha256 abc, this prediction has def"),
        ({"mirroring": True}, "mirroring False, this prediction has True"),
        ({"engine": "tiled"}, "engine whole or sparse, this prediction has tiled"),
        ({"precision": "bf16"}, "precision f32, this prediction has bf16"),
    ],
)
def test_point_is_refused_with_the_reason_for_anything_else(model_folder, tuned, change, reason):
    record = read_operating_point(tuned)
    assert record.why_not(TUNED) == ""
    with pytest.raises(InputFileError, match=rf"operating_point\.json: .*{reason}.*run sgnet tune again"):
        find_operating_point("auto", model_folder, provenance=lambda: replace(TUNED, **change))


def test_step_of_the_sliding_window_matters_to_the_tiled_engine_alone():
    point = OperatingPoint(threshold=0.4)
    for engine, reason in (
        ("tiled", "was tuned with step_size 0.5, this prediction has 0.75"),
        ("whole", ""),
        ("sparse", ""),
    ):
        tuned = replace(TUNED, engine=engine)
        record = OperatingPointRecord(point=point, tuned_for=tuned)
        assert record.why_not(replace(tuned, step_size=0.75)) == reason


def test_point_of_version_2_is_that_of_the_defaults_of_tune(model_folder):
    tuned_for = {
        name: value for name, value in asdict(TUNED).items() if name not in {"precision", "step_size"}
    }
    path = write_point(model_folder / "operating_point.json", version=2, tuned_for=tuned_for)
    assert read_operating_point(path).tuned_for == TUNED
    reason = read_operating_point(path).why_not(replace(TUNED, precision="bf16"))
    assert reason == "was tuned with precision f32, this prediction has bf16"


def test_copy_in_a_fold_takes_the_place_of_the_file_and_says_so(model_folder, tuned, caplog):
    content = json.loads(tuned.read_text())
    for fold, others in (("0", {}), ("1", {"sgnet_operating_point": content})):
        (model_folder / f"fold_{fold}").mkdir()
        (model_folder / f"fold_{fold}/debug.json").write_text(json.dumps({"device": "cpu"} | others))
    point = find_operating_point("auto", model_folder, provenance=lambda: TUNED)
    assert "WARNING" not in caplog.text
    tuned.unlink()
    assert find_operating_point("auto", model_folder, provenance=lambda: TUNED) == point
    assert caplog.text.count("WARNING") == 1
    assert find_operating_point("none", model_folder, provenance=lambda: TUNED) is None
    with pytest.raises(InputFileError, match=r"fold_1/debug\.json: was tuned with weights_sha256"):
        find_operating_point("auto", model_folder, provenance=lambda: replace(TUNED, weights_sha256="def"))
    (model_folder / "fold_1/debug.json").unlink()
    assert find_operating_point("auto", model_folder, provenance=pytest.fail) is None


def test_without_a_point_none_is_applied(model_folder, caplog):
    caplog.set_level(logging.INFO)
    assert find_operating_point("auto", model_folder, provenance=pytest.fail) is None
    assert "no operating point" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "is not an operating point of sgnet tune"),
        ({"version": 1}, r"version 0\.1, for tiled and mirrored .*run sgnet tune again"),
        ({"version": 6}, "has version 6; this program reads 4 and 5"),
        ({"point": None}, r"\$\.point: expected object, got None"),
        ({"point": {"threshold": 2}}, r"\$\.point: threshold must be between"),
        ({"point": {"thresh": 0.2}}, r"\$\.point: object missing required field threshold"),
        ({"tuned_for": {"model": MODEL}}, r"\$\.tuned_for: object missing required field engine"),
    ],
)
def test_files_that_hold_no_point_are_refused(tmp_path, changes, message):
    with pytest.raises(InputFileError, match=message):
        read_operating_point(write_point(tmp_path / "point.json", **changes))


@pytest.mark.parametrize(("text", "message"), [("", "is not JSON"), ("[]", "holds no JSON object")])
def test_files_that_are_no_json_objects_are_refused(tmp_path, text, message):
    (tmp_path / "point.json").write_text(text)
    with pytest.raises(InputFileError, match=message):
        read_operating_point(tmp_path / "point.json")


def test_named_point_that_is_missing_is_refused(model_folder, tmp_path):
    with pytest.raises(InputFileError, match=r"no_point\.json: cannot be read \(No such file"):
        find_operating_point(str(tmp_path / "no_point.json"), model_folder, provenance=lambda: TUNED)


def test_points_are_not_applied_to_an_average_of_models(model_folder, tuned, tmp_path, caplog):
    warn_of_unused_points("none", [model_folder, tmp_path])
    warn_of_unused_points("auto", [tmp_path])
    assert not caplog.records
    warn_of_unused_points("auto", [model_folder, tmp_path])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"not applied to an average of models: those of {model_folder.name}" in record.getMessage()
    with pytest.raises(SGNetError, match=r"point\.json: is for a single model"):
        warn_of_unused_points("point.json", [model_folder, tmp_path])


def test_combined_checksum_depends_on_the_order_of_the_folds():
    assert combine_checksums(["a", "b"]) != combine_checksums(["b", "a"])


def test_model_is_named_by_its_data_set_and_folder(model_folder, monkeypatch):
    monkeypatch.chdir(model_folder)
    assert name_of_model(model_folder) == name_of_model(type(model_folder)()) == MODEL
    (model_folder / "plans.json").write_text("{}")
    with pytest.raises(InputFileError, match=r"plans\.json: has no dataset_name"):
        name_of_model(model_folder)
