"""Killed before any one of its files is in place, a conversion ends, run again, with the same bytes."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sgnet_nnunet.dataset.convert import convert

FOLDER = "Dataset501_BrainMetsLung"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")


def leave_whole(_: Path) -> None:
    """Killed between the last byte and the renaming."""


def cut_in_half(path: Path) -> None:
    """Killed while writing."""
    os.truncate(path, path.stat().st_size // 2)


def convert_and_die(root: Path, raw: Path, at: int, damage: Callable[[Path], None]) -> None:
    """Convert, and be killed just before file number `at` takes its final name."""
    real, count = os.replace, iter(range(10**6))

    def replace(source: Path, target: Path) -> None:
        if next(count) == at:
            damage(Path(source))
            os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)

    os.replace = replace
    convert(root, raw, workers=1)


def exit_code(*args) -> int | None:
    child = multiprocessing.get_context("fork").Process(target=convert_and_die, args=args)
    child.start()
    child.join()
    return child.exitcode


@pytest.mark.parametrize("damage", [leave_whole, cut_in_half])
def test_killed_at_each_file_it_ends_with_the_same_bytes(collection, raw: Path, contents: Callable, damage):
    collection.add_patients(2)
    expected = contents(convert(collection.root, raw / "clean", workers=1).dataset_folder)
    kills = 0
    while (code := exit_code(collection.root, raw / str(kills), kills, damage)) == -signal.SIGKILL:
        assert not (raw / str(kills) / FOLDER / "dataset.json").exists()
        result = convert(collection.root, raw / str(kills), workers=1)
        assert contents(result.dataset_folder) == expected
        kills += 1
    assert code == 0
    assert kills == 14  # options; claim, 3 volumes and record of two cases; report, splits, dataset.json


def test_source_removed_after_a_kill_leaves_nothing_behind(collection, raw: Path, contents: Callable):
    collection.add_patients(3)
    assert exit_code(collection.root, raw, 3, leave_whole) == -signal.SIGKILL
    assert list((raw / FOLDER).rglob("*P00_A00*"))
    collection.path("P00", "A00", "flair_img").unlink()
    result = convert(collection.root, raw, workers=1)
    clean = convert(collection.root, raw / "clean", workers=1)
    assert contents(result.dataset_folder) == contents(clean.dataset_folder)
