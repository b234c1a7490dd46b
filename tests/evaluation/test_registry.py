"""The metrics and what each says of itself."""

import math

import numpy as np
import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation import registry
from sgnet_nnunet.evaluation.lesion_metrics import lesion_rows
from sgnet_nnunet.evaluation.pairs import MaskPair
from sgnet_nnunet.evaluation.registry import (
    SHARE,
    case_metrics,
    find_metric,
    measure,
    register_metric,
    registered_metrics,
)

METRICS = registered_metrics()
LESION = [((4, 4, 4), (6, 6, 6))]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_declares_what_tables_and_figures_need(metric):
    assert metric.name.isidentifier()
    assert metric.title
    assert metric.meaning
    assert metric.decimals >= 0
    low, high = metric.limits
    if metric.higher_is_better is None:
        assert math.isnan(metric.best)
    else:
        assert metric.best == (high if metric.higher_is_better else low)


def test_names_and_titles_are_unique():
    for attribute in ("name", "title"):
        assert len({getattr(metric, attribute) for metric in METRICS}) == len(METRICS)


def test_headline_metrics_measure_quality_and_the_ranked_ones_are_few_among_them():
    headline = [metric for metric in METRICS if metric.headline]
    assert all(metric.higher_is_better is not None for metric in headline)
    ranked = [metric.name for metric in headline if metric.ranked]
    assert ranked == ["dice", "nsd_1mm", "lesion_f1", "false_positives"]
    assert not [metric for metric in METRICS if metric.ranked and not metric.headline]


@pytest.mark.parametrize(
    "metric", [each for each in METRICS if not math.isnan(each.best)], ids=lambda metric: metric.name
)
def test_a_perfect_mask_gets_the_best_value(metric, make_pair):
    pair = make_pair(predicted=LESION, reference=LESION, spacing=(1.0, 1.5, 2.0))
    assert metric(pair) == metric.best or math.isnan(metric(pair))  # NaN: a size without lesions


@pytest.mark.parametrize("metric", case_metrics(), ids=lambda metric: metric.name)
def test_two_empty_masks_give_no_number_unless_they_are_counted(metric, make_pair):
    value = metric(make_pair())
    assert value == 0 if metric.both_empty == "measured" else math.isnan(value)


@pytest.mark.parametrize("metric", case_metrics(), ids=lambda metric: metric.name)
@pytest.mark.parametrize("side", ["predicted", "reference"])
def test_one_empty_mask_is_the_worst_share_and_as_far_as_the_image_is_wide(metric, side, make_pair):
    pair = make_pair(**{side: LESION}, spacing=(1.0, 2.0, 3.0))
    if metric.unit in {"", "mm"}:
        value = metric(pair)
        of_other_size = metric.one_empty == "measured" and math.isnan(value)
        assert of_other_size or value == pytest.approx(math.hypot(20, 40, 60) if metric.unit else 0)
        expected = metric.value_if_one_empty(pair.grid)
        assert math.isnan(expected) or value == expected
    else:
        assert 0 <= metric(pair) <= 6**3 * 6
        assert math.isnan(metric.value_if_one_empty(pair.grid))


def test_a_new_metric_is_one_small_function(make_pair, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))

    @register_metric("jaccard", "Jaccard", SHARE)
    def jaccard(pair):
        """Jaccard index."""
        return pair.common_voxels / (pair.prediction | pair.reference).sum()

    pair = make_pair(predicted=[((4, 4, 4), (2, 1, 1))], reference=[((5, 4, 4), (2, 1, 1))])
    assert list(measure(pair)) == [metric.name for metric in case_metrics()]
    assert measure(pair)["jaccard"] == pytest.approx(1 / 3)
    assert find_metric("jaccard") is jaccard
    assert jaccard.as_dict()["meaning"] == "Jaccard index"
    assert jaccard(make_pair(predicted=LESION)) == 0
    with pytest.raises(ValueError, match="a metric named 'jaccard' already"):
        register_metric("jaccard", "Again", SHARE)(lambda _: 0.0)


def test_an_unknown_metric_is_refused_by_name():
    with pytest.raises(SGNetError, match="no metric 'dise'"):
        find_metric("dise")


def test_presets_come_after_the_metrics_of_every_case_and_unknown_ones_are_refused():
    every = case_metrics()
    assert [metric.name for metric in case_metrics(["brats2023"])[len(every) :]] == [
        "brats2023_dice",
        "brats2023_hd95_mm",
    ]
    assert len(case_metrics(["brats2026", "brats2023", "brats2026"])) == len(METRICS)
    with pytest.raises(SGNetError, match="no preset 'brats2020'; name brats2023 or brats2026"):
        case_metrics(["brats2020"])


@pytest.mark.parametrize(
    ("name", "title", "meaning"),
    [
        ("hd95_pooled_mm", "HD95 pooled (mm)", "medpy"),
        ("nsd_2mm", "NSD at 2 mm", "surface Dice"),
        ("lesion_sensitivity_under_5mm", "Lesion sensitivity (< 5 mm)", "lesions < 5 mm in diameter"),
        ("lesion_f1_5_to_10mm", "Lesion F1 (5 to < 10 mm)", "5 to < 10 mm"),
        ("false_positives_from_10mm", "False positives per case (≥ 10 mm)", "≥ 10 mm"),
    ],
)
def test_title_and_meaning_have_the_metrics_parameters(name, title, meaning):
    metric = find_metric(name)
    assert metric.title == title
    assert meaning in metric.meaning
    assert not metric.headline


def test_the_order_in_memory_changes_nothing(boxes):
    """Readers differ in it: nibabel gives Fortran order."""
    masks = (
        boxes(((4, 5, 6), (6, 5, 4)), ((15, 15, 15), (2, 2, 2))),
        boxes(((5, 5, 5), (5, 5, 5)), ((1, 9, 15), (2, 2, 2)), ((9, 1, 15), (2, 2, 1))),
    )
    affine = np.array([[0, -2.0, 0, 10], [1.0, 0, 0, 20], [0, 0, -3.0, 30], [0, 0, 0, 1]])
    expected = MaskPair(*masks, affine=affine)
    fortran = [np.asfortranarray(mask) for mask in masks]
    for others in (fortran, [masks[0], fortran[1]]):
        pair = MaskPair(*others, affine=affine)
        assert measure(pair, METRICS) == pytest.approx(measure(expected, METRICS), nan_ok=True)
        for ours, theirs in zip(lesion_rows(pair), lesion_rows(expected), strict=True):
            numbers = [value for value in vars(theirs).values() if not isinstance(value, str)]
            assert [value for value in vars(ours).values() if not isinstance(value, str)] == pytest.approx(
                numbers
            )
            assert ours.status == theirs.status
