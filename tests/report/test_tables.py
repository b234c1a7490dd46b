import math

import numpy as np
import pandas as pd
import pytest

from sgnet_nnunet.evaluation.summary import summarise
from sgnet_nnunet.report.tables import model_tables, tables_of

pytestmark = pytest.mark.filterwarnings("error")


def summary_of(figures):
    return summarise(figures, rng=np.random.default_rng(0), resamples=50)


@pytest.fixture(scope="module")
def summary(random_figures):
    return summary_of(random_figures())


def column(table, title):
    return [row[table.header.index(title)] for row in table.rows]


def test_the_published_columns_come_first(summary):
    masks, lesions, *_ = tables_of(summary)
    assert masks.header == ("Model", "Dice", "Precision", "Recall", "HD95 directed (mm)", "Parameters")
    assert lesions.header == (
        *("Model", "Lesion sensitivity", "Lesion precision", "Lesion F1", "False positives per case"),
        *("NSD at 1 mm", "Seconds per case"),
    )
    assert "the larger of the two directed percentiles" in masks.note


def test_every_row_has_a_cell_for_every_column(summary):
    for table in tables_of(summary):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_no_two_columns_of_a_table_have_one_title(summary):
    assert all(len(set(table.header)) == len(table.header) for table in tables_of(summary))


def test_cells_hold_mean_deviation_and_interval(rows, figures_of):
    table, _ = model_tables(summary_of(figures_of(rows(dice=[0.2, 0.6]))), label="tumour")
    (cell,) = column(table, "Dice")
    assert cell.text == "0.400 ± 0.283"
    assert cell.detail == "0.200 to 0.600"


def test_the_best_is_the_highest_share_and_the_lowest_distance(rows, figures_of):
    tables = [
        rows(model="A", dice=[0.5, 0.6], hd95_directed_mm=[9.0, 9.0]),
        rows(model="B", dice=[0.7, 0.8], hd95_directed_mm=[11.0, 12.0]),
    ]
    masks, _ = model_tables(summary_of(figures_of(pd.concat(tables))), label="tumour")
    assert [cell.best for cell in column(masks, "Dice")] == [False, True]
    assert [cell.best for cell in column(masks, "HD95 directed (mm)")] == [True, False]


def test_models_that_print_alike_are_both_best(rows, figures_of):
    tables = [rows(model="A", dice=[0.50001, 0.5]), rows(model="B", dice=[0.5, 0.5])]
    masks, _ = model_tables(summary_of(figures_of(pd.concat(tables))), label="tumour")
    assert [cell.best for cell in column(masks, "Dice")] == [True, True]


def test_a_model_without_values_is_a_dash_and_never_the_best(rows, figures_of):
    tables = [rows(model="A", dice=[math.nan, math.nan]), rows(model="B", dice=[0.5, 0.5])]
    masks, _ = model_tables(summary_of(figures_of(pd.concat(tables))), label="tumour")
    assert [(cell.text, cell.best) for cell in column(masks, "Dice")] == [
        ("–", False),
        ("0.500 ± 0.000", True),
    ]


def test_a_single_model_is_not_the_best_of_any(rows, figures_of):
    masks, _ = model_tables(summary_of(figures_of(rows(dice=[0.2, 0.6]))), label="tumour")
    assert not any(cell.best for row in masks.rows for cell in row)


def test_parameters_and_seconds_are_shown_if_known(rows, figures_of):
    figures = rows(dice=[0.2, 0.6])
    known = model_tables(
        summary_of(figures_of(figures, parameters=670_000, seconds_per_case=1.5)), label="tumour"
    )
    unknown = model_tables(summary_of(figures_of(figures)), label="tumour")
    assert [table.rows[0][-1].text for table in known] == ["670,000", "1.50"]
    assert [table.rows[0][-1].text for table in unknown] == ["–", "–"]


def test_tables_without_rows_are_left_out(rows, figures_of):
    titles = [table.title for table in tables_of(summary_of(figures_of(rows(dice=[0.2, 0.6]))))]
    assert not [title for title in titles if "differences" in title or "ranking" in title]


def test_differences_show_their_direction_and_both_p(summary):
    table = next(table for table in tables_of(summary) if "differences to Model_0" in table.title)
    assert {"Difference", "p", "p (Holm)", "Effect", "Patients"} <= set(table.header)
    (cell,) = [row[2] for row in table.rows if [each.text for each in row[:2]] == ["Dice", "Model_2"]]
    mean = summary.difference_of["Model_2", "tumour", "dice"].mean
    assert cell.text == f"{mean:+.3f}"
    assert "18 tests" in table.note


def test_pooled_lesions_begin_with_those_of_any_size(summary):
    table = next(table for table in tables_of(summary) if "together" in table.title)
    sizes = list(dict.fromkeys(cell.text for cell in column(table, "Lesions")))
    assert sizes == ["of any size", "below 5 mm", "of 5 to below 10 mm", "of 10 mm or more"]
