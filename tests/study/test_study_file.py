"""A study's file is refused with its line, what is wrong and what would be right."""

import re
from pathlib import Path

import pytest

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.study import study_file
from sgnet_nnunet.study.study_file import classes_of_nnunet, read_study

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))

REFUSED = {
    "unknown trainer": (
        "BaselineUNetTrainer", "BaselineUNettrainer",
        "8: networks[1].trainer: nnU-Net finds no trainer BaselineUNettrainer; did you mean BaselineUNetTr",
    ),
    "missing plan": (
        "trainer: SGNetTrainer", "{trainer: SGNetTrainer, plans: Other}",
        "7: networks[0].plans: there is no plan Other; add it to `plans`, or give one of nnUNetPlans",
    ),
    "unknown planner": (
        "SGNetPlanner", "SGNetPlaner",
        "5: plans.nnUNetPlans.planner: nnU-Net finds no planner SGNetPlaner; did you mean SGNetPlanner?",
    ),
    "configuration that the planner does not make": (
        "trainer: SGNetTrainer", "{trainer: SGNetTrainer, configuration: 2d}",
        "7: networks[0].configuration: SGNetPlanner makes no configuration 2d; give 3d_fullres",
    ),
    "fold that the splits lack": (
        "[0, 1]", "[0, 3]",
        "9: folds[1]: cross-validation of 3 patients has no fold 3; it has the folds 0 to 2",
    ),
    "unknown setting": ("epochs: 2", "epoch: 2", "10: epoch: is no setting; did you mean epochs?"),
    "unknown setting of a network": (
        "trainer: SGNetTrainer", "{trainer: SGNetTrainer, plan: Other}",
        "7: networks[0].plan: is no setting; did you mean plans?",
    ),
    "no number": ("epochs: 2", "epochs: two", "10: epochs: expected int | null, got str; correct it"),
    "number out of range": ("iterations: 2", "iterations: 0", "11: iterations: expected int >= 1; correct"),
    "no such folder": (
        "images: raw/Dataset501_Tiny/imagesTr", "images: raw/nowhere",
        "17: predictions[0].images: there is no folder",
    ),
    "no such data": ("raw: raw/Dataset501_Tiny", "raw: raw/Dataset502", "3: data.raw: "),
    "two kinds of data": ("raw: raw", "phantoms: 3\n  raw: raw", "2: data: has phantoms and raw; give"),
    "schedule of a trainer with its own": (
        "trainer: SGNetTrainer", "{trainer: nnUNetTrainer, epochs: 3}",
        "7: networks[0].epochs: nnUNetTrainer has a schedule of its own; leave it out;",
    ),
    "network given twice": (
        "BaselineUNetTrainer", "SGNetTrainer",
        "8: networks[1]: is SGNetTrainer__nnUNetPlans__3d_fullres, as networks[0]",
    ),
    "no such device": (
        "device: cpu", "device: gpu", "13: device: cannot be gpu; give one of auto, cpu, cuda",
    ),
    "no such kind of step": (
        "device: cpu", "resources:\n  plan: {cpus: 1}\n  trian: {cpus: 1}",
        "15: resources.trian: cannot be trian; did you mean train?",
    ),
    "unknown setting of a kind of step": (
        "device: cpu", "resources:\n  plan: {cpus: 1}\n  train: {cpu: 1}",
        "15: resources.train.cpu: is no setting; did you mean cpus?",
    ),
    "a number where a text is due": (
        "device: cpu", "environment:\n  A: '1'\n  B: 1",
        "15: environment.B: expected str, got int; put it in quotes",
    ),
    "no name of a plan": ("nnUNetPlans: {", "a plan: {", "5: plans.a plan: expected str matching regex"),
    "settings that are no mapping": (
        "batch_size: 2", "settings: loss", "5: plans.nnUNetPlans.settings: expected object, got str; correct",
    ),
    "a setting that is no JSON": (
        "batch_size: 2", "settings: {loss: {top_k: [2026-01-02]}}",
        "5: plans.nnUNetPlans.settings.loss: is no value of JSON; give texts, numbers,",
    ),
    "a setting with a number as its name": (
        "batch_size: 2", "settings: {loss: {1: 2}}", "5: plans.nnUNetPlans.settings.loss: is no value",
    ),
    "a setting given in the wrong place": (
        "batch_size: 2", "settings: {batch_size: 2}",
        "5: plans.nnUNetPlans.settings.batch_size: is a setting of the plan itself; move it to plans.nnUNetP",
    ),
    "preprocessed images that no plan makes": (
        "batch_size: 2", "settings: {data_identifier: Other_3d_fullres}",
        "5: plans.nnUNetPlans.settings.data_identifier: no trained plan of SGNetPlanner makes the data Oth",
    ),
    "data in the work folder": ("work: out", "work: .", "3: data.raw: is in "),
    "no date": ("epochs: 2", "epochs: 2026-13-45", " is not YAML (month must be in 1..12)"),
    "an alias in itself": ("[0, 1]", "&a [*a]", " is not YAML ("),
    "no YAML": ("[0, 1]", "[0, 1", "10: is not YAML ("),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_run_is_refused_with_its_line(write_study, old, new, message):
    path = write_study(old, new)
    with pytest.raises(InputFileError) as caught:
        read_study(path)
    assert str(caught.value).startswith(f"{path}:{message}")
    assert "\n" not in str(caught.value)
    assert not (path.parent / "out").exists()


def test_two_patients_of_the_same_name_are_refused(write_study):
    path = write_study("  raw: raw/Dataset501_Tiny", "  collection: [a, b]")
    for name in ("a/P1", "b/P1", "b/P2"):
        (path.parent / name).mkdir(parents=True)
    with pytest.raises(InputFileError, match="2 patients are called P1; rename"):
        read_study(path)


def test_trainers_that_are_not_registered_are_named_with_the_command(write_study, monkeypatch):
    monkeypatch.setattr(study_file, "classes_of_nnunet", lambda _: {"nnUNetTrainer"})
    path = write_study("SGNetPlanner", "nnUNetTrainer")
    with pytest.raises(InputFileError, match="finds no trainer SGNetTrainer; run: sgnet link"):
        read_study(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputFileError, match="cannot be read"):
        read_study(tmp_path / "study.yaml")


def test_paths_are_relative_to_the_file(write_study, monkeypatch):
    path = write_study()
    monkeypatch.chdir(path.parent / "raw")
    file = read_study(path)
    assert file.work == path.parent / "out"
    assert file.folds == (0, 1)


def test_all_folds_are_those_of_the_data(write_study):
    assert read_study(write_study("[0, 1]", "all")).folds == (0, 1, 2)


def test_the_classes_that_nnunet_finds_are_read_without_importing_them():
    trainers = classes_of_nnunet("training/nnUNetTrainer")
    assert {"nnUNetTrainer", "nnUNetTrainer_100epochs"} <= trainers


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_a_study(path, tmp_path):
    text = path.read_text(encoding="utf-8")
    for patient in range(6):
        folder = tmp_path / f"data/P{patient}"
        folder.mkdir(parents=True)
        (folder / "A_t1ce_img.nii.gz").touch()
    for name in ("imagesTs", "labelsTs"):
        (tmp_path / "clinic" / name).mkdir(parents=True)
    text = re.sub(r"collection: .*", "collection: data", text)
    (tmp_path / path.name).write_text(text.replace("/scratch/study", "out").replace("/data/study", "out"))
    assert read_study(tmp_path / path.name).folds
