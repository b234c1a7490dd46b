"""Commands in fresh processes, with their time and memory."""

import os
import subprocess
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

import psutil

from sgnet_nnunet.errors import SGNetError

INTERVAL = 0.05
"""Seconds between two looks at the command's own process, whose largest memory the system knows."""

LOOKING = 0.03
"""Largest share of the time that looking at all processes takes, from cores that are being measured."""

TRAINERS = Path(__file__).parents[2] / "trainers"
LAST_LINES = 15


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a command took.

    Attributes:
        seconds: From its start to its end.
        peak_mb: Largest resident memory of all its processes together, in MB; what several share counts
            once, on Linux.
        processes: The most that ran at once.
    """

    seconds: float
    peak_mb: float
    processes: int


def run_measured(arguments: Sequence[str | Path], *, log: Path) -> Spent:
    """Run a command of this Python environment.

    Args:
        arguments: The command's name and its arguments.
        log: File for standard output and error.

    Raises:
        SGNetError: If the command ends with a status other than 0; quotes the end of the log.
    """
    command = [str(Path(sysconfig.get_path("scripts"), arguments[0])), *map(str, arguments[1:])]
    log.parent.mkdir(parents=True, exist_ok=True)
    peak, processes, next_look = 0, 1, 0.0
    with log.open("w", encoding="utf-8") as file:
        start = perf_counter()
        process = subprocess.Popen(  # noqa: S603
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"nnUNet_extTrainer": str(TRAINERS)},
        )
        while process.poll() is None:
            peak = max(peak, own_peak(process.pid))
            looked = perf_counter()
            if looked >= next_look:
                sizes = resident_of_tree(process.pid)
                peak, processes = max(peak, sum(sizes)), max(processes, len(sizes))
                next_look = looked + (perf_counter() - looked) / LOOKING
            sleep(INTERVAL)
        spent = perf_counter() - start
    if process.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-LAST_LINES:])
        raise SGNetError(f"{arguments[0]} ended with status {process.returncode}; see {log}\n{tail}")
    return Spent(seconds=spent, peak_mb=peak / 1e6, processes=processes)


def resident_of_tree(pid: int) -> list[int]:
    """Return the bytes in memory of a process and of each of its descendants; none if it has ended."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    sizes = [_resident(process, alone=len(family) == 1) for process in family]
    return [size for size in sizes if size]


def _resident(process: psutil.Process, *, alone: bool) -> int:
    """Return a process's memory, with its part of what it shares unless it is alone."""
    try:
        if alone:
            return int(process.memory_info().rss)
        info = process.memory_full_info()
    except psutil.Error:
        return 0
    return int(getattr(info, "pss", info.rss))


def own_peak(pid: int) -> int:
    """Return the most bytes a process has had in memory, between two looks too; 0 where nothing tells."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)
