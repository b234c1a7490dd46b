"""A conversion killed anywhere and run again gives the bytes of a run in one go."""

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sgnet_nnunet.dataset.convert import convert
from sgnet_nnunet.dataset.options import ConversionOptions
from sgnet_nnunet.dataset.records import HIDDEN_FOLDER

CONVERT = """
import sys
from sgnet_nnunet.dataset.convert import convert
convert(sys.argv[1], sys.argv[2], target="regions", workers=3)
"""
CASES = 16
SHAPE = (64, 64, 48)
PATIENCE = 60
"""Seconds until a conversion that does not get going is a failure."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc to see processes in")


def count(folder: Path, pattern: str) -> int:
    return sum(1 for _ in folder.glob(pattern))


MOMENTS: list[Callable[[Path], bool]] = [
    lambda folder: (folder / HIDDEN_FOLDER / "options.json").exists(),
    lambda folder: count(folder, "imagesTr/.partial-*") > 0,
    lambda folder: count(folder, "labelsTr/P*.nii.gz") >= 4,
    lambda folder: count(folder, "labelsTr/P*.nii.gz") >= 8,
]
"""When to kill each run, one after the other: at its start, in the middle of a file, between cases."""


@pytest.fixture
def large_collection(collection) -> Path:
    """Cases that take long enough to be killed in the middle of."""
    rng = np.random.default_rng(0)
    for number in range(CASES):
        image = rng.integers(0, 1000, SHAPE).astype(np.int16)
        mask = (image > 990).astype(np.uint8)
        thick = np.diag([1.0, 1.0, 2.0, 1.0])
        for part, data, affine in (
            ("t1ce_img", image, np.eye(4)),
            ("core_seg", mask, np.eye(4)),
            ("flair_img", image[:, :, ::2], thick),
            ("whole_seg", mask[:, :, ::2], thick),
        ):
            collection.write(f"P{number // 2}", f"A{number:02d}", part, data, affine)
    return collection.root


def running(group: int) -> list[str]:
    """Names of the processes of a process group, zombies left out."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().rpartition(")")
        except OSError:
            continue
        state, _, process_group = rest.split()[:3]
        if int(process_group) == group and state not in "ZX":
            found.append(name)
    return found


def wait_for(condition: Callable[[], bool], *, pause: float = 0.0) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(pause)


def run_and_kill(root: Path, raw: Path, moment: Callable[[Path], bool], delay: float) -> None:
    folder = raw / ConversionOptions().folder_name
    command = [sys.executable, "-c", CONVERT, str(root), str(raw)]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            wait_for(lambda: moment(folder) or process.poll() is not None)
            time.sleep(delay)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL, "was over before it could be killed"
    wait_for(lambda: not running(process.pid), pause=0.01)


def test_killed_conversions_end_as_one_in_one_go(large_collection: Path, tmp_path: Path, contents: Callable):
    delays = random.Random(3)
    raw = tmp_path / "killed"
    folder = raw / ConversionOptions().folder_name
    for moment in MOMENTS:
        run_and_kill(large_collection, raw, moment, delays.uniform(0, 0.02))
        assert not (folder / "dataset.json").exists()
    assert 8 <= count(folder, "labelsTr/P*.nii.gz") < CASES
    for folder in (raw, tmp_path / "in_one_go"):
        convert(large_collection, folder, target="regions", workers=1)
    expected = contents(tmp_path / "in_one_go")
    found = contents(raw)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []
