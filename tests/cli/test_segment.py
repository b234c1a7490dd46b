"""`sgnet segment`: its options, what it prints and its exit status, with a pipeline that computes nothing."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sgnet_nnunet.cli.main import main
from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.inference.predictor import PredictionOptions, Predictor
from sgnet_nnunet.patient.batch import Outcome
from sgnet_nnunet.patient.pipeline import PatientFiles, SegmentOptions


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["segment", *map(str, arguments)])
    return ended.value.code or 0


@pytest.fixture
def calls(monkeypatch):
    """Replace the model and the pipeline; return the arguments of each call."""
    found = []
    predictor = SimpleNamespace(point="a point")

    def open_(models, *, options, operating_point):
        found.append((models, options, operating_point))
        return predictor

    def segment(files, output, *, predictor, options):
        found.append((files, output, options))
        records = [SimpleNamespace(volume_mm3=12.0), SimpleNamespace(volume_mm3=30.0)]
        return SimpleNamespace(kept=records, records=[*records, None])

    monkeypatch.setattr(Predictor, "open", open_)
    monkeypatch.setattr("sgnet_nnunet.patient.pipeline.segment_patient", segment)
    return found


def test_options_are_passed_on_and_the_result_is_one_line(calls, capsys):
    options = [
        "--register",
        "never",
        "--probability",
        "--brain-mask",
        "m.nii.gz",
        "--engine",
        "whole",
        "--tta",
    ]
    options += ["--t1ce-series", "7", "--operating-point", "none", "-f", "0", "1"]
    assert run("--t1ce", "a", "--flair", "b", "-m", "model", "-o", "out", *options) == 0
    (models, prediction, point), (files, output, settings) = calls
    assert (models, point, output) == ([Path("model")], "none", Path("out"))
    assert prediction == PredictionOptions(engine="whole", mirroring=True, folds=("0", "1"))
    assert files == PatientFiles(
        t1ce=Path("a"), flair=Path("b"), brain_mask=Path("m.nii.gz"), t1ce_series="7"
    )
    assert settings == SegmentOptions(register="never", save_probability=True)
    assert "2 lesions, 42 mm3, 1 removed by the operating point: out" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [(), ("patients.csv", "--t1ce", "a")])
def test_one_patient_or_a_table_is_needed(calls, capsys, arguments):
    assert run(*arguments, "-m", "model", "-o", "out") == 2
    assert "name one patient by --t1ce and --flair, or many by a table; not both" in capsys.readouterr().err
    assert not calls


def test_bad_input_ends_with_status_2_and_one_line(calls, monkeypatch, capsys):
    def fail(*_, **__):
        raise InputFileError("a", "is 4D (3 x 3 x 3 x 2), 3D is needed", "save one volume as 3D")

    monkeypatch.setattr("sgnet_nnunet.patient.pipeline.segment_patient", fail)
    assert run("--t1ce", "a", "-m", "model", "-o", "out") == 2
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith("a: is 4D (3 x 3 x 3 x 2), 3D is needed; save one volume as 3D")
    )


@pytest.mark.parametrize(("problem", "status"), [("", 0), ("T1ce: is blank", 1)])
def test_failed_row_of_a_table_is_a_line_and_ends_with_status_1(
    calls, monkeypatch, tmp_path, capsys, problem, status
):
    def segment(patients, output, *, predictor, options, on_done):
        outcomes = [
            Outcome(
                patient=name,
                status="failed" if problem and name == "q" else "segmented",
                problem="" if name == "p" else problem,
            )
            for name in patients
        ]
        for outcome in outcomes:
            on_done(outcome)
        return outcomes

    monkeypatch.setattr("sgnet_nnunet.patient.batch.segment_table", segment)
    table = tmp_path / "patients.csv"
    table.write_text("patient,t1ce\np,a.nii.gz\nq,b.nii.gz\n")
    assert run(table, "-m", "model", "-o", tmp_path / "out") == status
    captured = capsys.readouterr()
    failed = int(bool(problem))
    assert f"{2 - failed} segmented, 0 unchanged, {failed} failed; see summary.csv" in captured.out
    assert ("q: T1ce: is blank" in captured.err) == bool(problem)
