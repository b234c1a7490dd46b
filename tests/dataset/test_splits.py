"""Splits keep patients together."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgnet_nnunet.dataset.splits import grouped_splits, paper_splits, paper_subsets, patients_of
from sgnet_nnunet.errors import InputFileError, SGNetError


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


CASES = ["YG_1_YG_2", "YG_1_YG_3", "other_4"]


def test_names_of_converted_cases_have_the_patient_and_others_are_their_own():
    assert patients_of(CASES) == {"YG_1_YG_2": "YG_1", "YG_1_YG_3": "YG_1", "other_4": "other_4"}


def test_conversion_report_goes_before_the_name(tmp_path):
    report = tmp_path / "conversion_report.csv"
    report.write_text("patient,accession,case,status\nP_X,other_4,other_4,used\n")
    assert patients_of(CASES, conversion_report=report)["other_4"] == "P_X"
    assert patients_of(CASES, conversion_report=report)["YG_1_YG_2"] == "YG_1"


def test_absent_conversion_report_is_no_error(tmp_path):
    assert patients_of(["a"], conversion_report=tmp_path / "none.csv") == {"a": "a"}


def test_users_table_goes_before_everything(tmp_path):
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\n" + "".join(f"{case},same\n" for case in CASES))
    assert set(patients_of(CASES, table=table).values()) == {"same"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("", "lacks the column"),
        ("name,patient\na,b\n", "lacks the column"),
        ("case,patient\nb,1\n", "no row for the case a"),
        ("case,patient\na,\n", "without a case or a patient"),
        ("case,patient\na\n", "without a case or a patient"),
        ("case,patient\na,1\na,2\n", "gives a to 1 and to 2"),
        (b"case,patient\n\xff\xfe,1\n", "cannot be read"),
    ],
)
def test_table_that_cannot_be_used_is_refused(tmp_path, content, message):
    table = tmp_path / "patients.csv"
    if content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputFileError, match=message):
        patients_of(["a"], table=table)
