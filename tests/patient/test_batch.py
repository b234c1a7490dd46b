"""Tables of patients: what is done again, and that a bad row costs no other."""

import csv
from dataclasses import replace

import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.inference.operating_point import OperatingPoint
from sgnet_nnunet.nifti import Volume, read_image, write_volume
from sgnet_nnunet.patient.batch import read_patients, segment_table
from sgnet_nnunet.patient.pipeline import SegmentOptions

OPTIONS = SegmentOptions(register="never")


@pytest.fixture
def table(write_patient, tmp_path):
    """Write a table of three patients, the second of which has a damaged T1ce."""
    for name in "abc":
        write_patient(folder=tmp_path / f"Doe_{name}")
    (tmp_path / "Doe_b/t1ce.nii.gz").write_bytes(b"no image")
    rows = [f"{name},Doe_{name}/t1ce.nii.gz,Doe_{name}/flair.nii.gz" for name in "abc"]
    path = tmp_path / "patients.csv"
    path.write_text("\n".join(["patient,t1ce,flair", *rows, ""]))
    return path


def statuses(outcomes):
    return [each.status for each in outcomes]


def test_bad_row_costs_that_row_alone_and_finished_rows_are_kept(table, make_predictor, tmp_path):
    patients, out = read_patients(table), tmp_path / "out"
    engine = make_predictor()
    outcomes = segment_table(patients, out, predictor=engine, options=OPTIONS)
    assert statuses(outcomes) == ["segmented", "failed", "segmented"]
    assert (outcomes[0].lesions, outcomes[2].lesions) == (3, 3)
    assert "Doe" not in outcomes[1].problem
    assert outcomes[1].problem.startswith("T1ce: cannot be read")
    assert {path.name for path in out.iterdir()} == {"a", "c", "summary.csv"}
    with (out / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["patient"], row["status"], row["lesions"]) for row in rows] == [
        ("a", "segmented", "3"), ("b", "failed", "0"), ("c", "segmented", "3"),
    ]  # fmt: skip
    (tmp_path / "Doe_b/t1ce.nii.gz").write_bytes((tmp_path / "Doe_a/t1ce.nii.gz").read_bytes())
    changed = read_image(tmp_path / "Doe_c/flair.nii.gz")
    write_volume(tmp_path / "Doe_c/flair.nii.gz", Volume(changed.data * 1.1, changed.affine))
    again = segment_table(patients, out, predictor=make_predictor(), options=OPTIONS)
    assert statuses(again) == ["unchanged", "segmented", "segmented"]
    assert (again[0].lesions, again[0].volume_mm3) == (outcomes[0].lesions, outcomes[0].volume_mm3)


@pytest.mark.slow
def test_rows_are_segmented_again_if_a_setting_or_the_operating_point_changes(
    table, make_predictor, tmp_path
):
    patients = {name: files for name, files in read_patients(table).items() if name == "a"}
    options, point = OPTIONS, None
    for change, expected in (
        ({}, "segmented"),
        ({}, "unchanged"),
        ({"keep_identity": True}, "unchanged"),
        ({"register": "auto"}, "segmented"),
        ({"save_probability": True}, "segmented"),
        ({}, "unchanged"),
        ({"point": OperatingPoint(threshold=0.4)}, "segmented"),
    ):
        point = change.pop("point", point)
        options = replace(options, **change)
        predictor = make_predictor(point=point)
        outcomes = segment_table(patients, tmp_path / "out", predictor=predictor, options=options)
        assert statuses(outcomes) == [expected]


def test_optional_columns_may_be_blank_or_left_out(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text("\ufeffpatient,t1ce,flair,brain_mask,notes\np1,a.nii.gz,,m.nii.gz,x\n p2 ,b/,c/,,\n")
    patients = read_patients(path)
    assert list(patients) == ["p1", "p2"]
    assert patients["p1"].flair is None
    assert patients["p1"].brain_mask == tmp_path / "m.nii.gz"
    assert patients["p2"].flair == tmp_path / "c"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,t1ce\n", "has no row"),
        ("name,t1ce\np,a.nii\n", "has no patient in row 1"),
        ("patient,t1ce\np,a.nii\nq,\n", "has no t1ce in row 2"),
        ("patient,t1ce\n../p,a.nii\n", r"names the patient '\.\./p' in row 1, which is no name of a folder"),
        ("patient,t1ce\n..,a.nii\n", "which is no name of a folder"),
        ("patient,t1ce\np,a.nii\nP,b.nii\n", "names the patient P twice"),
        ('patient,t1ce\n"p,a.nii\n', "cannot be read as CSV"),
    ],
)
def test_tables_that_name_no_patients_are_refused(tmp_path, text, message):
    path = tmp_path / "patients.csv"
    path.write_text(text)
    with pytest.raises(InputFileError, match=message):
        read_patients(path)
