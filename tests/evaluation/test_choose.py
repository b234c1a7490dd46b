import numpy as np
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.froc import Grid, Tally
from sgnet_nnunet.evaluation.tuning import Objective, choose

GRID = Grid(thresholds=(0.2, 0.5, 0.8), volumes_mm3=(0.0, 10.0))


def tally(found, false, *, lesions=10, cases=4):
    return Tally(np.array(found), np.array(false), lesions, cases)


def test_figures_are_those_worked_by_hand():
    pooled = tally([[8]], [[2]])
    assert pooled.sensitivity[0, 0] == 0.8
    assert pooled.false_positives_per_case[0, 0] == 0.5
    assert pooled.f1[0, 0] == 2 * 8 / (2 * 8 + 2 + 2)


def test_highest_f1_is_chosen():
    pooled = tally([[9, 8], [7, 7], [6, 5]], [[20, 1], [3, 2], [0, 0]])
    assert choose(pooled, Objective(), GRID) == (0, 1)


def test_wanted_sensitivity_is_held_at_the_fewest_false_positives():
    pooled = tally([[10, 9], [9, 8], [8, 7]], [[9, 5], [4, 1], [1, 0]])
    assert choose(pooled, Objective(sensitivity=0.9), GRID) == (1, 0)
    assert choose(pooled, Objective(sensitivity=0.7), GRID) == (2, 1)


def test_of_points_with_as_few_false_positives_the_more_sensitive_is_chosen():
    pooled = tally([[10, 8], [9, 8], [8, 7]], [[3, 1], [3, 3], [3, 3]])
    assert choose(pooled, Objective(sensitivity=0.8), GRID) == (0, 1)
    assert choose(pooled, Objective(sensitivity=0.85), GRID) == (0, 0)


def test_points_that_are_as_good_are_decided_by_nearness_to_the_default():
    same = tally(np.full((3, 2), 5), np.full((3, 2), 1))
    assert choose(same, Objective(), GRID) == (1, 0)
    assert choose(same, Objective(sensitivity=0.5), GRID) == (1, 0)


def test_most_sensitive_point_is_chosen_where_none_is_sensitive_enough():
    pooled = tally([[6, 6], [5, 5], [4, 4]], [[9, 8], [2, 2], [0, 0]])
    assert choose(pooled, Objective(sensitivity=0.9), GRID) == (0, 1)


def test_unreachable_sensitivity_names_the_best():
    pooled = tally([[6, 6], [5, 5], [4, 4]], [[9, 8], [2, 2], [0, 0]])
    Objective(sensitivity=0.6).check_reachable(pooled)
    with pytest.raises(SGNetError, match=r"lesion sensitivity of 0\.9: the best is 0\.600, 6 of 10 lesions"):
        Objective(sensitivity=0.9).check_reachable(pooled)


@pytest.mark.parametrize("sensitivity", [0, -0.1, 1.01, float("nan")])
def test_impossible_sensitivities_are_refused(sensitivity):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        Objective(sensitivity=sensitivity)
