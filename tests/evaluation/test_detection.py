import math

import pytest

from sgnet_nnunet.evaluation.lesion_metrics import (
    FalsePositives,
    LesionF1,
    LesionPrecision,
    LesionSensitivity,
    SizeClass,
    lesions_of,
)

SMALL, LARGE = SizeClass(limit_mm=5), SizeClass(smallest_mm=5)


@pytest.fixture
def pair(make_pair):
    """Two of three lesions found, one of them large (6.2 mm); one small and one large false positive."""
    return make_pair(
        reference=[((0, 0, 0), (5, 5, 5)), ((10, 0, 0), (2, 2, 2)), ((0, 10, 0), (2, 2, 2))],
        predicted=[
            ((1, 1, 1), (5, 5, 5)),
            ((11, 1, 1), (2, 2, 2)),
            ((10, 10, 10), (5, 5, 5)),
            ((18, 18, 18), (1, 1, 1)),
        ],
    )


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        (LesionSensitivity(), 2 / 3),
        (LesionPrecision(), 2 / 4),
        (LesionF1(), 4 / (4 + 1 + 2)),
        (FalsePositives(), 2),
        (LesionSensitivity(size=SMALL), 1 / 2),
        (LesionPrecision(size=SMALL), 1 / 2),
        (LesionF1(size=SMALL), 2 / (2 + 1 + 1)),
        (FalsePositives(size=SMALL), 1),
        (LesionSensitivity(size=LARGE), 1),
        (LesionPrecision(size=LARGE), 1 / 2),
        (LesionF1(size=LARGE), 2 / (2 + 1)),
        (FalsePositives(size=LARGE), 1),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_values_equal_those_worked_out_by_hand(metric, value, pair):
    assert metric(pair) == pytest.approx(value)


def test_a_lesion_counts_in_its_own_class_whatever_the_size_of_what_finds_it(make_pair):
    pair = make_pair(reference=[((0, 0, 0), (5, 5, 5))], predicted=[((1, 1, 1), (1, 1, 1))])
    assert LesionSensitivity(size=LARGE)(pair) == LesionF1(size=LARGE)(pair) == 1
    assert math.isnan(LesionPrecision(size=LARGE)(pair))
    assert LesionPrecision(size=SMALL)(pair) == 1


def test_a_healthy_case_has_no_false_positives(make_pair):
    assert FalsePositives()(make_pair()) == 0
    assert FalsePositives()(make_pair(predicted=[((1, 1, 1), (1, 1, 1)), ((5, 5, 5), (1, 1, 1))])) == 2


def test_diameters_are_in_mm(make_pair):
    lesion = [((0, 0, 0), (1, 1, 1))]
    coarse = make_pair(reference=lesion, predicted=lesion, spacing=(5.0, 5.0, 5.0))
    assert LesionSensitivity(size=LARGE)(coarse) == 1


def test_a_lesion_at_a_limit_belongs_to_the_class_above_alone(make_pair):
    lesion = [((0, 0, 0), (2, 2, 2))]
    pair = make_pair(reference=lesion, predicted=lesion)
    limit = float(lesions_of(pair).reference.diameters_mm[0])
    assert math.isnan(LesionSensitivity(size=SizeClass(limit_mm=limit))(pair))
    assert LesionSensitivity(size=SizeClass(smallest_mm=limit))(pair) == 1


def test_names_tell_the_class():
    classes = SizeClass(), SMALL, SizeClass(smallest_mm=5, limit_mm=10), LARGE
    assert [size.suffix for size in classes] == ["", "_under_5mm", "_5_to_10mm", "_from_5mm"]


@pytest.mark.parametrize("limits", [(5.0, 5.0), (-1.0, 5.0)])
def test_an_impossible_class_is_refused(limits):
    smallest, limit = limits
    with pytest.raises(ValueError, match=f"below limit_mm; got {smallest} and {limit}"):
        SizeClass(smallest_mm=smallest, limit_mm=limit)
