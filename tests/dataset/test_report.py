"""The report can be read back."""

import csv
import io

from sgnet_nnunet.dataset.convert import ReportRow, report_csv


def test_values_with_commas_and_zeros_survive_and_unknown_ones_are_empty():
    row = ReportRow(
        patient="P",
        accession="A",
        case="P_A",
        status="failed",
        reason='a, "b"',
        mi_before=0.0,
        whole_mm3=1234.5,
    )
    text = report_csv([row])
    (read,) = csv.DictReader(io.StringIO(text))
    assert read["reason"] == 'a, "b"'
    assert (read["mi_before"], read["mi_after"], read["whole_mm3"]) == ("0.0000", "", "1234.5000")
    assert "\r" not in text
