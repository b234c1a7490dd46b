"""The wheel is the same bytes wherever and whenever it is built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "sgnet_nnunet")


def build(folder: Path, *, umask: int) -> bytes:
    """Build a wheel from a copy of the sources, as `make release` does, and return its bytes."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "."]
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run(pip, cwd=source, env=environment, umask=umask, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel.read_bytes()


@pytest.mark.slow
def test_wheel_does_not_depend_on_place_time_and_umask(tmp_path):
    first = build(tmp_path / "first", umask=0o022)
    assert first == build(tmp_path / "another" / "place", umask=0o077)
