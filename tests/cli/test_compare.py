"""`sgnet compare` and `sgnet evaluate`: options in, a whole report or one line out."""

import sys
from types import ModuleType

import numpy as np
import pytest

from sgnet_nnunet.cli.main import main
from sgnet_nnunet.evaluation.results import Results
from sgnet_nnunet.nifti import Volume, write_volume


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    return ended.value.code or 0


@pytest.fixture
def tree(nnunet_paths, make_results):
    return make_results(nnunet_paths)


@pytest.fixture
def written(monkeypatch):
    """Replace what times networks and writes the report; return the calls."""
    calls = []

    def write_report(comparison, folder, **options):
        calls.append((comparison, options))
        folder.mkdir()
        (folder / "report.html").write_text("<html>")

    monkeypatch.setattr("sgnet_nnunet.report.page.write_report", write_report)
    costs = ModuleType("sgnet_nnunet.evaluation.model_costs")
    costs.with_costs = lambda results, preprocessed, **options: (
        calls.append((preprocessed.name, options)) or results
    )
    monkeypatch.setitem(sys.modules, costs.__name__, costs)
    return calls


COMPARE = (
    "compare",
    "-d",
    "501",
    "--models",
    "SGNetTrainer",
    "BaselineUNetTrainer",
    "-f",
    "0",
    "1",
    "2",
    "-np",
    "1",
)


def test_compare_prints_its_headline_table_and_the_report(tree, written, capsys):
    assert run(*COMPARE, "-o", tree / "report") == 0
    printed = capsys.readouterr().out
    assert str(tree / "report/report.html") in printed.replace("\n", "")
    for name in ("SGNetTrainer", "BaselineUNet", "Dice", "Lesion F1"):
        assert name in printed
    comparison, options = written[-1]
    assert len(options["measurements"].per_case) == 12
    assert comparison.baseline == "SGNetTrainer"


def test_compare_passes_its_options_on(tree, written):
    options = (
        *("--time-cases", "2", "-device", "mps", "--viewer", "--no-gates"),
        *("--presets", "brats2023", "brats2026"),
    )
    assert run(*COMPARE, *options, "-o", tree / "report") == 0
    costs, (comparison, passed) = written
    assert costs == ("Dataset501_Tiny", {"time_cases": 2, "device": "mps"})
    assert [model.name for model in comparison.models] == ["SGNetTrainer", "BaselineUNetTrainer"]
    assert {"brats2023_dice", "brats2026_small_f1"} <= set(passed.pop("measurements").per_case.columns)
    assert passed == {"viewer": True, "gates": False, "workers": 1}


def test_missing_predictions_are_reported(tree, written, capsys):
    folder = (
        tree / "nnUNet_results/Dataset501_Tiny/BaselineUNetTrainer__nnUNetPlans__3d_fullres/fold_1/validation"
    )
    (folder / "YG_P000_YG_A001.nii.gz").unlink()
    assert run(*COMPARE, "-o", tree / "report") == 2
    assert (
        "YG_P000_YG_A001.nii.gz: there is no such prediction; run nnUNetv2_train" in capsys.readouterr().err
    )
    assert run(*COMPARE, "--allow-missing", "-o", tree / "report") == 0
    assert "BaselineUNetTrainer: 1 of 6 predictions are missing" in capsys.readouterr().err


def test_bad_mask_is_one_line_and_leaves_no_report(tree, written, capsys):
    folder = (
        tree / "nnUNet_results/Dataset501_Tiny/BaselineUNetTrainer__nnUNetPlans__3d_fullres/fold_1/validation"
    )
    path = folder / "YG_P000_YG_A001.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])
    before = sorted(tree.iterdir())
    assert run(*COMPARE, "-o", tree / "report") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sgnet:")]
    assert len(lines) == 1
    assert str(path) in lines[0]
    assert sorted(tree.iterdir()) == before


def test_folder_of_somebody_else_is_refused_before_anything_is_measured(tree, written, capsys):
    (tree / "report").mkdir()
    (tree / "report/thesis.docx").touch()
    assert run(*COMPARE, "-o", tree / "report") == 2
    assert "thesis.docx: was not written by an earlier run" in capsys.readouterr().err
    assert written == []


@pytest.fixture
def folders(tmp_path):
    """Folders of a predicted and a reference mask, the first one voxel off."""
    mask = np.zeros((12, 12, 12), dtype=np.uint8)
    mask[3:7, 3:7, 3:7] = 2
    for folder, data in (("pred", np.roll(mask, 1, axis=0)), ("ref", mask)):
        (tmp_path / folder).mkdir()
        write_volume(tmp_path / folder / "a.nii.gz", Volume(data, np.eye(4)))
    return tmp_path


def test_evaluate_takes_everything_above_zero(folders, written):
    assert run("evaluate", folders / "pred", folders / "ref", "-o", folders / "out") == 0
    table = written[-1][1]["measurements"].per_case
    assert table.loc[0, ["model", "fold", "case", "patient", "label", "empty"]].tolist() == [
        "pred",
        "",
        "a",
        "a",
        "foreground",
        "",
    ]
    assert table.loc[0, "dice"] == 0.75


def test_evaluate_takes_labels_and_patients(folders, written):
    (folders / "dataset.json").write_text('{"labels": {"background": 0, "core": 2}}')
    (folders / "patients.csv").write_text("case,patient\na,Ada\n")
    options = ("--labels", folders / "dataset.json", "--patients", folders / "patients.csv")
    assert run("evaluate", folders / "pred", folders / "ref", "-o", folders / "out", *options) == 0
    results = written[-1][1]["measurements"].results
    assert isinstance(results, Results)
    assert (results.targets[0].name, results.cases[0].patient) == ("core", "Ada")


def test_evaluate_without_a_prediction_ends_with_status_2(folders, written, capsys):
    (folders / "pred/a.nii.gz").rename(folders / "pred/b.nii.gz")
    assert run("evaluate", folders / "pred", folders / "ref", "-o", folders / "out") == 2
    assert "name folders whose files have the same names" in capsys.readouterr().err
    assert not (folders / "out").exists()


@pytest.mark.parametrize("package", ["jinja2", "matplotlib", "pandas", "PIL"])
def test_a_missing_package_is_named_before_anything_is_measured(
    folders, written, capsys, without_module, package
):
    without_module(package)
    assert run("evaluate", folders / "pred", folders / "ref", "-o", folders / "out") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert line == f"sgnet: {package} is not installed; run: pip install 'sgnet-nnunet[report]'"
    assert written == []


def test_unknown_preset_is_refused_with_those_there_are(folders, written, capsys):
    arguments = ("evaluate", folders / "pred", folders / "ref", "-o", folders / "out")
    assert run(*arguments, "--presets", "brats2020") == 2
    assert "brats2023" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_makes_a_real_report(tree):
    assert run(*COMPARE, "--time-cases", "0", "--viewer", "-o", tree / "report") == 0
    names = {path.name for path in (tree / "report").iterdir()}
    expected = {"per_case.csv", "per_lesion.csv", "summary.json", "summary.md", "summary.tex", "report.html"}
    assert expected | {"plots", "viewer"} <= names
    assert "SGNetTrainer" in (tree / "report/report.html").read_text()
