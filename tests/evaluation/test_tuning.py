from dataclasses import replace

import numpy as np
import pytest

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.evaluation.froc import Grid
from sgnet_nnunet.evaluation.operating_point import OperatingPoint
from sgnet_nnunet.evaluation.tuning import Objective, tune

GRID = Grid(thresholds=(0.1, 0.3, 0.5, 0.7), volumes_mm3=(0.0, 3.0, 6.0))


@pytest.fixture
def shy_model(make_model, add_case):
    """A model that sees lesions of 4 mm3 at 0.4 and false ones of 2 mm3 at 0.9, in each of three folds."""
    folder, cases = make_model(), []
    for i in range(6):
        tumour = np.zeros((4, 8, 9))
        tumour[0, 0:2, 0:2], tumour[3, 6, 7:9] = 0.4, 0.9
        reference = (tumour > 0.3) & (tumour < 0.5)
        reference[2, 4, 4] = i == 0  # a lesion that no threshold finds
        cases.append(add_case(folder, f"c{i}", tumour, reference, fold=str(i % 3), patient=f"p{i // 2}"))
    return folder, cases


def test_point_that_serves_all_folds_is_found_and_its_gain_is_honest(shy_model):
    folder, cases = shy_model
    tuning = tune(cases, model_folder=folder, grid=GRID)
    assert tuning.point == OperatingPoint(threshold=0.3, min_lesion_volume_mm3=3)
    assert (int(tuning.default.found), int(tuning.default.false), tuning.default.lesions) == (0, 6, 7)
    assert (int(tuning.cross_fitted.found), int(tuning.cross_fitted.false)) == (6, 0)
    assert (int(tuning.resubstitution.found), int(tuning.resubstitution.false)) == (6, 0)
    assert tuning.gain.f1.value == 12 / 13
    assert tuning.gain.false_positives_per_case.value == -1
    assert set(tuning.fold_points) == {"fold 0", "fold 1", "fold 2"}
    assert (tuning.provenance.folds, tuning.patients) == (("0", "1", "2"), 3)
    assert tuning.provenance.model == "Dataset501_Tiny/SGNetTrainer__nnUNetPlans__3d_fullres"


def test_curves_are_those_with_nothing_and_with_small_lesions_removed(shy_model):
    tuning = tune(shy_model[1], model_folder=shy_model[0], grid=GRID)
    assert [froc.min_lesion_volume_mm3 for froc in tuning.frocs] == [0, 3]
    plain, cleaned = tuning.frocs
    assert plain.false_positives_per_case.tolist() == [1, 1, 1, 1]
    assert cleaned.false_positives_per_case.tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(cleaned.sensitivity, [6 / 7, 6 / 7, 0, 0])


def test_wanted_sensitivity_is_held(shy_model):
    tuning = tune(shy_model[1], model_folder=shy_model[0], grid=GRID, objective=Objective(sensitivity=0.85))
    assert tuning.resubstitution.sensitivity >= 0.85
    assert tuning.point.threshold == 0.3


def test_optimum_that_does_not_generalise_shows_no_gain(make_model, add_case):
    """Fold 0 wants a low threshold for its faint lesion, fold 1 a high one against its false ones."""
    folder = make_model()
    faint, noisy = np.zeros((3, 3, 20)), np.zeros((3, 3, 20))
    faint[1, 1, 1] = 0.2
    noisy[1, 1, ::2] = (0.8, *[0.2] * 3, *[0.4] * 3, 0.6, 0, 0)
    cases = [
        add_case(folder, "a", faint, faint > 0, fold="0"),
        add_case(folder, "b", noisy, noisy > 0.7, fold="1"),
    ]
    tuning = tune(cases, model_folder=folder, grid=replace(GRID, volumes_mm3=(0.0,)))
    assert {group: point.threshold for group, point in tuning.fold_points.items()} == {
        "fold 0": 0.7,
        "fold 1": 0.1,
    }
    assert tuning.resubstitution.f1 == 2 / 3 > tuning.default.f1 == 2 / 4
    assert tuning.cross_fitted.f1 == 2 / 10
    assert tuning.gain.f1.value == 2 / 10 - 2 / 4


def test_unreachable_sensitivity_is_told_with_the_best(shy_model):
    with pytest.raises(SGNetError, match=r"the best is 0\.857, 6 of 7 lesions"):
        tune(shy_model[1], model_folder=shy_model[0], grid=GRID, objective=Objective(sensitivity=0.9))


def test_missing_probabilities_are_told_before_any_case_is_read(shy_model):
    folder, cases = shy_model
    cases[-1].probabilities.unlink()
    read = []
    with pytest.raises(InputFileError, match=r"c5\.npz: there is no such file; run nnUNetv2_train"):
        tune(cases, model_folder=folder, on_done=read.append)
    assert not read


def test_fold_all_is_refused_for_it_has_seen_its_cases(shy_model):
    folder, cases = shy_model
    with pytest.raises(SGNetError, match="fold all is validated on the cases it was trained on"):
        tune([replace(cases[0], fold="all")], model_folder=folder)


def test_references_without_a_lesion_are_an_error(make_model, add_case):
    folder = make_model()
    cases = [add_case(folder, f"c{i}", np.zeros((3, 3, 3)), np.zeros((3, 3, 3))) for i in range(2)]
    with pytest.raises(SGNetError, match="no reference has a lesion"):
        tune(cases, model_folder=folder)
