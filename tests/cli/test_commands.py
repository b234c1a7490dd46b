"""The commands' own part: options in, exit status and messages out."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sgnet_nnunet.cli.main import main
from sgnet_nnunet.dataset.convert import ConversionResult, ReportRow
from sgnet_nnunet.demo import METRICS, DemoPlan, DemoResult
from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.wide import WIDE


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


@pytest.mark.parametrize(
    ("options", "config"), [([], PhantomConfig()), (["--population", "wide"], WIDE)], ids=["default", "wide"]
)
def test_phantom_passes_its_options_on(monkeypatch, capsys, options, config):
    calls = []

    def write_phantoms(folder, *, on_done, **options):
        calls.append((folder, options))
        on_done("YG_1")

    monkeypatch.setattr("sgnet_nnunet.phantom.population.write_phantoms", write_phantoms)
    assert run("phantom", "out", "-n", "3", "--seed", "5", "-np", "1", *options) == 0
    assert calls == [(Path("out"), {"patients": 3, "seed": 5, "workers": 1, "config": config})]
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
        return DemoResult(scores - 0.25, scores, folder / "overlay.png")

    monkeypatch.setattr("sgnet_nnunet.demo.run_demo", run_demo)
    assert run("demo", "out", "--epochs", "2", "--iters", "3") == 0
    shown = capsys.readouterr().out
    assert "mean" in shown
    assert "0.600" in shown
    assert "0.350" in shown  # by the model in the package
    assert "15.0" in shown
    assert "picture: out/overlay.png" in shown


OUTPUTS = {
    "file": lambda path: path.write_text("x"),
    "pipe": os.mkfifo,
    "loop of links": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/null"),
    "below a file": lambda path: path.parent.rmdir() or path.parent.write_text("x"),
}
INPUTS = OUTPUTS | {
    "missing": lambda _: None,
    "empty": lambda path: path.mkdir(),
    "dangling link": lambda path: path.symlink_to("/nowhere/x"),
    "folder of the system": lambda path: path.symlink_to("/proc/self"),
    "folders for files": lambda path: (path / "a.nii.gz").mkdir(parents=True),
    "junk": lambda path: path.mkdir() or (path / "a.nii.gz").write_bytes(b"junk"),
}
"""What can be where a folder is expected, by name; "below a file" makes the folder's parent a file."""

TAKEN = {
    "convert": lambda path: ["convert", path],
    "predict": lambda path: ["predict", "-i", path, "-o", path.parent.parent / "out", "-m", path],
    "gates": lambda path: ["gates", path, "-i", path, "-o", path.parent.parent / "out"],
    "export": lambda path: ["export", path, "-o", path.parent.parent / "out"],
    "evaluate": lambda path: ["evaluate", path, path, "-o", path.parent.parent / "out"],
}


def said_of(arguments, capsys):
    status = run(*map(str, arguments))
    shown = capsys.readouterr().err
    assert status in {1, 2}
    assert "traceback" not in shown.lower()
    return shown


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("command", TAKEN)
def test_input_that_cannot_be_used_is_named(command, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    (tmp_path / "in").mkdir()
    path = tmp_path / "in/culprit"
    INPUTS[kind](path)
    assert "in/culprit" in said_of(TAKEN[command](path), capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("command", ["phantom", "evaluate"])
def test_output_that_cannot_be_written_is_named(command, kind, tmp_path, capsys):
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = np.zeros((4, 4, 4), np.uint8)
    mask[1, 1, 1] = 1
    write_volume(masks / "a.nii.gz", Volume(mask, np.eye(4)))
    (tmp_path / "out").mkdir()
    path = tmp_path / "out/culprit"
    OUTPUTS[kind](path)
    line = {"phantom": [path, "-n", "1", "-np", "1"], "evaluate": [masks, masks, "-o", path, "-np", "1"]}
    expected = "out: is no folder" if (kind, command) == ("below a file", "evaluate") else "out/culprit"
    assert expected in said_of([command, *line[command]], capsys)
