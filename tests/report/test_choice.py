from dataclasses import replace

import numpy as np

from sgnet_nnunet.report.case_pictures import choose


def with_dice(figures, values):
    table = figures.per_case
    kept = table[table["model"] == "first"].head(len(values)).assign(dice=values)
    models = figures.results.models[:1]
    return replace(figures, per_case=kept, results=replace(figures.results, models=models))


def roles(figures):
    return [(choice.role, choice.case) for choice in choose(figures)]


def test_best_median_and_worst_by_dice(write_figures):
    figures = write_figures(names=("a", "b", "c", "d", "e"))
    chosen = roles(with_dice(figures, [0.1, 0.9, 0.5, 0.6, 0.2]))
    assert chosen == [("best", "b"), ("median", "c"), ("worst", "a")]


def test_of_two_cases_none_is_the_median(write_figures):
    assert roles(with_dice(write_figures(), [0.1, 0.9])) == [("best", "b"), ("worst", "a")]


def test_a_single_case_is_shown_once(write_figures):
    assert roles(with_dice(write_figures(), [0.4])) == [("best", "a")]


def test_cases_without_a_dice_are_not_shown(write_figures):
    assert roles(with_dice(write_figures(), [np.nan, 0.9, np.nan])) == [("best", "b")]
    assert roles(with_dice(write_figures(), [np.nan, np.nan])) == []


def test_equal_cases_come_in_the_order_of_their_names(write_figures):
    chosen = roles(with_dice(write_figures(), [0.5, 0.5, 0.5]))
    assert chosen == [("best", "a"), ("median", "b"), ("worst", "c")]
