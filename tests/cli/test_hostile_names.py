"""Names of files, patients, models and labels are text: on the terminal, in logs, tables and pages."""

import csv
import io
import json
import logging
import os
import re
import sys

import numpy as np
import pytest

from sgnet_nnunet.cli import main as module
from sgnet_nnunet.cli.console import LineHandler
from sgnet_nnunet.dataset.collection import PARTS, part_path
from sgnet_nnunet.errors import printable
from sgnet_nnunet.files import csv_cell
from sgnet_nnunet.nifti import Volume, write_volume
from sgnet_nnunet.nnunet import find_cases, find_images

PIECES = (
    *(
        "[/bold]",
        "[red]",
        "[",
        "]",
        "\\",
        "[link=file:///etc]",
        ":warning:",
        "{{7*7}}",
        "{0}",
        "%s",
        "$x$",
        "%d",
    ),
    *(
        "\x1b[31m",
        "\x1b]0;title\x07",
        "\x1b[2J",
        "\n",
        "\r",
        "\t",
        "\x00"[:0],
        "\x7f",
        "\x9b31m",
        "\u202e",
        "\u2028",
    ),
    *(
        "\udcff",
        "\udcc3(",
        "=1+1",
        "=cmd|' ",
        "+1",
        "-2",
        "@SUM",
        "＝1",
        ",",
        ";",
        '"',
        "'",
        "`id`",
        "|",
        "*",
    ),
    *(
        "<script>alert(1)</script>"[:8],
        "<img src=x onerror=alert(1)>",
        "&amp;",
        "é",
        "日本",
        " ",
        "A",
        "b",
        "SCRIPTS",
    ),
)
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\ud800-\udfff]")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")


def draw_name(rng: np.random.Generator) -> str:
    """Draw a name that a file system takes."""
    name = "".join(rng.choice(PIECES, size=rng.integers(1, 5))).replace("/", "")
    return name.lstrip(".") or "x"


@pytest.fixture(params=range(3))
def names(request) -> list[str]:
    """Return names that differ as they are printed."""
    rng = np.random.default_rng(request.param)
    drawn = {printable(name): name for name in (draw_name(rng) for _ in range(6))}
    return list(drawn.values())


@pytest.fixture
def run(capsys):
    """Return a function that runs a command, checks what it prints, and returns its status and output."""
    logging.getLogger().handlers.clear()

    def invoke(*arguments):
        with pytest.raises(SystemExit) as ended:
            module.main(list(map(str, arguments)))
        shown = capsys.readouterr()
        text = shown.out + shown.err
        assert not CONTROL.search(text), ascii(CONTROL.search(text)[0])
        assert "Traceback" not in text
        return ended.value.code or 0, text

    return invoke


def boxes(*sides: int) -> np.ndarray:
    mask = np.zeros((20, 18, 12), np.uint8)
    for side in sides:
        mask[side : side + 5, 3:8, 2:6] = 1
    return mask


def texts_of(path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [cell for row in csv.reader(file) for cell in row]


def assert_no_formula(cells):
    for cell in cells:
        try:
            float(cell)
        except ValueError:
            assert not cell.startswith(("=", "+", "-", "@", "＝", "\t", "\r")), cell
        assert not CONTROL.search(cell)


@pytest.mark.slow
def test_evaluation_of_hostile_names(tmp_path, run, names):
    model, label, *cases = names
    predictions, references = tmp_path / model, tmp_path / "references" / names[-1]
    for folder in (predictions, references):
        folder.mkdir(parents=True)
    for number, case in enumerate(cases):
        write_volume(references / f"{case}.nii.gz", Volume(boxes(2), np.eye(4)))
        write_volume(predictions / f"{case}.nii.gz", Volume(boxes(2 + number % 3), np.eye(4)))
        write_volume(
            tmp_path / f"{case}_0000.nii.gz", Volume(boxes(2) * 100 + np.arange(12, dtype="u1"), np.eye(4))
        )
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, label: 1}}))
    output = tmp_path / "report [/x]"
    code, text = run(
        *("evaluate", predictions, references, "-o", output, "-np", 1, "--viewer"),
        *("--labels", tmp_path / "dataset.json", "--images", tmp_path),
    )
    assert code == 0, text
    assert "report [/x]" in text
    for path in output.glob("*.csv"):
        cells = texts_of(path)
        assert_no_formula(cells)
        assert {csv_cell(case) for case in cases} <= set(cells)
    page = (output / "report.html").read_text(encoding="utf-8")
    viewer = (output / "viewer" / "index.html").read_text(encoding="utf-8")
    for html in (page, viewer):
        assert "<img src=x" not in html
        assert "SCRIPTS" not in html.partition("</head>")[0].partition("<title>")[0]
        assert not CONTROL.search(html)
        assert html.count("<script>") == 1
    assert "no picture" not in page
    # The pages' JSON and the tables name each case.
    assert len(list((output / "viewer" / "cases").iterdir())) == len(cases)
    assert json.loads((output / "summary.json").read_text(encoding="utf-8"))["dataset"] == printable(
        names[-1]
    )
    for name in ("summary.md", "summary.tex"):
        assert not CONTROL.search((output / name).read_text(encoding="utf-8"))


def test_conversion_of_hostile_names(tmp_path, run, names, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    broken, *patients = names
    for patient in patients:
        for part in PARTS:
            data = (
                boxes(4)
                if part.endswith("seg")
                else np.random.default_rng(0).integers(1, 99, (20, 18, 12), np.int16)
            )
            path = part_path(tmp_path / "root", patient, f"A{patient}", part)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_volume(path, Volume(data, np.eye(4)))
    path = part_path(tmp_path / "root", broken, broken, "t1ce_img")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no image")
    code, text = run("convert", tmp_path / "root", "-np", 1)
    assert code in {0, 3}, text
    assert printable(broken) in text
    assert f"{len(patients)} used" in text
    (report,) = (tmp_path / "raw").glob("*/conversion_report.csv")
    cells = texts_of(report)
    assert_no_formula(cells)
    assert {csv_cell(patient) for patient in patients} <= set(cells)


def test_prediction_names_the_hostile_case(tmp_path, names, run, nnunet_paths):
    for name in names:
        (tmp_path / f"{name}_0000.nii.gz").write_bytes(b"")
    found = find_cases(tmp_path, file_ending=".nii.gz", channels=1)
    assert sorted(found) == sorted(names)
    assert all(find_images(tmp_path, name) == (tmp_path / f"{name}_0000.nii.gz",) for name in names)
    code, text = run("predict", "-i", tmp_path, "-o", tmp_path / "o", "-m", tmp_path / names[0])
    assert code == 2
    assert printable(str(tmp_path / names[0])) in text


def test_doctor_shows_hostile_folders(names, run, monkeypatch, tmp_path):
    for variable, name in zip(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), names, strict=False):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    code, text = run("doctor")
    assert code in {0, 1}
    assert printable(names[0]) in text


def test_warnings_are_one_line_each_and_not_cut(capsys):
    path = "/data/" + "long/" * 40 + "[/bold]\x1b[31m\n\udcff.nii.gz"
    logger = logging.Logger("names")
    logger.addHandler(LineHandler())
    logger.warning("%s: is left out", path)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert f"WARNING  {printable(path)}: is left out\n" in shown


def test_bytes_that_are_not_utf_8_are_escaped():
    assert printable(os.fsdecode(b"a\xff.nii")) == "a\\udcff.nii"
    assert printable("Ödem 日本 [x] ∞ ±") == "Ödem 日本 [x] ∞ ±"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+a", "'+a"),
        ("@x", "'@x"),
        ("\t=1", "\\t=1"),
        ("a=1", "a=1"),
        ("", ""),
        (-1.5, -1.5),
    ],
)
def test_formulas_become_text_and_numbers_stay(value, cell):
    assert csv_cell(value) == cell
    file = io.StringIO()
    csv.writer(file).writerow([csv_cell(value)])
    assert not file.getvalue().startswith(("=", "+", "@", "\t"))
