import math

import numpy as np
import pytest

from sgnet_nnunet.evaluation.mask_metrics import Dice, Recall
from sgnet_nnunet.evaluation.statistics import TOO_FEW_PATIENTS, Resampling, rank_models, rows_of
from sgnet_nnunet.evaluation.surface_metrics import HD95

pytestmark = pytest.mark.filterwarnings("error")
METRICS = (Dice(), Recall(), HD95())


@pytest.fixture
def rank(rows):
    """Return a function that ranks models, given the columns of each."""

    def compute(metrics=METRICS, patients=None, number=500, **models):
        tables = {
            name: rows_of(rows(model=name, patients=patients, **values), model=name, label="tumour")
            for name, values in models.items()
        }
        resampling = Resampling(seed=0, number=number)
        return rank_models(tables, label="tumour", metrics=metrics, resampling=resampling)

    return compute


def test_ranks_equal_those_worked_out_by_hand(rank):
    # By Dice A, B, C; by recall B and C share ranks 1 and 2; by HD95, where less is better, C, A, B.
    ranking = rank(
        A={"dice": [0.9, 0.7], "recall": [0.1, 0.1], "hd95_directed_mm": [2.0, 4.0]},
        B={"dice": [0.7, 0.7], "recall": [0.4, 0.6], "hd95_directed_mm": [5.0, 5.0]},
        C={"dice": [0.1, 0.3], "recall": [0.5, 0.5], "hd95_directed_mm": [1.0, 1.0]},
    )
    by_hand = {"A": (1 + 3 + 2) / 3, "B": (2 + 1.5 + 3) / 3, "C": (3 + 1.5 + 1) / 3}
    assert [(each.model, each.rank) for each in ranking.standings] == [("C", 1), ("A", 2), ("B", 3)]
    assert {each.model: each.mean_rank for each in ranking.standings} == pytest.approx(by_hand)


def test_equal_mean_ranks_share_the_better_place(rank):
    ranking = rank(
        metrics=(Dice(), Recall()),
        A={"dice": [0.9, 0.9], "recall": [0.1, 0.1]},
        B={"dice": [0.8, 0.8], "recall": [0.2, 0.2]},
        C={"dice": [0.1, 0.1], "recall": [0.0, 0.0]},
    )
    assert [each.rank for each in ranking.standings] == [1, 1, 3]
    assert ranking.standings[0].shares == (1, 0, 0)


def test_a_model_that_is_better_in_every_patient_is_first_in_every_resample(rank):
    ranking = rank(metrics=(Dice(),), A={"dice": [0.2, 0.3, 0.4]}, B={"dice": [0.5, 0.6, 0.7]})
    first, last = ranking.standings
    assert (first.model, first.shares, first.interval.low, first.interval.high) == ("B", (1, 0), 1, 1)
    assert (last.model, last.shares, last.interval.low, last.interval.high) == ("A", (0, 1), 2, 2)


def test_models_that_win_by_turns_have_both_places(rank):
    values = np.random.default_rng(0).random((2, 30))
    ranking = rank(metrics=(Dice(),), A={"dice": values[0]}, B={"dice": values[1]})
    for standing in ranking.standings:
        assert sum(standing.shares) == pytest.approx(1)
        assert min(standing.shares) > 0.02
        assert (standing.interval.low, standing.interval.high) == (1, 2)


def test_shares_are_those_of_resampled_patients_not_cases(rank):
    # Two patients: resamples are aa, ab, ba and bb, so that B, better in b, wins three of four.
    values = {"A": {"dice": [0.5] * 8}, "B": {"dice": [0.4] * 4 + [0.8] * 4}}
    ranking = rank(metrics=(Dice(),), patients="aaaabbbb", number=4000, **values)
    assert ranking.standings[0].model == "B"
    assert ranking.standings[0].shares[0] == pytest.approx(0.75, abs=0.03)


def test_metrics_without_a_value_of_every_model_do_not_count(rank):
    ranking = rank(
        metrics=(Dice(), Recall()),
        A={"dice": [0.2, 0.3], "recall": [math.nan, math.nan]},
        B={"dice": [0.5, 0.6], "recall": [0.1, 0.1]},
    )
    assert ranking.metrics == ("dice",)
    assert ranking.standings[0].model == "B"


def test_a_metric_missing_in_some_resamples_leaves_the_others(rank):
    ranking = rank(
        metrics=(Dice(), Recall()),
        A={"dice": [0.2, 0.3, 0.1], "recall": [0.9, math.nan, math.nan]},
        B={"dice": [0.5, 0.6, 0.7], "recall": [0.1, math.nan, math.nan]},
    )
    assert [each.rank for each in ranking.standings] == [1, 1]
    by_model = {each.model: each for each in ranking.standings}
    # Without the one case that has a recall, drawn in 19 of 27 resamples, B alone is first.
    assert by_model["B"].shares == (1, 0)
    assert by_model["A"].shares[0] == pytest.approx(19 / 27, abs=0.06)


def test_without_any_value_there_is_no_ranking(rank):
    nothing = {"dice": [math.nan, math.nan]}
    assert rank(metrics=(Dice(),), A=nothing, B=nothing).standings == ()


def test_one_patient_ranks_without_certainty(rank):
    ranking = rank(metrics=(Dice(),), patients="aa", A={"dice": [0.2, 0.3]}, B={"dice": [0.5, 0.6]})
    assert [each.model for each in ranking.standings] == ["B", "A"]
    assert ranking.standings[0].shares == ()
    assert ranking.standings[0].interval.reason == TOO_FEW_PATIENTS


def test_models_on_different_patients_can_be_ranked(rows):
    tables = {
        name: rows_of(table, model=name, label="tumour")
        for name, table in (("A", rows(dice=[0.1, 0.2])), ("B", rows(model="B", dice=[0.3], patients="z")))
    }
    ranking = rank_models(tables, label="tumour", metrics=[Dice()], resampling=Resampling(seed=0, number=100))
    assert ranking.standings[0].model == "B"
