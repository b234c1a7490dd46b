"""Bootstrap intervals, tests and ranks, against SciPy, statsmodels and values worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.mask_metrics import dice, recall
from sgnet_nnunet.evaluation.statistics import (
    ALL_EQUAL,
    INFINITE,
    TOO_FEW_PATIENTS,
    Resampling,
    estimate,
    estimate_over_seeds,
    estimate_ratio,
    holm,
    rank_biserial,
    rank_models,
    rows_of,
    wilcoxon_test,
)
from sgnet_nnunet.evaluation.surface_metrics import hd95_directed

pytestmark = pytest.mark.filterwarnings("error")
RESAMPLING = Resampling(seed=3, number=500)


def of_values(values, resampling=RESAMPLING):
    values = np.asarray(values, dtype=float)
    return estimate_ratio(values, np.ones(values.size), resampling=resampling)


class TestEstimate:
    @pytest.mark.parametrize("seed", range(5))
    def test_the_interval_of_a_mean_is_scipys(self, seed):
        values = np.random.default_rng(seed).exponential(2, 30)
        expected = stats.bootstrap(
            (values,), np.mean, n_resamples=500, method="BCa", rng=np.random.default_rng(3)
        ).confidence_interval
        interval = of_values(values).interval
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
        assert interval.method == "BCa"

    def test_the_interval_of_any_statistic_of_sums_is_scipys(self):
        rng = np.random.default_rng(0)
        columns = [rng.random(25) + 1 for _ in range(3)]

        def statistic(a, b, c):
            return a / b - np.log(c)

        def of_samples(*samples, axis):
            return statistic(*(sample.sum(axis=axis) for sample in samples))

        expected = stats.bootstrap(
            columns, of_samples, paired=True, n_resamples=500, method="BCa", rng=np.random.default_rng(3)
        ).confidence_interval
        result = estimate(statistic, columns, resampling=RESAMPLING)
        assert result.value == pytest.approx(of_samples(*columns, axis=0))
        assert (result.interval.low, result.interval.high) == pytest.approx((expected.low, expected.high))

    def test_the_value_of_a_ratio_is_the_sum_of_parts_over_the_sum_of_wholes(self):
        ratio = estimate_ratio(np.array([1.0, 6.0]), np.array([2.0, 4.0]), resampling=RESAMPLING)
        assert ratio.value == pytest.approx(7 / 6)

    def test_two_alike_scans_of_each_patient_tell_no_more_than_one(self):
        values = np.random.default_rng(1).random(20)
        once = of_values(values).interval
        twice = estimate_ratio(2 * values, np.full(20, 2.0), resampling=RESAMPLING).interval
        as_if_independent = of_values(np.repeat(values, 2)).interval
        assert (twice.low, twice.high) == pytest.approx((once.low, once.high))
        assert as_if_independent.high - as_if_independent.low < 0.85 * (once.high - once.low)

    def test_it_holds_the_true_mean_about_as_often_as_it_says(self):
        rng = np.random.default_rng(5)
        held = [
            interval.low <= 1 <= interval.high
            for interval in (
                of_values(rng.exponential(1, 40), Resampling(seed=seed, number=300)).interval
                for seed in range(200)
            )
        ]
        assert 0.88 <= np.mean(held) <= 0.99

    def test_a_patients_part_is_drawn_with_its_whole(self):
        wholes = np.array([1.0, 2.0, 3.0, 10.0])
        interval = estimate_ratio(wholes / 4, wholes, resampling=RESAMPLING).interval
        assert (interval.low, interval.high) == pytest.approx((0.25, 0.25))

    def test_patients_whose_whole_is_zero_change_nothing(self):
        parts, wholes = np.array([1.0, 0.0, 2.0, 4.0, 0.0]), np.array([1.0, 0.0, 3.0, 4.0, 0.0])
        counted = wholes > 0
        assert estimate_ratio(parts, wholes, resampling=RESAMPLING) == estimate_ratio(
            parts[counted], wholes[counted], resampling=RESAMPLING
        )

    def test_where_bca_is_not_defined_it_is_the_percentiles(self):
        interval = of_values([0.25] * 6).interval
        assert (interval.low, interval.high, interval.method) == (0.25, 0.25, "percentile")

    @pytest.mark.parametrize(
        ("values", "value", "reason"),
        [
            ([], math.nan, TOO_FEW_PATIENTS),
            ([0.5], 0.5, TOO_FEW_PATIENTS),
            ([1.0, math.inf], math.inf, INFINITE),
        ],
    )
    def test_without_an_interval_it_says_why(self, values, value, reason):
        result = of_values(values)
        assert result.value == pytest.approx(value, nan_ok=True)
        assert math.isnan(result.interval.low)
        assert math.isnan(result.interval.high)
        assert (result.interval.method, result.interval.reason) == ("", reason)

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(0, 4).map(lambda quarter: quarter / 4), min_size=2, max_size=12))
    def test_it_lies_within_the_values_and_is_the_same_each_time(self, values):
        resampling = Resampling(seed=0, number=50)
        interval = of_values(values, resampling).interval
        assert min(values) <= interval.low <= interval.high <= max(values)
        assert interval == of_values(values, resampling).interval


class TestRowsOf:
    def test_rows_come_by_case_whatever_their_order(self, rows):
        table = pd.concat([rows(dice=[0.1, 0.2, 0.3]), rows(model="B", dice=[0.4])])
        sorted_rows = rows_of(table, model="A", label="tumour")
        assert list(sorted_rows.index) == ["case000", "case001", "case002"]
        pd.testing.assert_frame_equal(rows_of(table.iloc[::-1], model="A", label="tumour"), sorted_rows)

    def test_an_empty_text_read_back_as_nan_is_an_empty_text(self, rows):
        table = rows(dice=[0.1]).assign(empty=math.nan)
        assert list(rows_of(table, model="A", label="tumour")["empty"]) == [""]

    def test_a_case_predicted_twice_and_a_model_without_cases_are_named(self, rows):
        twice = pd.concat([rows(dice=[0.1, 0.2]), rows(dice=[0.3]).assign(fold="1")])
        with pytest.raises(SGNetError, match=r"A has two predictions of the case case000; give only folds"):
            rows_of(twice, model="A", label="tumour")
        with pytest.raises(SGNetError, match="B has no case with the label tumour"):
            rows_of(twice, model="B", label="tumour")


class TestPairedTest:
    def test_p_is_scipys(self):
        differences = np.round(np.random.default_rng(0).normal(0.2, 1, 30), 2)
        differences[:5] = 0
        expected = stats.wilcoxon(differences, zero_method="pratt").pvalue
        assert wilcoxon_test(differences) == (pytest.approx(expected), "")

    def test_without_a_test_it_says_why(self):
        assert wilcoxon_test(np.zeros(3)) == (1, ALL_EQUAL)
        p, reason = wilcoxon_test(np.array([0.5]))
        assert math.isnan(p)
        assert reason == TOO_FEW_PATIENTS

    @pytest.mark.parametrize(
        ("differences", "effect"),
        [
            ([1, 2, 3], 1),
            ([-1, -2], -1),
            ([1, -2, 3], 1 / 3),
            ([1, -1], 0),
            ([0, 1, -2, 3], 1 / 3),
            ([0, 0], 0),
        ],
    )
    def test_effects_equal_those_worked_out_by_hand(self, differences, effect):
        assert rank_biserial(np.array(differences, dtype=float)) == pytest.approx(effect)

    def test_there_is_no_effect_without_pairs(self):
        assert math.isnan(rank_biserial(np.array([])))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=30))
    def test_swapping_the_models_swaps_the_sign_of_the_effect(self, differences):
        effect = rank_biserial(np.array(differences))
        assert -1 <= effect <= 1
        assert rank_biserial(-np.array(differences)) == pytest.approx(-effect)

    @pytest.mark.slow
    @settings(max_examples=10, deadline=None)
    @given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 3))
    def test_holms_correction_is_that_of_statsmodels(self, p_values, missing):
        corrected = holm(np.array([math.nan] * missing + p_values))
        assert np.isnan(corrected[:missing]).all()
        assert corrected[missing:] == pytest.approx(multipletests(p_values, method="holm")[1])

    def test_a_family_without_tests_has_no_p(self):
        assert np.isnan(holm(np.array([math.nan, math.nan]))).all()


class TestRanking:
    @pytest.fixture
    def rank(self, rows):
        """Return a function that ranks models, given the columns of each."""

        def compute(metrics=(dice,), patients=None, number=500, **models):
            tables = {
                name: rows_of(rows(model=name, patients=patients, **values), model=name, label="tumour")
                for name, values in models.items()
            }
            return rank_models(tables, metrics, resampling=Resampling(seed=0, number=number))

        return compute

    def test_ranks_equal_those_worked_out_by_hand(self, rank):
        # By Dice A, B, C; by recall B and C share ranks 1 and 2; by HD95, where less is better, C, A, B.
        ranks = rank(
            metrics=(dice, recall, hd95_directed),
            A={"dice": [0.9, 0.7], "recall": [0.1, 0.1], "hd95_directed_mm": [2.0, 4.0]},
            B={"dice": [0.7, 0.7], "recall": [0.4, 0.6], "hd95_directed_mm": [5.0, 5.0]},
            C={"dice": [0.1, 0.3], "recall": [0.5, 0.5], "hd95_directed_mm": [1.0, 1.0]},
        )
        assert ranks.mean_ranks == pytest.approx([(1 + 3 + 2) / 3, (2 + 1.5 + 3) / 3, (3 + 1.5 + 1) / 3])
        assert ranks.places[0].tolist() == [2, 3, 1]

    def test_equal_mean_ranks_share_the_better_place(self, rank):
        ranks = rank(
            metrics=(dice, recall),
            A={"dice": [0.9, 0.9], "recall": [0.1, 0.1]},
            B={"dice": [0.8, 0.8], "recall": [0.2, 0.2]},
            C={"dice": [0.1, 0.1], "recall": [0.0, 0.0]},
        )
        assert (ranks.places == [1, 1, 3]).all()

    def test_resamples_are_of_patients_not_cases(self, rank):
        # Two patients: resamples are aa, ab, ba and bb, so that B, better in b, wins three of four.
        values = {"A": {"dice": [0.5] * 8}, "B": {"dice": [0.4] * 4 + [0.8] * 4}}
        ranks = rank(patients="aaaabbbb", number=4000, **values)
        assert (ranks.places[1:] == 1).mean(axis=0) == pytest.approx([1 / 4, 3 / 4], abs=0.03)

    def test_metrics_without_a_value_of_every_model_do_not_count(self, rank):
        ranks = rank(
            metrics=(dice, recall),
            A={"dice": [0.2, 0.3], "recall": [0.5, 0.5]},
            B={"dice": [0.5, 0.6], "recall": [math.nan, math.nan]},
        )
        assert ranks.metrics == ("dice",)
        assert rank(A={"dice": [math.nan] * 2}, B={"dice": [0.1] * 2}) is None

    def test_a_metric_missing_in_some_resamples_leaves_the_others(self, rank):
        # A has a recall, of which it has more, in one of three patients: where that is drawn, in 19 of 27
        # resamples, both models share the first place; elsewhere B is first by Dice.
        ranks = rank(
            metrics=(dice, recall),
            number=2000,
            A={"dice": [0.1] * 3, "recall": [0.9, math.nan, math.nan]},
            B={"dice": [0.2] * 3, "recall": [0.1, 0.1, 0.1]},
        )
        assert (ranks.places[1:] == 1).mean(axis=0) == pytest.approx([19 / 27, 1], abs=0.04)

    def test_one_patient_gives_a_ranking_without_resamples(self, rank):
        ranks = rank(patients="aa", A={"dice": [0.2, 0.3]}, B={"dice": [0.5, 0.6]})
        assert ranks.places.tolist() == [[2, 1]]

    def test_models_on_different_patients_can_be_ranked(self, rows):
        tables = {"A": rows(dice=[0.1, 0.2]), "B": rows(model="B", dice=[0.3], patients="z")}
        tables = {name: rows_of(table, model=name, label="tumour") for name, table in tables.items()}
        assert rank_models(tables, [dice], resampling=RESAMPLING).places[0].tolist() == [2, 1]


# --- training seeds ----------------------------------------------------------------------------------------


def mean_of(values):
    """Return the weighted mean over patients as a statistic of one training."""
    values = np.asarray(values, dtype=float)
    return lambda weights: (weights @ values / weights.sum(axis=1))[:, None]


def draw_crossed(rng, *, patients, seeds, networks=2, sigma=(1.0, 0.3, 0.5), difference=0.0):
    """Draw values (networks, seeds, patients): of a patient, of a seed of a network, and what is left."""
    of_patients, of_seeds, left = sigma
    values = rng.normal(0, of_patients, patients) + rng.normal(0, left, (networks, seeds, patients))
    values += rng.normal(0, of_seeds, (networks, seeds, 1))
    values[0] += difference
    return values


def compared(values, **options):
    """Return the difference of two networks' means with its interval."""
    (found,) = estimate_over_seeds(
        *([mean_of(seed) for seed in network] for network in values),
        patients=values.shape[-1],
        **{"resampling": RESAMPLING} | options,
    )
    return found


class TestOverSeeds:
    def test_with_one_seed_patients_alone_are_drawn_as_scipy_does(self):
        values = np.random.default_rng(0).exponential(2, 30)
        expected = stats.bootstrap(
            (values,), np.mean, n_resamples=500, method="percentile", rng=np.random.default_rng(3)
        )
        (found,) = estimate_over_seeds([mean_of(values)], patients=30, resampling=RESAMPLING)
        assert found.value == pytest.approx(values.mean())
        assert found.standard_error == pytest.approx(expected.standard_error)
        interval = found.interval
        assert (interval.low, interval.high) == pytest.approx(expected.confidence_interval, abs=0.03)

    def test_a_network_against_itself_differs_by_its_seeds_alone(self):
        values = draw_crossed(np.random.default_rng(0), patients=20, seeds=3, networks=1)
        same = compared(np.concatenate([values[:, :1], values[:, :1]]))
        assert (same.value, same.standard_error) == (0, 0)
        assert compared(np.concatenate([values, values])).standard_error > 0

    @pytest.mark.parametrize("seeds", [2, 3, 5])
    def test_the_variance_over_seeds_alike_patients_is_that_of_a_mean(self, seeds):
        of_seeds = np.random.default_rng(seeds).normal(size=seeds)
        values = np.broadcast_to(of_seeds[:, None], (seeds, 10))
        resampling = Resampling(seed=0, number=20_000)
        (found,) = estimate_over_seeds([mean_of(seed) for seed in values], patients=10, resampling=resampling)
        assert found.standard_error == pytest.approx(of_seeds.std(ddof=1) / np.sqrt(seeds), rel=0.03)

    def test_it_holds_the_true_difference_about_as_often_as_it_says(self):
        rng, resampling = np.random.default_rng(1), Resampling(seed=0, number=400)
        drawn = (draw_crossed(rng, patients=24, seeds=3, difference=0.5) for _ in range(200))
        found = [compared(values, resampling=resampling).interval for values in drawn]
        held = np.mean([each.low <= 0.5 <= each.high for each in found])
        assert 0.85 <= held <= 0.97  # three seeds tell little of how much seeds differ

    def test_more_patients_make_smaller_differences_detectable(self):
        values = draw_crossed(np.random.default_rng(2), patients=16, seeds=1, sigma=(1.0, 0.0, 1.0))
        now, planned = (compared(values, drawn=drawn) for drawn in (None, 64))
        assert planned.detectable == pytest.approx(now.detectable / 2, rel=0.15)
        assert now.detectable == 2.8 * now.standard_error

    def test_a_statistic_that_some_resamples_do_not_have_widens_the_interval_or_has_none(self):
        rng = np.random.default_rng(0)
        values = rng.normal(size=20)

        def sometimes(share):
            def statistic(weights):
                missing = rng.permutation(len(weights)) < share * len(weights)
                missing[0] = False
                return np.where(missing, np.nan, mean_of(values)(weights)[:, 0])[:, None]

            return estimate_over_seeds([statistic], patients=20, resampling=RESAMPLING)[0].interval

        narrow, wide, none = (sometimes(share) for share in (0.0, 0.02, 0.2))
        assert wide.low < narrow.low < narrow.high < wide.high
        assert math.isnan(none.low)
        assert "20 %" in none.reason

    def test_one_patient_has_no_interval(self):
        (found,) = estimate_over_seeds([mean_of([3.0])], patients=1, resampling=RESAMPLING)
        assert (found.value, found.interval.reason) == (3, TOO_FEW_PATIENTS)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("default")
    def test_the_standard_error_is_that_of_a_mixed_model(self):
        rng = np.random.default_rng(0)
        ratios = []
        for _ in range(6):
            values = draw_crossed(rng, patients=20, seeds=4, sigma=(1.0, 0.6, 0.5))
            network, seed, patient = np.indices(values.shape).reshape(3, -1)
            rows = pd.DataFrame({"value": values.ravel(), "network": network, "patient": patient})
            rows["training"] = network * 10 + seed
            parts = {"patient": "0 + C(patient)", "training": "0 + C(training)"}
            model = smf.mixedlm("value ~ network", rows, groups=np.ones(len(rows)), vc_formula=parts).fit()
            ratios.append(compared(values).standard_error / model.bse["network"])
        assert np.mean(ratios) == pytest.approx(1, abs=0.1)
        assert np.ptp(ratios) < 0.3
