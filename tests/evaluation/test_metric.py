import math
from dataclasses import dataclass

import pytest

from sgnet_nnunet.evaluation.mask_metrics import Amount, Description, Distance, Metric, Share
from sgnet_nnunet.evaluation.registry import CASE_METRICS, PRESETS

EVERY = [*CASE_METRICS, *(metric for preset in PRESETS.values() for metric in preset)]
LESION = [((4, 4, 4), (6, 6, 6))]


def of_kind(*kinds):
    return [pytest.param(metric, id=metric.name) for metric in EVERY if isinstance(metric, kinds)]


@pytest.mark.parametrize("metric", of_kind(Metric))
def test_every_metric_knows_its_unit_and_which_way_is_better(metric, make_pair):
    grid = make_pair().grid
    assert metric.name.isidentifier()
    assert metric.unit in {"", "mm", "mm3", "lesions"}
    if metric.higher_is_better is None:
        assert math.isnan(metric.best)
    else:
        assert (metric.best > metric.worst(grid)) == metric.higher_is_better


def test_names_are_unique():
    assert len({metric.name for metric in EVERY}) == len(EVERY)


@pytest.mark.parametrize("metric", [m for m in of_kind(Metric) if m.values[0].higher_is_better is not None])
def test_a_perfect_mask_gets_the_best_value(metric, make_pair):
    pair = make_pair(predicted=LESION, reference=LESION, spacing=(1.0, 1.5, 2.0))
    assert metric(pair) == metric.best or math.isnan(metric(pair))  # NaN: a size without lesions


@pytest.mark.parametrize("metric", of_kind(Share, Distance))
def test_two_empty_masks_give_no_number(metric, make_pair):
    assert math.isnan(metric(make_pair()))


@pytest.mark.parametrize("metric", of_kind(Share))
@pytest.mark.parametrize("side", ["predicted", "reference"])
def test_one_empty_mask_is_the_worst_share(metric, side, make_pair):
    assert metric(make_pair(**{side: LESION})) == 0


@pytest.mark.parametrize("metric", of_kind(Distance))
@pytest.mark.parametrize("side", ["predicted", "reference"])
def test_one_empty_mask_is_as_far_as_the_image_is_wide(metric, side, make_pair):
    pair = make_pair(**{side: LESION}, spacing=(1.0, 2.0, 3.0))
    assert metric(pair) == pytest.approx(math.hypot(20, 40, 60))


@pytest.mark.parametrize("metric", of_kind(Amount))
def test_an_amount_has_no_upper_limit(metric, make_pair):
    assert metric.worst(make_pair().grid) == math.inf


@pytest.mark.parametrize("metric", of_kind(Description))
def test_a_description_of_nothing_is_zero(metric, make_pair):
    assert metric(make_pair()) == 0


def test_a_new_metric_is_one_small_class(make_pair):
    @dataclass(frozen=True)
    class Jaccard(Share):
        name = "jaccard"

        def measure(self, pair):
            return pair.common_voxels / (pair.prediction | pair.reference).sum()

    pair = make_pair(predicted=[((4, 4, 4), (2, 1, 1))], reference=[((5, 4, 4), (2, 1, 1))])
    assert Jaccard()(pair) == pytest.approx(1 / 3)
    assert Jaccard() == Jaccard()
