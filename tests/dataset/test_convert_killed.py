"""A conversion killed anywhere and run again gives the bytes of an uninterrupted run."""

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

CONVERT = """
import sys
from sgnet_nnunet.dataset.convert import convert
convert(sys.argv[1], sys.argv[2], target="regions", workers=3)
"""
CASES = 10
SHAPE = (64, 64, 48)
PATIENCE = 60
"""Seconds until a conversion that does not get going is a failure."""

FOLDER = "Dataset501_BrainMetsLung"

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs fork, SIGKILL and /proc")


def count(folder: Path, pattern: str) -> int:
    return sum(1 for _ in folder.glob(pattern))


MOMENTS: list[Callable[[Path], bool]] = [
    lambda folder: count(folder, "imagesTr/.partial-*") > 0,
    lambda folder: count(folder, "labelsTr/P*.nii.gz") >= 4,
]
"""When to kill each run, one after the other: in the middle of a file, between cases."""


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
    folder = raw / FOLDER
    command = [sys.executable, "-c", CONVERT, str(root), str(raw)]
    with subprocess.Popen(command, start_new_session=True) as process:
        try:
            wait_for(lambda: moment(folder) or process.poll() is not None)
            time.sleep(delay)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL, "was over before it could be killed"
    wait_for(lambda: not running(process.pid), pause=0.01)


@pytest.mark.slow
def test_killed_conversions_end_as_one_in_one_go(large_collection: Path, tmp_path: Path, contents: Callable):
    delays = random.Random(3)
    raw = tmp_path / "killed"
    folder = raw / FOLDER
    for moment in MOMENTS:
        run_and_kill(large_collection, raw, moment, delays.uniform(0, 0.02))
        assert not (folder / "dataset.json").exists()
    assert 4 <= count(folder, "labelsTr/P*.nii.gz") < CASES
    for folder in (raw, tmp_path / "in_one_go"):
        convert(large_collection, folder, target="regions", workers=1)
    expected = contents(tmp_path / "in_one_go")
    found = contents(raw)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


CONVERT_AND_DIE = """
import itertools, os, signal, sys
from pathlib import Path
from sgnet_nnunet.dataset.convert import convert

root, raw, written, first, last = sys.argv[1:]
real, number = Path.replace, itertools.count()

def replace(source, target):
    if next(number) == at:
        os.truncate(source, int(source.stat().st_size * float(written)))
        os.kill(os.getpid(), signal.SIGKILL)
    return real(source, target)

for at in range(int(first), int(last)):
    if os.fork() == 0:
        Path.replace = replace
        convert(root, Path(raw, str(at)), workers=1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def convert_and_die(root: Path, raw: Path, moments: range, *, written: float) -> list[int]:
    """Convert once for each number of a file, and be killed just before that file takes its final name.

    A fresh interpreter forks, not the process of the tests, whose threads a fork would leave behind. The
    file on disk has the share `written` of its bytes. The exit codes are returned.
    """
    arguments = (root, raw, written, moments.start, moments.stop)
    command = [sys.executable, "-c", CONVERT_AND_DIE, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [int(line) for line in done.stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize("written", [1.0, 0.5])
def test_killed_at_each_file_it_ends_with_the_same_bytes(
    collection, raw: Path, contents: Callable, written: float
):
    collection.add_patients(2)
    expected = contents(convert(collection.root, raw / "clean", workers=1).dataset_folder)
    kills = 14  # options; claim, 3 volumes and record of two cases; report, splits, dataset.json
    codes = convert_and_die(collection.root, raw, range(kills + 1), written=written)
    assert codes == [-signal.SIGKILL] * kills + [0]
    for kill in range(kills):
        assert not (raw / str(kill) / FOLDER / "dataset.json").exists()
        result = convert(collection.root, raw / str(kill), workers=1)
        assert contents(result.dataset_folder) == expected


@pytest.mark.slow
def test_source_removed_after_a_kill_leaves_nothing_behind(collection, raw: Path, contents: Callable):
    collection.add_patients(3)
    assert convert_and_die(collection.root, raw, range(3, 4), written=1.0) == [-signal.SIGKILL]
    assert list((raw / "3" / FOLDER).rglob("*P00_A00*"))
    collection.path("P00", "A00", "flair_img").unlink()
    result = convert(collection.root, raw / "3", workers=1)
    clean = convert(collection.root, raw / "clean", workers=1)
    assert contents(result.dataset_folder) == contents(clean.dataset_folder)
