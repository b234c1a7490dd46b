import math

import pandas as pd
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.statistics import metrics_of, rows_of, sums_by_patient


def test_rows_come_by_case_whatever_their_order(rows):
    table = pd.concat([rows(dice=[0.1, 0.2, 0.3]), rows(model="B", dice=[0.4])])
    sorted_rows = rows_of(table, model="A", label="tumour")
    assert list(sorted_rows.index) == ["case000", "case001", "case002"]
    pd.testing.assert_frame_equal(rows_of(table.iloc[::-1], model="A", label="tumour"), sorted_rows)


def test_an_empty_text_read_back_as_nan_is_an_empty_text(rows):
    table = rows(dice=[0.1]).assign(empty=math.nan)
    assert list(rows_of(table, model="A", label="tumour")["empty"]) == [""]


def test_a_case_predicted_twice_is_named(rows):
    twice = pd.concat([rows(dice=[0.1, 0.2]), rows(dice=[0.3]).assign(fold="1")])
    with pytest.raises(SGNetError, match=r"A has two predictions of the case case000; give only folds"):
        rows_of(twice, model="A", label="tumour")


def test_a_column_that_is_no_metrics_is_named(rows):
    with pytest.raises(SGNetError, match="'dise'"):
        metrics_of(rows(dice=[0.1], dise=[0.2]))


def test_metrics_come_in_the_catalogues_order_presets_last(rows):
    table = rows(brats2023_dice=[1.0], recall=[0.5], dice=[0.1])
    assert [metric.name for metric in metrics_of(table)] == ["dice", "recall", "brats2023_dice"]


def test_sums_of_patients_leave_nan_out(rows):
    table = rows(patients="abba", dice=[0.5, 1.0, math.nan, 0.25])
    sums, counts = sums_by_patient(table["dice"], table["patient"], among=pd.Index(["c", "b", "a"]))
    assert list(sums) == [0, 1, 0.75]
    assert list(counts) == [0, 1, 2]
