"""The statistics of a table of cases."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.comparison import compare, metrics_of
from sgnet_nnunet.evaluation.lesion_metrics import ALL_SIZES, SIZE_CLASSES
from sgnet_nnunet.evaluation.registry import case_metrics
from sgnet_nnunet.evaluation.results import Model
from sgnet_nnunet.evaluation.statistics import ALL_EQUAL, INFINITE, TOO_FEW_PATIENTS

pytestmark = pytest.mark.filterwarnings("error")
ALL_METRICS = tuple(metric.name for metric in case_metrics())
HEADLINE_METRICS = {metric.name for metric in case_metrics() if metric.headline}
LESION_COUNTS = ("detected_lesions", "reference_lesions", "false_positives")
TABLES = ("counts", "descriptions", "differences", "ranking", "pooled")


def of(table, **options):
    return compare(table, **{"resamples": 100} | options)


def only(frame):
    (row,) = frame.to_dict("records")
    return row


@pytest.fixture
def difference(rows):
    """Return a function that compares B's Dice values with A's."""

    def compute(own, other, *, patients=None, metric="dice", resamples=100):
        tables = [
            rows(model=name, patients=patients, **{metric: values})
            for name, values in (("A", other), ("B", own))
        ]
        return only(of(pd.concat(tables), resamples=resamples).differences)

    return compute


class TestWhole:
    def test_it_covers_every_model_metric_and_label(self, random_figures):
        comparison = of(random_figures(models=3, metrics=ALL_METRICS).per_case)
        assert len(comparison.descriptions) == 3 * len(ALL_METRICS)
        assert len(comparison.differences) == 2 * len(ALL_METRICS)
        assert len(comparison.pooled) == 3 * 4
        assert len(comparison.ranking) == len(comparison.counts) == 3

    def test_the_same_seed_gives_the_same_whatever_the_order_of_rows(self, random_figures):
        table = random_figures(models=2, metrics=ALL_METRICS).per_case
        models = [Model(name=f"Model_{i}") for i in range(2)]
        first = of(table, models=models)
        shuffled = of(table.sample(frac=1, random_state=0), models=models)
        for name in TABLES:
            pd.testing.assert_frame_equal(getattr(first, name), getattr(shuffled, name))
        other = of(table, rng=1)
        assert not first.descriptions["low"].equals(other.descriptions["low"])
        assert first.protocol.resampling_seed != other.protocol.resampling_seed

    def test_a_models_own_statistics_do_not_change_with_the_others(self, random_figures):
        table = random_figures(models=3).per_case
        fewer = of(table[table["model"] != "Model_2"]).descriptions
        every = of(table).descriptions
        pd.testing.assert_frame_equal(every[every["model"] != "Model_2"].reset_index(drop=True), fewer)

    def test_labels_come_one_after_the_other_and_are_families_of_their_own(self, rows):
        table = pd.concat(
            rows(model=model, label=label, dice=values)
            for model, values in (("A", [0.1, 0.2, 0.3]), ("B", [0.4, 0.5, 0.7]))
            for label in ("core", "edema")
        )
        comparison = of(table)
        assert comparison.labels == ("core", "edema")
        assert comparison.differences[["label", "family"]].to_numpy().tolist() == [["core", 1], ["edema", 1]]
        assert comparison.ranking["label"].tolist() == ["core", "core", "edema", "edema"]

    def test_the_first_model_is_the_baseline_unless_another_is_named(self, random_figures):
        table = random_figures().per_case
        first = of(table)
        assert set(first.differences["baseline"]) == {first.baseline} == {"Model_0"}
        named = of(table, baseline="Model_2")
        assert set(named.differences["model"]) == {"Model_0", "Model_1"}
        pick = "metric == 'dice' and model == '{}'"
        there, back = (
            only(each.differences.query(pick.format(model)))
            for each, model in ((first, "Model_2"), (named, "Model_0"))
        )
        assert (back["mean"], back["effect"], back["p"]) == pytest.approx(
            (-there["mean"], -there["effect"], there["p"])
        )

    def test_an_unknown_baseline_and_an_unknown_column_are_refused(self, rows):
        table = pd.concat([rows(dice=[0.1]), rows(model="B", dice=[0.1])])
        with pytest.raises(SGNetError, match="no model UNet; name one of A, B as the baseline"):
            of(table, baseline="UNet")
        with pytest.raises(SGNetError, match="'dise'"):
            of(table.assign(dise=0.5))
        with pytest.raises(SGNetError, match="B has no case with the label core"):
            of(pd.concat([table, rows(label="core", dice=[0.1])]))

    def test_metrics_come_in_the_registrys_order_presets_last(self, rows):
        table = rows(brats2023_dice=[1.0], recall=[0.5], dice=[0.1])
        assert [metric.name for metric in metrics_of(table)] == ["dice", "recall", "brats2023_dice"]

    def test_a_single_model_is_described_and_not_compared(self, random_figures):
        comparison = of(random_figures(models=1).per_case)
        assert len(comparison.descriptions)
        assert comparison.differences.empty
        assert comparison.ranking.empty

    def test_one_case_of_one_patient_gives_values_with_reasons(self, rows):
        comparison = of(pd.concat([rows(dice=[0.1]), rows(model="B", dice=[0.4])]))
        assert set(comparison.descriptions["reason"]) == {TOO_FEW_PATIENTS}
        assert set(comparison.differences["test_reason"]) == {TOO_FEW_PATIENTS}
        assert comparison.ranking["model"].tolist() == ["B", "A"]
        assert comparison.ranking["low"].isna().all()

    def test_a_metric_that_is_nan_everywhere_stays_out_of_family_and_ranking(self, rows):
        values = {"dice": [0.1, 0.4, 0.6], "lesion_f1": [math.nan] * 3}
        comparison = of(pd.concat([rows(**values), rows(model="B", **values)]))
        assert comparison.differences["family"].tolist() == [1, 0]
        assert comparison.ranking["metrics"].tolist() == [["dice"], ["dice"]]

    def test_as_a_dictionary_it_has_every_table_and_how_it_was_made(self, random_figures):
        content = of(random_figures(models=2).per_case, dataset="d").as_dict()
        assert content["dataset"] == "d"
        assert content["protocol"]["baseline"] == "Model_0"
        assert content["metrics"][0]["title"] == "Dice"
        assert content["descriptions"][0]["model"] == "Model_0"

    @pytest.mark.slow
    def test_six_models_on_92_cases_take_seconds(self, random_figures):
        table = random_figures(models=6, cases=92, metrics=ALL_METRICS).per_case
        start = time.process_time()
        of(table, resamples=2000)
        assert time.process_time() - start < 10


class TestCountsAndDescriptions:
    def test_cases_are_counted_by_what_is_empty(self, rows):
        table = rows(patients="aabcd", dice=[0.0] * 5)
        table["empty"] = ["both", "prediction", "prediction", "reference", ""]
        table["missing"] = [False, True, False, False, False]
        counts = only(of(table).counts)
        assert (counts["cases"], counts["patients"], counts["missing"]) == (5, 4, 1)
        assert (counts["both_empty"], counts["empty_predictions"], counts["empty_references"]) == (1, 2, 1)

    def test_values_equal_those_worked_out_by_hand(self, rows):
        table = rows(patients="aabcde", dice=[0.0, 0.2, 0.4, 0.6, 1.0, math.nan])
        table["empty"] = ["prediction", "", "", "", "", "both"]
        row = only(of(table).descriptions)
        assert (row["n"], row["patients"], row["left_out"], row["one_empty"]) == (5, 4, 1, 1)
        assert row["mean"] == pytest.approx(0.44)
        assert row["sd"] == pytest.approx(math.sqrt((0.44**2 + 0.24**2 + 0.04**2 + 0.16**2 + 0.56**2) / 4))
        assert (row["q1"], row["median"], row["q3"]) == pytest.approx((0.2, 0.4, 0.6))
        assert row["low"] < 0.44 < row["high"]

    def test_a_case_without_a_value_does_not_count_as_one_with_an_empty_mask(self, rows):
        table = rows(lesion_sensitivity_under_5mm=[math.nan, 0.0])
        table["empty"] = ["prediction", "prediction"]
        assert only(of(table).descriptions)["one_empty"] == 1

    @pytest.mark.parametrize(
        ("values", "mean", "reason"),
        [
            ([math.nan] * 3, math.nan, TOO_FEW_PATIENTS),
            ([0.5], 0.5, TOO_FEW_PATIENTS),
            ([1.0, math.inf, 2.0], math.inf, INFINITE),
        ],
    )
    def test_without_an_interval_there_is_a_reason(self, rows, values, mean, reason):
        row = only(of(rows(volume_error_mm3=values)).descriptions)
        assert row["mean"] == pytest.approx(mean, nan_ok=True)
        assert math.isnan(row["sd"])
        assert row["reason"] == reason

    def test_two_scans_of_one_patient_widen_the_interval_of_the_mean(self, rows):
        values = np.random.default_rng(0).random(10).repeat(2)
        apart = only(of(rows(dice=values)).descriptions)
        together = only(of(rows(dice=values, patients="aabbccddeeffgghhiijj")).descriptions)
        assert together["high"] - together["low"] > 1.2 * (apart["high"] - apart["low"])


class TestDifferences:
    def test_cases_where_one_model_has_no_value_are_left_out(self, difference):
        row = difference([0.5, math.nan, 0.7, 0.9], [0.1, 0.2, math.nan, 0.6])
        assert (row["cases"], row["patients"]) == (2, 2)
        assert row["mean"] == pytest.approx((0.4 + 0.3) / 2)

    def test_cases_pair_by_name_whatever_either_model_has_besides(self, rows):
        table = pd.concat([rows(dice=[0.5, 0.1, 0.1]).iloc[[2, 1]], rows(model="B", dice=[0.1, 0.2, 0.3])])
        row = only(of(table).differences)
        assert (row["cases"], row["mean"]) == (2, pytest.approx(0.15))

    def test_interval_and_test_are_scipys_on_the_patients_mean_differences(self, difference):
        own, other = np.round(np.random.default_rng(0).random((2, 40)), 2)
        own[:8] = other[:8]
        patients = "aabbccddeeffgghhiijjklmnopqrstuvwxyzABCD"
        gaps = own - other
        by_patient = [gaps[[letter == each for letter in patients]].mean() for each in sorted(set(patients))]
        row = difference(own, other, patients=patients)
        assert row["p"] == pytest.approx(stats.wilcoxon(np.round(by_patient, 9), zero_method="pratt").pvalue)
        assert (row["patients"], row["cases"]) == (30, 40)
        row = difference(own, other)
        seed = int(np.random.default_rng(0).integers(2**32))
        expected = stats.bootstrap((gaps,), np.mean, n_resamples=100, rng=np.random.default_rng(seed))
        interval = expected.confidence_interval
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))

    def test_models_that_agree_everywhere_do_not_differ(self, difference):
        row = difference([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
        assert [row[name] for name in ("mean", "effect", "low", "high")] == [0, 0, 0, 0]
        assert (row["p"], row["test_reason"]) == (1, ALL_EQUAL)

    @pytest.mark.parametrize(
        ("own", "other", "patients"),
        [([0.5], [0.1], None), ([0.5, 0.6], [0.1, 0.1], "aa"), ([0.5, math.nan], [math.nan, 0.1], None)],
    )
    def test_fewer_than_two_patients_are_not_tested(self, own, other, patients, difference):
        row = difference(own, other, patients=patients)
        assert math.isnan(row["p"])
        assert row["reason"] == row["test_reason"] == TOO_FEW_PATIENTS

    @pytest.mark.parametrize("both", [True, False])
    def test_infinite_values_are_not_compared(self, both, difference):
        row = difference(
            [1.0, 2.0, math.inf], [1.0, 1.0, math.inf if both else 0.0], metric="false_positives"
        )
        assert math.isnan(row["mean"])
        assert math.isnan(row["p"])
        assert row["reason"] == row["test_reason"] == INFINITE

    def test_differences_that_are_equal_but_for_rounding_tie(self, difference):
        assert 0.3 - 0.2 != 0.2 - 0.1
        assert difference([0.3, 0.1, 0.5], [0.2, 0.2, 0.0])["effect"] == pytest.approx((1.5 - 1.5 + 3) / 6)

    def test_only_headline_metrics_are_tested_and_all_of_a_label_are_one_family(self, random_figures):
        differences = of(random_figures(models=3).per_case).differences
        tested = differences[differences["p"].notna()]
        assert set(tested["metric"]) == HEADLINE_METRICS
        assert set(tested["family"]) == {2 * len(HEADLINE_METRICS)}
        assert tested["p"].le(tested["p_holm"]).all()
        assert differences["mean"].notna().all()


class TestRanking:
    def test_shares_and_intervals_are_those_of_the_resampled_places(self, rows):
        values = np.random.default_rng(0).random((2, 30))
        ranking = of(pd.concat([rows(dice=values[0]), rows(model="B", dice=values[1])])).ranking
        assert ranking[["place_1", "place_2"]].sum(axis=1).tolist() == pytest.approx([1, 1])
        assert ranking["place_1"].min() > 0.02
        assert ranking[["low", "high"]].to_numpy().tolist() == [[1, 2], [1, 2]]

    def test_a_model_that_is_better_in_every_patient_is_first_in_every_resample(self, rows):
        ranking = of(pd.concat([rows(dice=[0.2, 0.3, 0.4]), rows(model="B", dice=[0.5, 0.6, 0.7])])).ranking
        columns = ["model", "rank", "mean_rank", "low", "high", "place_1", "place_2"]
        assert ranking[columns].to_numpy().tolist() == [["B", 1, 1, 1, 1, 1, 0], ["A", 2, 2, 2, 2, 0, 1]]

    def test_only_metrics_that_do_not_restate_each_other_count(self, random_figures):
        ranking = of(random_figures(models=2).per_case).ranking
        assert ranking["metrics"].iloc[0] == ["dice", "nsd_1mm", "lesion_f1", "false_positives"]


class TestPooled:
    @pytest.fixture
    def pool(self, rows):
        """Return a function that pools lesions: (detected, lesions, false) of each case by size class."""

        def compute(cases, *, patients="aabc"):
            columns = {}
            for size in (ALL_SIZES, *SIZE_CLASSES):
                counts = np.array([case.get(size, (0, 0, 0)) for case in cases], dtype=float)
                for name, values in zip(LESION_COUNTS, counts.T, strict=True):
                    columns[name + size.suffix] = values
            return of(rows(patients=patients, **columns)).pooled.set_index("size")

        return compute

    def test_values_equal_those_worked_out_by_hand(self, pool):
        cases = [{ALL_SIZES: counts} for counts in ((3, 4, 0), (0, 0, 1), (0, 1, 2), (0, 0, 0))]
        every = pool(cases).loc["any size"]
        assert every[["detected", "missed", "false_positives", "cases"]].tolist() == [3, 2, 3, 4]
        assert every["sensitivity"] == pytest.approx(3 / 5)
        assert every["precision"] == pytest.approx(3 / 6)
        assert every["f1"] == pytest.approx(6 / 11)
        assert every["false_positives_per_case"] == pytest.approx(3 / 4)
        assert every["false_positives_per_case_low"] <= 0.75 <= every["false_positives_per_case_high"]

    def test_each_size_class_is_pooled_by_itself(self, pool):
        small, middle, large = SIZE_CLASSES
        pooled = pool([{small: (1, 2, 1), large: (2, 2, 0)}, {middle: (0, 1, 0)}, {large: (0, 0, 2)}, {}])
        counts = pooled[["detected", "missed", "false_positives"]].to_numpy().tolist()
        assert counts == [[0, 0, 0], [1, 1, 1], [0, 1, 0], [2, 0, 2]]

    def test_a_case_with_many_lesions_weighs_more_than_in_the_mean_over_cases(self, pool):
        pooled = pool([{ALL_SIZES: (9, 9, 0)}, {}, {ALL_SIZES: (0, 1, 0)}, {}])
        assert pooled.loc["any size", "sensitivity"] == pytest.approx(0.9)  # the mean over cases is 0.5

    def test_without_lesions_there_are_no_false_positives_and_no_shares(self, pool):
        every = pool([{}] * 4).loc["any size"]
        assert every["false_positives_per_case"] == 0
        assert every[["sensitivity", "precision", "f1", "f1_low"]].isna().all()

    def test_without_columns_of_lesions_nothing_is_pooled(self, rows):
        assert of(rows(dice=[0.1])).pooled.empty
