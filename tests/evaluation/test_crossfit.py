from pathlib import Path

import numpy as np
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.froc import Counts, Grid
from sgnet_nnunet.evaluation.results import PredictedCase
from sgnet_nnunet.evaluation.tuning import Objective, choose, cross_fit

GRID = Grid(thresholds=(0.1, 0.3, 0.5, 0.7, 0.9), volumes_mm3=(0.0,))


def case(name, *, fold="0", patient=""):
    return PredictedCase(
        model="m", fold=fold, name=name, patient=patient or name, reference=Path("r"), prediction=None
    )


def counts_of(found, *, lesions=4):
    """Counts without false positives; `found` has shape (cases, thresholds)."""
    found = np.array(found)[:, :, None]
    return Counts(np.full(len(found), lesions), found, np.zeros_like(found))


def fit(cases, counts):
    return cross_fit(cases, counts, objective=Objective(), grid=GRID)


def test_each_fold_gets_the_point_chosen_on_the_others():
    cases = [case("a", fold="0"), case("b", fold="1"), case("c", fold="2")]
    counts = counts_of([[4, 0, 0, 0, 0], [0, 4, 0, 0, 0], [3, 0, 2, 0, 0]])
    result = fit(cases, counts)
    assert result.chosen == {"fold 0": (1, 0), "fold 1": (0, 0), "fold 2": (1, 0)}
    assert counts.at(result.points).found.ravel().tolist() == [0, 0, 0]


def test_planted_optimum_of_each_fold_gains_nothing():
    # Every fold has its own best threshold, which is of no use to the others.
    cases = [case(f"{fold}{i}", fold=str(fold)) for fold in range(5) for i in range(3)]
    own = np.repeat(np.eye(5, dtype=int), 3, axis=0) * 4
    counts = counts_of(own)
    everything = counts.pooled
    seen = everything.f1[choose(everything, Objective(), GRID)]
    honest = counts.at(fit(cases, counts).points).pooled
    assert seen > 0.3
    assert honest.f1 == 0


def test_optimum_that_all_folds_share_is_found_without_each_of_them():
    cases = [case(f"{fold}", fold=str(fold)) for fold in range(5)]
    counts = counts_of([[1, 4, 2, 1, 0]] * 5)
    assert counts.at(fit(cases, counts).points).pooled.sensitivity == 1


def test_one_fold_is_dealt_out_by_patients():
    cases = [case(f"p{p}_{scan}", patient=f"p{p}") for p in range(7) for scan in range(2)]
    groups = fit(cases, counts_of([[1, 1, 1, 1, 1]] * 14)).groups
    assert len(set(groups)) == 5
    assert all(groups[2 * p] == groups[2 * p + 1] for p in range(7))


def test_patient_in_two_folds_does_not_help_to_choose_for_himself():
    # p's scans like threshold 0.1, the other patients' 0.9.
    cases = [case("a", fold="0", patient="p"), case("b", fold="1", patient="p")]
    cases += [case(f"c{i}", fold=str(i % 2)) for i in range(2)]
    likes = [[4, 0, 0, 0, 1], [4, 0, 0, 0, 1], [0, 0, 0, 0, 2], [0, 0, 0, 0, 2]]
    result = fit(cases, counts_of(likes))
    assert set(result.chosen.values()) == {(4, 0)}


@pytest.mark.parametrize("patients", [("p", "p"), ("p", "healthy")])
def test_nothing_to_choose_on_is_an_error(patients):
    cases = [case(f"a{i}", fold=str(i), patient=patient) for i, patient in enumerate(patients)]
    counts = counts_of([[1, 1, 1, 1, 1]] * 2)
    counts.lesions[1] = 0
    with pytest.raises(SGNetError, match="without fold 0: no other patient has a lesion"):
        fit(cases, counts)
