"""Choosing an operating point, its cross-validated improvement, and the file that keeps it."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.froc import Candidates, LesionCounts, SearchGrid, count_lesions
from sgnet_nnunet.evaluation.results import PredictedCase
from sgnet_nnunet.evaluation.tuning import (
    choose,
    choose_operating_point,
    cross_validate,
    improvement_of,
    write_tuning,
)
from sgnet_nnunet.inference.operating_point import (
    Calibration,
    OperatingPoint,
    Provenance,
    read_operating_point,
)
from sgnet_nnunet.inference.plan import labels_of
from sgnet_nnunet.report.figures import draw_tuning

SMALL = SearchGrid(thresholds=(0.2, 0.5, 0.8), volumes_mm3=(0.0, 10.0), mean_probabilities=(1.0,))
THRESHOLDS = SearchGrid(thresholds=(0.1, 0.3, 0.5, 0.7, 0.9), volumes_mm3=(0.0,))
GRID = SearchGrid(thresholds=(0.1, 0.3, 0.5, 0.7), volumes_mm3=(0.0, 3.0, 6.0), mean_probabilities=(1.0,))
PROVENANCE = Provenance(model="D/M", engine="sparse", folds=("0", "1", "2"), weights_sha256="abc")


def case(name, *, fold="0", patient=""):
    return PredictedCase(
        model="m", fold=fold, name=name, patient=patient or name, reference=Path("r"), prediction=None
    )


# --- choosing ----------------------------------------------------------------------------------------------


def pooled(found, false, *, lesions=10):
    """The counts of a single case; shape (thresholds, volumes)."""
    return LesionCounts(np.array([lesions]), np.array([found]), np.array([false]))


def test_highest_f1_is_chosen():
    assert choose(pooled([[9, 8], [7, 7], [6, 5]], [[20, 1], [3, 2], [0, 0]]), SMALL) == (0, 1)


def test_sensitivity_is_reached_with_the_fewest_false_positives():
    counts = pooled([[10, 9], [9, 8], [8, 7]], [[9, 5], [4, 1], [1, 0]])
    assert choose(counts, SMALL, sensitivity=0.9) == (1, 0)
    assert choose(counts, SMALL, sensitivity=0.7) == (2, 1)


def test_of_points_with_as_few_false_positives_the_more_sensitive_is_chosen():
    counts = pooled([[10, 8], [9, 8], [8, 7]], [[3, 1], [3, 3], [3, 3]])
    assert choose(counts, SMALL, sensitivity=0.8) == (0, 1)
    assert choose(counts, SMALL, sensitivity=0.85) == (0, 0)


def test_among_equal_points_the_nearest_to_the_default_is_chosen():
    same = pooled(np.full((3, 2), 5), np.full((3, 2), 1))
    assert choose(same, SMALL) == (1, 0)
    assert choose(same, SMALL, sensitivity=0.5) == (1, 0)


def test_most_sensitive_point_is_chosen_where_none_is_sensitive_enough():
    counts = pooled([[6, 6], [5, 5], [4, 4]], [[9, 8], [2, 2], [0, 0]])
    assert choose(counts, SMALL, sensitivity=0.9) == (0, 1)


# --- cross-validation --------------------------------------------------------------------------------------


def found_at(found, *, lesions=4):
    """Counts without false positives; `found` has shape (cases, thresholds)."""
    found = np.array(found)[:, :, None]
    return LesionCounts(np.full(len(found), lesions), found, np.zeros_like(found))


def test_each_fold_gets_the_point_chosen_on_the_others():
    cases = [case("a", fold="0"), case("b", fold="1"), case("c", fold="2")]
    counts = found_at([[4, 0, 0, 0, 0], [0, 4, 0, 0, 0], [3, 0, 2, 0, 0]])
    validated, chosen = cross_validate(cases, counts, THRESHOLDS)
    assert chosen == {"fold 0": (1, 0), "fold 1": (0, 0), "fold 2": (1, 0)}
    assert validated.found.tolist() == [0, 0, 0]


def test_planted_optimum_of_each_fold_improves_nothing():
    # Every fold has its own best threshold, which is of no use to the others.
    cases = [case(f"{fold}{i}", fold=str(fold)) for fold in range(5) for i in range(3)]
    counts = found_at(np.repeat(np.eye(5, dtype=int), 3, axis=0) * 4)
    assert counts.f1[choose(counts, THRESHOLDS)] > 0.3
    assert cross_validate(cases, counts, THRESHOLDS)[0].f1 == 0


def test_optimum_that_all_folds_share_is_found_without_each_of_them():
    cases = [case(f"{fold}", fold=str(fold)) for fold in range(5)]
    assert cross_validate(cases, found_at([[1, 4, 2, 1, 0]] * 5), THRESHOLDS)[0].sensitivity == 1


def test_one_fold_is_divided_by_patients():
    """Each patient's scans have their own best threshold, which must never be chosen for them."""
    cases = [case(f"p{p}_{scan}", patient=f"p{p}") for p in range(5) for scan in range(2)]
    validated, chosen = cross_validate(
        cases, found_at(np.repeat(np.eye(5, dtype=int), 2, axis=0)), THRESHOLDS
    )
    assert len(chosen) == 5
    assert validated.found.sum() == 0


def test_patient_in_two_folds_has_no_say_in_their_own_point():
    # p's scans are best at threshold 0.1, the other patients' at 0.9.
    cases = [case("a", fold="0", patient="p"), case("b", fold="1", patient="p")]
    cases += [case(f"c{i}", fold=str(i % 2)) for i in range(2)]
    counts = found_at([[4, 0, 0, 0, 1], [4, 0, 0, 0, 1], [0, 0, 0, 0, 2], [0, 0, 0, 0, 2]])
    assert set(cross_validate(cases, counts, THRESHOLDS)[1].values()) == {(4, 0)}


@pytest.mark.parametrize("patients", [("p", "p"), ("p", "healthy")])
def test_nothing_to_choose_on_is_an_error(patients):
    cases = [case(f"a{i}", fold=str(i), patient=patient) for i, patient in enumerate(patients)]
    counts = found_at([[1, 1, 1, 1, 1]] * 2)
    counts.lesions[1] = 0
    with pytest.raises(SGNetError, match="without fold 0: no other patient has a lesion"):
        cross_validate(cases, counts, THRESHOLDS)


# --- improvement -------------------------------------------------------------------------------------------

PATIENTS = [f"p{i // 2}" for i in range(12)]


def counts(found, false, lesions=4):
    return LesionCounts(np.full(12, lesions), np.broadcast_to(found, 12), np.broadcast_to(false, 12))


def test_improvement_is_the_difference_of_the_rates():
    tuned, default = counts(3, 1), counts(2, 2)
    improvement = improvement_of(tuned, default, patients=PATIENTS)
    assert improvement["f1"].value == pytest.approx(tuned.f1 - default.f1)
    assert improvement["sensitivity"].value == 0.25
    assert improvement["false_positives_per_case"].value == -1


def test_patients_who_are_all_alike_give_no_width():
    sensitivity = improvement_of(counts(3, 1), counts(2, 2), patients=PATIENTS)["sensitivity"]
    assert sensitivity.interval.low == sensitivity.interval.high == 0.25


def test_improvement_of_one_patient_among_many_is_uncertain():
    found = np.full(12, 2)
    found[:2] = 4
    sensitivity = improvement_of(counts(found, 1), counts(2, 1), patients=PATIENTS)["sensitivity"]
    assert sensitivity.interval.low == pytest.approx(0)
    assert 0 < sensitivity.value < sensitivity.interval.high


def test_scans_of_a_patient_are_resampled_together():
    found = np.repeat(np.random.default_rng(0).integers(0, 5, size=6), 2)
    widths = []
    for patients in (PATIENTS, [str(i) for i in range(12)]):
        interval = improvement_of(counts(found, 1), counts(2, 1), patients=patients)["sensitivity"].interval
        widths.append(interval.high - interval.low)
    assert widths[0] > 1.2 * widths[1]


def test_the_same_counts_give_the_same_interval():
    tuned = counts(np.random.default_rng(1).integers(0, 5, size=12), 3)
    first, second = (improvement_of(tuned, counts(2, 2), patients=PATIENTS) for _ in range(2))
    assert first == second


def test_one_patient_has_an_improvement_without_an_interval():
    sensitivity = improvement_of(counts(3, 1), counts(2, 1), patients=["p"] * 12)["sensitivity"]
    assert sensitivity.value == 0.25
    assert np.isnan([sensitivity.interval.low, sensitivity.interval.high]).all()


# --- the whole choice --------------------------------------------------------------------------------------


def counted(tumour, reference, grid=GRID):
    return count_lesions(
        np.stack([1 - tumour, tumour]).astype(np.float32),
        reference,
        grid=grid,
        labels=labels_of({"background": 0, "tumour": 1}, None),
        spacing=(1.0, 1.0, 1.0),
    )


def chosen(cases, counts, *, grid=GRID, **options):
    """Choose the point of cases, each of which was counted by `count_lesions`."""
    at_grid, default, found = zip(*counts, strict=True)
    joined = LesionCounts.join(at_grid), LesionCounts.join(default)
    found = Candidates.join(found)
    return choose_operating_point(cases, *joined, PROVENANCE, grid=grid, candidates=found, **options)


@pytest.fixture
def hesitant():
    """A model that gives lesions of 4 mm3 0.4 and false positives of 2 mm3 0.9, in each of three folds."""
    cases, predicted = [], []
    for i in range(6):
        tumour = np.zeros((4, 8, 9))
        tumour[0, 0:2, 0:2], tumour[3, 6, 7:9] = 0.4, 0.9
        reference = tumour == 0.4
        reference[2, 4, 4] = i == 0  # a lesion that no threshold finds
        cases.append(case(f"c{i}", fold=str(i % 3), patient=f"p{i // 2}"))
        predicted.append(counted(tumour, reference))
    return cases, predicted


def test_point_that_serves_all_folds_is_found_and_its_improvement_is_cross_validated(hesitant):
    tuning = chosen(*hesitant)
    assert tuning.point == OperatingPoint(threshold=0.3, min_lesion_volume_mm3=3)
    totals = [
        (each.found.sum(), each.false_positives.sum(), each.total_lesions)
        for each in (tuning.default, tuning.cross_validated, tuning.resubstitution)
    ]
    assert totals == [(0, 6, 7), (6, 0, 7), (6, 0, 7)]
    assert tuning.improvement["f1"].value == 12 / 13
    assert tuning.improvement["false_positives_per_case"].value == -1
    assert set(tuning.fold_points) == {"fold 0", "fold 1", "fold 2"}
    assert tuning.patients == 3


def test_curves_are_those_with_nothing_and_with_small_lesions_removed(hesitant):
    plain, cleaned = chosen(*hesitant).frocs
    assert (plain.min_lesion_volume_mm3, cleaned.min_lesion_volume_mm3) == (0, 3)
    assert plain.false_positives_per_case.tolist() == [1, 1, 1, 1]
    assert cleaned.false_positives_per_case.tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(cleaned.sensitivity, [6 / 7, 6 / 7, 0, 0])


def test_requested_sensitivity_is_reached_or_refused(hesitant):
    tuning = chosen(*hesitant, sensitivity=0.85)
    assert tuning.resubstitution.sensitivity >= 0.85
    assert tuning.objective == "fewest false positives at a lesion sensitivity of 0.85"
    with pytest.raises(SGNetError, match=r"the highest is 0\.857, 6 of 7 lesions"):
        chosen(*hesitant, sensitivity=0.9)


def test_optimum_that_does_not_generalise_shows_no_improvement():
    """Fold 0 needs a low threshold for its faint lesion, fold 1 a high one against false positives."""
    faint, noisy = np.zeros((3, 3, 20)), np.zeros((3, 3, 20))
    faint[1, 1, 1] = 0.2
    noisy[1, 1, ::2] = (0.8, *[0.2] * 3, *[0.4] * 3, 0.6, 0, 0)
    grid = replace(GRID, volumes_mm3=(0.0,))
    counts = [counted(faint, faint > 0, grid), counted(noisy, noisy > 0.7, grid)]
    tuning = chosen([case("a", fold="0"), case("b", fold="1")], counts, grid=grid)
    points = {group: point.threshold for group, point in tuning.fold_points.items()}
    assert points == {"fold 0": 0.7, "fold 1": 0.1}
    assert tuning.resubstitution.f1 == 2 / 3 > tuning.default.f1 == 2 / 4
    assert tuning.cross_validated.f1 == 2 / 10
    assert tuning.improvement["f1"].value == 2 / 10 - 2 / 4


def test_references_without_a_lesion_are_an_error():
    nothing = counted(np.zeros((3, 3, 3)), np.zeros((3, 3, 3), dtype=bool))
    with pytest.raises(SGNetError, match="no reference has a lesion"):
        chosen([case("a"), case("b")], [nothing] * 2)


def sure_and_small(grid):
    """A model that is sure of true lesions of 2 mm3, and unsure of as many false ones of 2 mm3."""
    cases, predicted = [], []
    for i in range(9):
        tumour = np.zeros((4, 8, 9))
        tumour[0, 0:2, 0], tumour[2, 4, 4:6], tumour[3, 7, 7:9] = 0.9, 0.6, 0.8 + 0.01 * i
        cases.append(case(f"c{i}", fold=str(i % 3), patient=f"p{i}"))
        predicted.append(counted(tumour, tumour > 0.7, grid))
    return cases, predicted


SURE = SearchGrid(thresholds=(0.5,), volumes_mm3=(0.0, 3.0), mean_probabilities=(1.0, 0.7))


def test_small_lesions_that_the_model_is_sure_of_are_kept():
    tuning = chosen(*sure_and_small(SURE), grid=SURE)
    assert tuning.point.min_lesion_volume_mm3 == 3
    assert tuning.point.min_mean_probability == 0.7
    assert tuning.cross_validated.f1 == 1 > tuning.default.f1
    assert str(tuning.point).endswith("lesions below 3 mm3 and of a mean probability below 0.7 removed")
    assert tuning.point.calibration is None  # no false one is kept


def test_confidence_is_calibrated_on_the_lesions_that_the_point_keeps():
    grid = replace(SURE, volumes_mm3=(0.0,))
    tuning = chosen(*sure_and_small(grid), grid=grid)
    true, false = tuning.point.calibration.confidence([0.9, 0.6])
    assert true > 0.9
    assert false < 0.2
    assert tuning.reliability.lesions.sum() == 27
    assert tuning.reliability.brier < tuning.uncalibrated.brier


def test_too_few_lesions_are_not_calibrated(hesitant):
    tuning = chosen(*hesitant)
    assert tuning.point.calibration is None
    assert tuning.reliability is None


def test_calibration_comes_back_from_the_file(hesitant, tmp_path):
    path = tmp_path / "operating_point.json"
    tuning = chosen(*hesitant)
    point = replace(tuning.point, calibration=Calibration(slope=1.5, intercept=-0.2))
    write_tuning(path, replace(tuning, point=point))
    assert read_operating_point(path).point == point


# --- the file and the picture ------------------------------------------------------------------------------


def test_point_and_provenance_come_back_from_the_file(hesitant, tmp_path):
    path, tuning = tmp_path / "operating_point.json", chosen(*hesitant)
    write_tuning(path, tuning)
    record = read_operating_point(path)
    assert (record.point, record.tuned_for) == (tuning.point, PROVENANCE)
    assert [each.name for each in tmp_path.iterdir()] == ["operating_point.json"]


def test_file_reports_how_the_point_was_chosen_and_its_rates(hesitant, tmp_path):
    path = tmp_path / "operating_point.json"
    write_tuning(path, chosen(*hesitant))
    content = json.loads(path.read_text())
    assert (content["cases"], content["patients"], content["lesions"]) == (6, 3, 7)
    assert content["default"] == {
        "f1": 0,
        "sensitivity": 0,
        "false_positives_per_case": 1,
        "found": 0,
        "missed": 7,
        "false_positives": 6,
    }
    assert content["cross_validated"]["f1"] == content["resubstitution"]["f1"] == 12 / 13
    assert content["improvement"]["false_positives_per_case"] == {"value": -1, "low": -1, "high": -1}
    assert content["points_chosen_without"]["fold 1"] == {
        "threshold": 0.3,
        "min_lesion_volume_mm3": 3,
        "min_mean_probability": 1,
        "calibration": None,
    }
    assert len(content["froc"][0]["sensitivity"]) == len(content["grid"]["thresholds"])


def test_rates_without_an_interval_are_null(hesitant, tmp_path):
    cases, predicted = hesitant
    tuning = chosen(cases, predicted)
    alone = improvement_of(tuning.cross_validated, tuning.default, patients=["p"] * 6)
    write_tuning(tmp_path / "point.json", replace(tuning, improvement=alone))
    content = json.loads((tmp_path / "point.json").read_text())
    assert content["improvement"]["f1"]["low"] is None


@pytest.mark.slow
def test_picture_shows_the_reliability_next_to_the_curve(hesitant, tmp_path):
    grid = replace(SURE, volumes_mm3=(0.0,))
    draw_tuning(chosen(*sure_and_small(grid), grid=grid), tmp_path / "both.png")
    draw_tuning(chosen(*hesitant), tmp_path / "one.png")
    both, one = (matplotlib.image.imread(tmp_path / f"{name}.png").shape[1] for name in ("both", "one"))
    assert both > 1.5 * one


def test_picture_is_a_png(hesitant, tmp_path):
    draw_tuning(chosen(*hesitant), tmp_path / "froc.png")
    content = (tmp_path / "froc.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 10_000
