"""Scans of one patient are found to be such."""

import pytest

from sgnet_nnunet.dataset.splits import patients_of
from sgnet_nnunet.errors import InputFileError

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
