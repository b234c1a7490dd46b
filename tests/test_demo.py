import shutil
import sys
from pathlib import Path

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

from sgnet_nnunet import demo
from sgnet_nnunet.dataset.collection import PARTS, part_path
from sgnet_nnunet.demo import DemoPlan, draw_overlay, run_demo
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.shipped import shipped_model
from sgnet_nnunet.nifti import Volume, write_volume


@pytest.fixture
def scripts_are_python(monkeypatch):
    """Let "python" stand for a console script."""
    monkeypatch.setattr(demo.sysconfig, "get_path", lambda _: str(Path(sys.executable).parent))


def run(code, log, **kwargs):
    demo.run_command([Path(sys.executable).name, "-c", code], environment={"A": "b"}, log=log, **kwargs)


def test_output_goes_to_the_log_and_line_by_line_to_the_listener(tmp_path, scripts_are_python):
    lines = []
    run("import os; print(os.environ['A']); print('two')", tmp_path / "log", on_line=lines.append)
    assert lines == ["b\n", "two\n"]
    assert (tmp_path / "log").read_text() == "b\ntwo\n"


def test_failure_names_the_log_and_quotes_its_end(tmp_path, scripts_are_python):
    with pytest.raises(SGNetError, match=rf"status 3; see {tmp_path}/log, which ends with: oh no$"):
        run("import sys; print('oh no'); sys.exit(3)", tmp_path / "log")


def test_log_that_is_a_link_is_replaced_and_not_followed(tmp_path, scripts_are_python):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "log").symlink_to(victim)
    run("print('out')", tmp_path / "log")
    assert (victim.read_text(), (tmp_path / "log").read_text()) == ("precious", "out\n")


@pytest.mark.parametrize(
    "name", ["logs", "nnUNet_raw", "nnUNet_results", "phantoms", "predictions", "synthetic_predictions"]
)
def test_folder_that_is_a_link_to_elsewhere_is_refused(tmp_path, name):
    folder, outside = tmp_path / "demo", tmp_path / "outside"
    for each in (folder, outside):
        each.mkdir()
    (folder / name).symlink_to(outside)
    with pytest.raises(SGNetError, match=f"{name}: leads out of"):
        run_demo(folder, DemoPlan(), report=lambda *_: None)
    assert list(outside.iterdir()) == []


@pytest.fixture
def predicted(tmp_path):
    """Return a raw data set of one test case, and a folder with its empty prediction."""
    rng = np.random.default_rng(0)
    image = rng.integers(1, 500, size=(40, 48, 6)).astype(np.int16)
    mask = np.zeros(image.shape, dtype=np.uint8)
    mask[10:18, 10:18, 3] = 1
    files = {
        "imagesTs/a_0000": image,
        "imagesTs/a_0001": image,
        "labelsTs/a": mask,
        "predictions/a": mask * 0,
    }
    for name, data in files.items():
        path = tmp_path / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        write_volume(path, Volume(data, np.diag([-1.0, 1, 1, 1])))
    return tmp_path, tmp_path / "predictions"


def pixels(path, colour):
    """Count the pixels of a colour in a picture."""
    picture = matplotlib.image.imread(path)[..., :3]
    return int((np.abs(picture - matplotlib.colors.to_rgb(colour)).max(axis=-1) < 0.1).sum())


def test_reference_is_outlined_and_an_empty_prediction_is_not(predicted, tmp_path):
    raw, predictions = predicted
    draw_overlay(raw, predictions, tmp_path / "empty.png")
    draw_overlay(raw, raw / "labelsTs", tmp_path / "equal.png")
    assert pixels(tmp_path / "empty.png", demo.REFERENCE_COLOUR) > 0
    empty, equal = (pixels(tmp_path / name, demo.PREDICTION_COLOUR) for name in ("empty.png", "equal.png"))
    assert empty < equal


def write_small_patients(root, *, patients, seed, workers, on_done, config):
    rng = np.random.default_rng(seed)
    for i in range(patients):
        label = np.zeros((12, 12, 8), dtype=np.uint8)
        label[3:7, 3:7, 2:5] = 1
        (root / f"YG_{i:02d}").mkdir(parents=True)
        for part in PARTS:
            data = label if part.endswith("seg") else rng.integers(1, 99, size=label.shape).astype(np.int16)
            write_volume(part_path(root, f"YG_{i:02d}", "YG_A", part), Volume(data, np.eye(4)))
        on_done(f"YG_{i:02d}")


@pytest.fixture
def commands(monkeypatch):
    """Replace the phantoms by small ones and nnU-Net by a copy of the reference; return what was run."""
    run = []

    def run_command(arguments, *, environment, log, on_line):
        run.append((arguments, environment))
        for line in ["Epoch time: 1 s\n"] * int(environment["SGNET_EPOCHS"]):
            on_line(line)
        if arguments[0] == "nnUNetv2_predict":
            reference = Path(environment["nnUNet_raw"], "Dataset501_BrainMetsLung/labelsTs")
            shutil.copytree(reference, arguments[arguments.index("-o") + 1])

    def predict(images, output, *, model_folders, options):
        assert [path.parent.name for path in model_folders] == [shipped_model().name]
        shutil.copytree(images.parent / "labelsTs", output)

    monkeypatch.setattr(demo, "write_phantoms", write_small_patients)
    monkeypatch.setattr(demo, "predict", predict)
    monkeypatch.setattr(demo, "run_command", run_command)
    return run


@pytest.mark.slow
def test_runs_nnunets_three_commands_and_scores_the_held_out_patients(commands, tmp_path):
    steps = []
    result = run_demo(
        tmp_path,
        DemoPlan(patients=10, epochs=3),
        report=lambda stage, done, total: steps.append((stage, done, total)),
    )
    assert [arguments[0] for arguments, _ in commands] == [
        "nnUNetv2_plan_and_preprocess",
        "nnUNetv2_train",
        "nnUNetv2_predict",
    ]
    assert list(result.scores.index) == ["YG_08_YG_A", "YG_09_YG_A", "mean"]
    for scores in (result.scores, result.shipped):
        assert (scores["dice"] == 1).all()
    assert (result.scores["hd95_directed_mm"] == 0).all()
    assert result.overlay.is_file()
    assert ("training", 2, 3) in steps
    assert ("phantom patients", 10, 10) in steps


@pytest.mark.slow
def test_every_command_works_in_the_demos_own_folders(commands, tmp_path):
    run_demo(tmp_path, DemoPlan(), report=lambda *_: None)
    for _, environment in commands:
        assert {environment[name] for name in demo.FOLDER_VARIABLES} == {
            str(tmp_path / n) for n in demo.FOLDER_VARIABLES
        }
