"""Splits keep patients together."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgnet_nnunet.dataset.splits import grouped_splits, paper_splits, paper_subsets
from sgnet_nnunet.errors import SGNetError


def cases_of(visits: list[int]) -> dict[str, str]:
    return {f"P{p:03d}_A{a}": f"P{p:03d}" for p, count in enumerate(visits) for a in range(count)}


@settings(deadline=None)  # the first call imports scikit-learn
@given(st.lists(st.integers(1, 3), min_size=2, max_size=40))
def test_each_case_is_validated_once_and_no_patient_is_on_both_sides(visits: list[int]):
    cases = cases_of(visits)
    splits = grouped_splits(cases)
    assert len(splits.folds) == min(5, len(visits))
    assert sorted(case for fold in splits.folds for case in fold["val"]) == sorted(cases)
    for fold in splits.folds:
        assert fold["val"]
        assert sorted(fold["train"] + fold["val"]) == sorted(cases)
        assert not {cases[case] for case in fold["train"]} & {cases[case] for case in fold["val"]}


def test_folds_are_shuffled_and_always_the_same():
    cases = cases_of([1] * 20)
    first = grouped_splits(cases)
    assert grouped_splits(dict(reversed(list(cases.items())))) == first
    assert first.folds[0]["val"] != sorted(cases)[:4]
    assert first.note == ""


def test_few_patients_give_as_many_folds_with_a_note():
    splits = grouped_splits(cases_of([1, 2, 1]))
    assert len(splits.folds) == 3
    assert splits.note == "3 patients give 3 folds, not 5"


@pytest.mark.parametrize("visits", [[1], [2], []])
def test_one_patient_gives_no_folds_but_a_note(visits: list[int]):
    splits = grouped_splits(cases_of(visits))
    assert splits.folds == ()
    assert "train with fold 'all'" in splits.note


def test_paper_split_of_92_patients_is_64_9_19_in_order():
    patients = [f"P{number:03d}" for number in range(92)]
    subsets = paper_subsets(reversed(patients))
    assert Counter(subsets.values()) == {"train": 64, "val": 9, "test": 19}
    assert [subsets[patient] for patient in patients] == ["train"] * 64 + ["val"] * 9 + ["test"] * 19


@given(st.integers(10, 300))
def test_paper_split_leaves_no_subset_empty(count: int):
    found = Counter(paper_subsets([str(number) for number in range(count)]).values())
    assert set(found) == {"train", "val", "test"}


def test_paper_split_of_few_patients_is_refused():
    with pytest.raises(SGNetError, match="needs 10 patients or more, 9 found; use the split cv"):
        paper_subsets([str(number) for number in range(9)])


def test_paper_fold_holds_no_test_case():
    cases = cases_of([2] * 10)
    (fold,) = paper_splits(cases, paper_subsets(cases.values())).folds
    assert len(fold["train"]) == 14
    assert fold["val"] == ["P007_A0", "P007_A1"]


def test_paper_fold_without_validation_is_not_written():
    cases = cases_of([1] * 10)
    subsets = paper_subsets(cases.values())
    del cases["P007_A0"]
    splits = paper_splits(cases, subsets)
    assert splits.folds == ()
    assert "no case to train or to validate on" in splits.note
