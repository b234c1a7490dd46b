import math

import pandas as pd
import pytest

from sgnet_nnunet.evaluation.comparison import pool_lesions
from sgnet_nnunet.evaluation.lesion_metrics import SIZE_CLASSES, SizeClass
from sgnet_nnunet.evaluation.measurement import LESION_COLUMNS
from sgnet_nnunet.evaluation.statistics import TOO_FEW_PATIENTS, Resampling, rows_of

pytestmark = pytest.mark.filterwarnings("error")
LESIONS = (
    # case, patient, status, diameter in mm
    (0, "a", "detected", 4.9),
    (0, "a", "detected", 12.0),
    (0, "a", "detected", 12.0),
    (0, "a", "missed", 5.0),
    (1, "a", "false positive", 3.0),
    (2, "b", "missed", 2.0),
    (2, "b", "false positive", 10.0),
    (2, "b", "false positive", 11.0),
)


def lesions_of(lesions=LESIONS, *, model="A", label="tumour"):
    frame = pd.DataFrame(list(lesions), columns=["case", "patient", "status", "diameter_mm"])
    return frame.assign(model=model, label=label).reindex(columns=list(LESION_COLUMNS))


@pytest.fixture
def pool(rows):
    def compute(lesions, *, patients="aabc"):
        table = rows_of(rows(patients=patients, dice=[0.5] * len(patients)), model="A", label="tumour")
        resampling = Resampling(seed=0, number=200)
        pooled = pool_lesions(table, lesions, model="A", label="tumour", resampling=resampling)
        return {each.size: each for each in pooled}

    return compute


def test_figures_equal_those_worked_out_by_hand(pool):
    every = pool(lesions_of())[SizeClass()]
    assert (every.detected, every.missed, every.false_positives, every.cases) == (3, 2, 3, 4)
    assert every.sensitivity.value == pytest.approx(3 / 5)
    assert every.precision.value == pytest.approx(3 / 6)
    assert every.f1.value == pytest.approx(6 / 11)
    assert every.false_positives_per_case.value == pytest.approx(3 / 4)
    assert every.false_positives_per_case.interval.low <= 0.75 <= every.false_positives_per_case.interval.high


def test_each_lesion_counts_in_the_class_of_its_own_diameter(pool):
    pooled = pool(lesions_of())
    counts = [
        (pooled[size].detected, pooled[size].missed, pooled[size].false_positives) for size in SIZE_CLASSES
    ]
    assert counts == [(1, 1, 1), (0, 1, 0), (2, 0, 2)]


def test_a_case_with_many_lesions_weighs_more_than_in_the_mean_over_cases(pool):
    lesions = [(0, "a", "detected", 9.0)] * 9 + [(2, "b", "missed", 9.0)]
    assert pool(lesions_of(lesions))[SizeClass()].sensitivity.value == pytest.approx(0.9)  # mean: 0.5


def test_other_models_and_labels_do_not_count(pool):
    others = [lesions_of(model="B"), lesions_of(label="edema")]
    assert pool(pd.concat([lesions_of(), *others])) == pool(lesions_of())


@pytest.mark.parametrize("empty", [lesions_of([]), pd.DataFrame(columns=list(LESION_COLUMNS))])
def test_without_lesions_there_are_no_false_positives_and_no_shares(empty, pool):
    every = pool(empty)[SizeClass()]
    assert (every.detected, every.missed, every.false_positives) == (0, 0, 0)
    assert every.false_positives_per_case.value == 0
    for estimate in (every.sensitivity, every.precision, every.f1):
        assert math.isnan(estimate.value)
        assert estimate.interval.reason == TOO_FEW_PATIENTS


def test_f1_is_that_of_sensitivity_and_precision(pool):
    every = pool(lesions_of(LESIONS * 3))[SizeClass()]
    sensitivity, precision = every.sensitivity.value, every.precision.value
    assert every.f1.value == pytest.approx(2 * sensitivity * precision / (sensitivity + precision))
