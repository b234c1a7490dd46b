"""The commands' own part: options in, exit status and messages out."""

from pathlib import Path

import pandas as pd
import pytest

from sgnet_nnunet.cli.main import main
from sgnet_nnunet.dataset.convert import ConversionResult, ReportRow
from sgnet_nnunet.demo import METRICS, DemoPlan, DemoResult


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return ended.value.code or 0


@pytest.fixture
def conversions(monkeypatch, tmp_path):
    """Replace the conversion; return the calls, and the rows it will report."""
    calls, rows = [], []

    def convert(root, *, on_start, on_done, **options):
        calls.append((root, options))
        on_start(1)
        on_done("case")
        return ConversionResult(tmp_path / "Dataset501_BrainMetsLung", tuple(rows))

    monkeypatch.setattr("sgnet_nnunet.dataset.convert.convert", convert)
    return calls, rows


def row(status, reason=""):
    return ReportRow(patient="YG_1", accession="YG_2", case="YG_1_YG_2", status=status, reason=reason)


def test_convert_passes_its_options_on(conversions):
    arguments = [
        "-d",
        "7",
        "--target",
        "regions",
        "--register",
        "rigid",
        "--split",
        "paper",
        "--strict",
        "-np",
        "3",
    ]
    assert run("convert", "/data", *arguments) == 0
    expected = {
        "dataset_id": 7,
        "target": "regions",
        "register": "rigid",
        "split": "paper",
        "strict": True,
        "workers": 3,
    }
    assert conversions[0] == [(Path("/data"), expected)]


def test_convert_defaults_to_the_papers_target(conversions):
    run("convert", "/data")
    assert conversions[0][0][1].items() >= {"dataset_id": 501, "target": "whole", "register": "none"}.items()


@pytest.mark.parametrize(
    ("rows", "status"),
    [([row("used")], 0), ([row("used"), row("left out")], 0), ([row("used"), row("failed")], 3)],
)
def test_convert_ends_with_status_3_only_for_bad_files(conversions, rows, status):
    conversions[1].extend(rows)
    assert run("convert", "/data") == status


def test_convert_lists_what_it_did_not_use(conversions, capsys):
    conversions[1].extend(
        [row("used"), row("left out", "missing: flair_img"), row("failed", "x.nii.gz: [is] 4D")]
    )
    run("convert", "/data")
    captured = capsys.readouterr()
    assert "left out: YG_1 YG_2: missing: flair_img\n" in captured.err
    assert "failed: YG_1 YG_2: x.nii.gz: [is] 4D\n" in captured.err
    assert "1 used, 1 left out, 1 failed" in captured.out


def test_convert_without_nnunet_raw_names_the_variable_and_the_command(monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert run("convert", "/data") == 2
    assert "run: export nnUNet_raw=" in capsys.readouterr().err


def test_phantom_passes_its_options_on(monkeypatch, capsys):
    calls = []

    def write_phantoms(folder, *, on_done, **options):
        calls.append((folder, options))
        on_done("YG_1")

    monkeypatch.setattr("sgnet_nnunet.phantom.population.write_phantoms", write_phantoms)
    assert run("phantom", "out", "-n", "3", "--seed", "5", "-np", "1") == 0
    assert calls == [(Path("out"), {"patients": 3, "seed": 5, "workers": 1})]
    assert "3 patients in out" in capsys.readouterr().out


def test_demo_prints_a_row_a_case_and_the_mean(monkeypatch, capsys):
    scores = pd.DataFrame(
        [[0.5, 0.4, 0.8, 10.0], [0.7, 0.6, 0.8, 20.0], [0.6, 0.5, 0.8, 15.0]],
        index=["one", "two", "mean"],
        columns=METRICS,
    )

    def run_demo(folder, plan, *, report):
        assert plan == DemoPlan(epochs=2, iters=3)
        report("training", 0, 2)
        report("training", 2, 2)
        return DemoResult(scores, folder / "overlay.png")

    monkeypatch.setattr("sgnet_nnunet.demo.run_demo", run_demo)
    assert run("demo", "out", "--epochs", "2", "--iters", "3") == 0
    shown = capsys.readouterr().out
    assert "mean" in shown
    assert "0.600" in shown
    assert "15.0" in shown
    assert "picture: out/overlay.png" in shown
