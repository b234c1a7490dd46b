"""A tiny study: a raw data set, its file, and a folder to work in."""

from pathlib import Path

import pytest

pytest.importorskip("snakemake")

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
