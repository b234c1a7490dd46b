import math

import pytest

from sgnet_nnunet.evaluation.statistics import Interval
from sgnet_nnunet.report.tables import NOTHING, count, listed, number, p_value, places, plural, span


@pytest.mark.parametrize(
    ("value", "sign", "text"),
    [
        (0.12345, False, "0.123"),
        (0.12345, True, "+0.123"),
        (-0.0001, False, "0.000"),
        (-0.0001, True, "0.000"),
        (-1.5, True, "-1.500"),
        (math.nan, True, NOTHING),
        (math.inf, False, "∞"),
        (-math.inf, False, "-∞"),
    ],
)
def test_numbers(value, sign, text):
    assert number(value, 3, sign=sign) == text


def test_intervals():
    assert span(Interval(low=-0.4, high=6.46, method="BCa"), 1) == "-0.4 to 6.5"
    assert span(Interval(reason="too few"), 1) == ""
    assert places(Interval(low=1, high=3, method="percentile")) == "1 to 3"
    assert places(Interval(reason="too few")) == NOTHING


def test_an_interval_without_width_claims_nothing():
    assert span(Interval(low=1.0, high=1.0, method="percentile"), 1) == ""


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0004, "< 0.001"),
        (0.04, "0.040"),
        (0.0496, "0.0496"),
        (0.0504, "0.0504"),
        (1.0, "1.000"),
        (math.nan, NOTHING),
    ],
)
def test_p_shows_on_which_side_of_five_percent_it_is(p, text):
    assert p_value(p) == text


def test_words_for_numbers_and_lists():
    assert (count(670_000), plural(1, "case"), plural(1200, "case")) == ("670,000", "1 case", "1,200 cases")
    assert [listed(list(items)) for items in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
