import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sgnet_nnunet.evaluation.registry import case_metrics
from sgnet_nnunet.evaluation.statistics import (
    ALL_EQUAL,
    INFINITE,
    TOO_FEW_PATIENTS,
    Interval,
)
from sgnet_nnunet.evaluation.summary import Difference, define, summarise
from sgnet_nnunet.report.sentences import tell, verdict, words

DEFINITIONS = {metric.name: define(metric) for metric in case_metrics()}


def difference(metric, mean, low, high, p, **changes):
    plain = Difference(
        model="SGNetTrainer",
        reference="BaselineUNetTrainer",
        label="tumour",
        metric=metric,
        cases=100,
        patients=92,
        mean=mean,
        interval=Interval(low=low, high=high, method="BCa"),
        effect=math.copysign(0.3, mean),
        p=p / 24,
        p_holm=p,
        family=24,
    )
    return replace(plain, **changes)


def told(*differences):
    return list(tell(differences, list(DEFINITIONS.values())))


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        (
            ("lesion_sensitivity", 0.031, -0.004, 0.065, 0.08),
            (
                "SGNetTrainer finds 3.1 percentage points more of a case's lesions than BaselineUNetTrainer "
                "(95 % interval -0.4 to 6.5; p = 0.080 after Holm's correction over 24 tests, 92 patients): "
                "no difference was shown."
            ),
        ),
        (
            ("lesion_sensitivity", -0.05, -0.08, -0.01, 0.0004),
            (
                "SGNetTrainer finds 5.0 percentage points fewer of a case's lesions than BaselineUNetTrainer "
                "(95 % interval 1.0 to 8.0; p < 0.001 after Holm's correction over 24 tests, 92 patients): "
                "a difference was shown, in favour of BaselineUNetTrainer."
            ),
        ),
        (
            ("false_positives", -0.5, -0.9, -0.1, 0.01),
            (
                "SGNetTrainer draws 0.50 fewer false positives per case than BaselineUNetTrainer "
                "(95 % interval 0.10 to 0.90; p = 0.010 after Holm's correction over 24 tests, 92 patients): "
                "a difference was shown, in favour of SGNetTrainer."
            ),
        ),
        (
            ("hd95_directed_mm", 2.0, 1.0, 3.0, 0.02),
            (
                "The HD95 (directed) of SGNetTrainer is 2.0 mm longer than that of BaselineUNetTrainer "
                "(95 % interval 1.0 to 3.0; p = 0.020 after Holm's correction over 24 tests, 92 patients): "
                "a difference was shown, in favour of BaselineUNetTrainer."
            ),
        ),
        (
            ("dice", 0.0001, -0.02, 0.02, 1.0),
            (
                "The Dice of SGNetTrainer is less than 0.001 higher than that of BaselineUNetTrainer "
                "(95 % interval -0.020 to 0.020; p = 1.000 after Holm's correction over 24 tests, "
                "92 patients): no difference was shown."
            ),
        ),
    ],
)
def test_a_difference_reads_in_the_direction_it_has(figures, sentence):
    assert told(difference(*figures)) == [sentence]


@pytest.mark.parametrize(
    ("figures", "changes", "expected"),
    [
        (("dice", 0.1, 0.05, 0.2, 0.01), {}, "better"),
        (("dice", -0.1, -0.2, -0.05, 0.01), {}, "worse"),
        (("hd95_directed_mm", -3, -5, -1, 0.01), {}, "better"),
        (("hd95_directed_mm", 3, 1, 5, 0.01), {}, "worse"),
        (("dice", 0.1, 0.05, 0.2, 0.05), {}, "not shown"),
        (("dice", 0.1, 0.05, 0.2, 0.06), {}, "not shown"),
        (("dice", 0.1, -0.01, 0.2, 0.01), {}, "at odds"),
        (("dice", 0.1, 0.05, 0.2, 0.01), {"effect": -0.2}, "at odds"),
        (("dice", 0.1, 0.05, 0.2, 0.01), {"interval": Interval(reason="none")}, "at odds"),
        (("dice", 0.1, 0.05, 0.2, 0.01), {"p_holm": math.nan}, "not tested"),
    ],
)
def test_a_difference_is_shown_only_if_p_interval_and_ranks_agree(figures, changes, expected):
    result = difference(*figures, **changes)
    assert verdict(result, DEFINITIONS[figures[0]]) == expected
    claims = any("a difference was shown" in sentence for sentence in told(result))
    assert claims == (expected in {"better", "worse"})


def test_models_that_agree_everywhere_are_said_to():
    same = difference("dice", 0.0, 0.0, 0.0, 1.0, effect=0.0, reason=ALL_EQUAL)
    assert told(same) == ["Dice: SGNetTrainer and BaselineUNetTrainer do not differ in any of 92 patients."]


def test_what_cannot_be_compared_says_why():
    nothing = Interval(reason=INFINITE)
    infinite = difference("dice", math.nan, 0, 0, math.nan, interval=nothing, reason=INFINITE)
    assert told(infinite) == [
        "Dice: SGNetTrainer and BaselineUNetTrainer cannot be compared, since some values are infinite."
    ]
    one = difference(
        "dice",
        0.1,
        0,
        0,
        math.nan,
        patients=1,
        interval=Interval(reason=TOO_FEW_PATIENTS),
        reason=TOO_FEW_PATIENTS,
    )
    assert told(one) == [
        (
            "The Dice of SGNetTrainer is 0.100 higher than that of BaselineUNetTrainer (1 patient): "
            "not tested, since fewer than 2 patients have a value."
        ),
    ]


def test_patients_who_are_all_alike_give_no_interval():
    alike = difference("dice", 0.1, 0.1, 0.1, 0.01)
    assert told(alike) == [
        (
            "The Dice of SGNetTrainer is 0.100 higher than that of BaselineUNetTrainer "
            "(p = 0.010 after Holm's correction over 24 tests, 92 patients): "
            "a difference was shown, in favour of SGNetTrainer."
        )
    ]


def test_the_other_metrics_share_a_sentence():
    others = [
        difference("precision", 0.1, 0.05, 0.2, 0.01),
        difference("recall", -0.1, -0.2, -0.05, 0.01),
        difference("lesion_f1", 0.1, -0.05, 0.2, 0.5),
    ]
    assert told(*others) == [
        (
            "SGNetTrainer against BaselineUNetTrainer in 3 other metrics tested "
            "(Precision, Recall and Lesion F1): "
            "a difference was shown in Precision, in favour of SGNetTrainer; and in Recall, "
            "in favour of BaselineUNetTrainer."
        ),
    ]
    assert told(others[-1])[0].endswith("1 other metric tested (Lesion F1): no difference was shown.")


def words_of(figures):
    return words(summarise(figures, rng=np.random.default_rng(0), resamples=200))


def test_cases_patients_and_empty_masks_are_counted(rows, figures_of):
    table = rows(patients="aab", dice=[0.0, 0.5, math.nan])
    table["empty"] = ["prediction", "", "both"]
    table["missing"] = [True, False, False]
    sentences = words_of(figures_of(table))
    assert sentences[:3] == [
        "A was judged on 3 cases of 2 patients.",
        "1 prediction of A is missing and was scored as empty: case000.",
        (
            "A: both masks are empty in 1 case, left out of most metrics; "
            "only the prediction is empty in 1 case, scored with the worst value."
        ),
    ]


def test_models_on_different_cases_are_told_apart(rows, figures_of):
    table = pd.concat([rows(dice=[0.1, 0.2]), rows(model="B", dice=[0.1])])
    assert (
        words_of(figures_of(table))[0]
        == "Judged were A on 2 cases of 2 patients and B on 1 case of 1 patient."
    )


def test_a_model_without_lesions_to_find_says_so(rows, figures_of):
    sentences = words_of(figures_of(rows(dice=[0.1, 0.2])))
    assert (
        "Over all cases together A had no lesion to find and draws 0 false positives, 0.00 per case."
        in sentences
    )


def test_several_labels_are_named(rows, figures_of):
    table = pd.concat([rows(dice=[0.1, 0.2]), rows(label="core", dice=[0.1, 0.2])])
    assert {sentence.split(":")[0] for sentence in words_of(figures_of(table))} == {"tumour", "core"}


@pytest.mark.parametrize(
    ("other", "ending"),
    [
        ([0.5, 0.6, 0.7, 0.8], "B has it in 100.0 % (95 % interval of its place: 1 to 1)."),
        ([0.1, 0.1, 0.1, 0.9], ": the first place is not certain."),
    ],
)
def test_the_ranking_says_how_sure_it_is(other, ending, rows, figures_of):
    table = pd.concat([rows(dice=[0.2, 0.2, 0.2, 0.2]), rows(model="B", dice=other)])
    sentence = words_of(figures_of(table))[-1]
    assert sentence.startswith(
        "By mean rank over 1 metric B comes first; in resamples of the patients B has it in"
    )
    assert sentence.endswith(ending)


def test_random_figures_give_whole_sentences(random_figures):
    for sentence in words_of(random_figures(models=4)):
        assert sentence.endswith(".")
        assert "nan" not in sentence
