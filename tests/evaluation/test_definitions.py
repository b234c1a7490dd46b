import pytest

from sgnet_nnunet.evaluation.comparison import HD95_MEANINGS, define, size_in_words
from sgnet_nnunet.evaluation.lesion_metrics import LesionSensitivity, SizeClass
from sgnet_nnunet.evaluation.measurement import HEADLINE_METRICS
from sgnet_nnunet.evaluation.registry import CASE_METRICS, PRESETS, SIZE_CLASSES
from sgnet_nnunet.evaluation.surface_metrics import HD95

METRICS = (*CASE_METRICS, *(metric for preset in PRESETS.values() for metric in preset))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_says_what_it_is(metric):
    definition = define(metric)
    assert definition.meaning
    assert (definition.name, definition.unit) == (metric.name, metric.unit)
    assert definition.higher_is_better == metric.higher_is_better


def test_no_two_metrics_have_one_title():
    assert len({define(metric).title for metric in METRICS}) == len(METRICS)


def test_the_headline_metrics_exist_and_can_be_ranked():
    headline = [definition for definition in map(define, METRICS) if definition.headline]
    assert sorted(definition.name for definition in headline) == sorted(HEADLINE_METRICS)
    assert all(definition.higher_is_better is not None for definition in headline)


@pytest.mark.parametrize("definition", HD95_MEANINGS)
def test_an_hd95_names_its_definition(definition):
    defined = define(HD95(definition=definition))
    assert definition in defined.title
    assert HD95_MEANINGS[definition] in defined.meaning


def test_sizes_read_as_words():
    assert [size_in_words(size) for size in (SizeClass(), *SIZE_CLASSES)] == [
        "of any size",
        "below 5 mm",
        "of 5 to below 10 mm",
        "of 10 mm or more",
    ]
    assert define(LesionSensitivity(size=SIZE_CLASSES[0])).meaning.endswith("lesions below 5 mm by diameter")
