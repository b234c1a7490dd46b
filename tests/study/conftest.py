"""A tiny study: a raw data set, its file, and a folder to work in."""

# ruff: noqa: PLC0415 - of the extra

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

collect_ignore_glob = [] if find_spec("snakemake") else ["test_*.py"]  # it needs Python 3.11

STUDY = """\
work: out
data:
  raw: raw/Dataset501_Tiny
plans:
  nnUNetPlans: {planner: SGNetPlanner, patch_size: [16, 32, 32], batch_size: 2}
networks:
  - trainer: SGNetTrainer
  - trainer: BaselineUNetTrainer
folds: [0, 1]
epochs: 2
iterations: 2
validation_iterations: 1
device: cpu
mirroring: false
predictions:
  - name: test
    images: raw/Dataset501_Tiny/imagesTr
    references: raw/Dataset501_Tiny/labelsTr
    shard_size: 2
"""


@pytest.fixture(scope="session")
def study_text() -> str:
    """Return the text of the file of a study that is run: as short as can be, a core for each step."""
    kinds = ("train", "tune", "predict", "evaluate", "compare")
    short = STUDY.replace("epochs: 2", "epochs: 1").replace("\niterations: 2", "\niterations: 1")
    short = short.replace("BaselineUNetTrainer", "SGNetNoGateTrainer")
    return short + "resources:\n" + "".join(f"  {kind}: {{cpus: 1}}\n" for kind in kinds)


@pytest.fixture
def write_study(tmp_path: Path, make_dataset):
    """Return a function that writes a study's file, one text in it replaced by another, next to its data."""
    make_dataset(tmp_path / "raw", cases=3)

    def write(old: str = "", new: str = "") -> Path:
        assert old in STUDY
        path = tmp_path / "study.yaml"
        path.write_text(STUDY.replace(old, new) if old else STUDY + new)
        return path

    return write


@pytest.fixture
def make_run(tmp_path: Path):
    """Return a function that makes a run of given steps, which replace those of a study, and a report."""
    from sgnet_nnunet.study.engine import Run
    from sgnet_nnunet.study.steps import Step, write_steps
    from sgnet_nnunet.study.study_file import Data, Network, Study, StudyFile

    def make(steps, **options):
        options = {"work": "work", "device": "cpu", **options}
        study = Study(data=Data(phantoms=1), networks=[Network(trainer="SGNetTrainer")], **options)
        run = Run(StudyFile(tmp_path / "study.yaml", study, {}, (0,)), cores=2)
        last = Step(kind="report", name="study", needs=[step.id for step in steps])
        found = {step.id: step for step in (*steps, last)}
        write_steps(run.work, found)
        return run, found

    return make


@pytest.fixture(scope="session")
def start_study():
    """Return a function that starts `sgnet study` on a file."""
    command = [sys.executable, "-c", "from sgnet_nnunet.cli.main import main; main()", "study"]

    def start(path: Path, *options: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*command, str(path), *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start
