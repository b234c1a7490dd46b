"""What the speed benchmarks share: the machine, measurements in turn, fresh processes, tables."""

import logging
import os
import platform
import statistics
import subprocess
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from sgnet_nnunet.errors import SGNetError

if TYPE_CHECKING:
    import pandas as pd
    import torch

logger = logging.getLogger("benchmark")

PACKAGES = ("torch", "nnunetv2", "batchgeneratorsv2", "numpy", "openvino", "sgnet-nnunet")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
POLLING_SECONDS = 0.1
LAST_LINES = 15

Result = TypeVar("Result")


def pin(cores: int) -> None:
    """Restrict this process and its children to a number of cores and threads.

    Call it before PyTorch is imported, which reads the variables once.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(cores)))


def describe_machine(device: "torch.device") -> dict[str, Any]:
    """Return the hardware and the versions that the measurements depend on."""
    import torch  # noqa: PLC0415 - after `pin`

    from sgnet_nnunet.training.benchmark_trainers import cpu_name  # noqa: PLC0415

    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def machine_line(machine: Mapping[str, Any]) -> str:
    """Return one line of text about a machine that `describe_machine` described."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; device: "
        f"{machine['device']}; Python {machine['python']}, {versions}."
    )


def now(device: "torch.device | None" = None) -> float:
    """Return the time in seconds, after a GPU has finished its work."""
    if device is not None and device.type == "cuda":
        import torch  # noqa: PLC0415

        torch.cuda.synchronize(device)
    return perf_counter()


def seconds(function: Callable[[], object], device: "torch.device | None" = None) -> float:
    """Return the seconds that a call takes."""
    start = now(device)
    function()
    return now(device) - start


def in_turn(
    functions: Mapping[str, Callable[[], Result]], rounds: Mapping[str, int] | int
) -> dict[str, list[Result]]:
    """Call each function once per round, so that all of them meet the same state of the machine.

    The number of rounds is for all functions or for each. Returns the results of each, one per round.
    """
    numbers = dict.fromkeys(functions, rounds) if isinstance(rounds, int) else rounds
    found: dict[str, list[Result]] = {name: [] for name in functions}
    for number in range(max(numbers.values())):
        for name, function in functions.items():
            if number < numbers[name]:
                logger.info("round %d: %s", number + 1, name)
                found[name].append(function())
    return found


def median_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each key; a key that a row lacks counts as 0 there."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: statistics.median(row.get(key, 0.0) for row in rows) for key in keys}


def reset_peak(device: "torch.device | None" = None) -> None:
    """Reset the peak memory of a GPU, or of this process (on Linux)."""
    if device is not None and device.type == "cuda":
        import torch  # noqa: PLC0415

        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_megabytes(device: "torch.device | None" = None) -> float:
    """Return the peak memory in MB since `reset_peak`; 0 for a process on other systems than Linux."""
    if device is not None and device.type == "cuda":
        import torch  # noqa: PLC0415

        return torch.cuda.max_memory_allocated(device) / 1e6
    return _peak_bytes(os.getpid()) / 1e6


def _peak_bytes(pid: int) -> int:
    """Return the peak resident memory of one process in bytes; 0 if the system does not report it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a command took."""

    seconds: float  # from its start to its end
    # peak resident memory of all its processes together in MB; shared pages count once on Linux
    peak_mb: float


def run_measured(arguments: Sequence[str | Path], *, log: Path) -> Spent:
    """Run a command of this Python environment and measure its time and memory; its output goes to a log.

    Raises:
        SGNetError: If the exit status is not 0; quotes the end of the log.
    """
    command = [str(Path(sysconfig.get_path("scripts"), arguments[0])), *map(str, arguments[1:])]
    log.parent.mkdir(parents=True, exist_ok=True)
    peak = 0
    with log.open("w", encoding="utf-8") as file:
        start = perf_counter()
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)  # noqa: S603
        while process.poll() is None:
            peak = max(peak, _memory_of_tree(process.pid), _peak_bytes(process.pid))
            sleep(POLLING_SECONDS)
        spent = perf_counter() - start
    if process.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-LAST_LINES:])
        raise SGNetError(f"{arguments[0]} ended with status {process.returncode}; see {log}\n{tail}")
    return Spent(seconds=spent, peak_mb=peak / 1e6)


def _memory_of_tree(pid: int) -> int:
    """Return the bytes in memory of a process and its descendants together."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
        for process in family:
            with suppress(psutil.Error):
                # A process's share of the common pages takes long to read; a single one has none.
                info = process.memory_info() if len(family) == 1 else process.memory_full_info()
                total += int(getattr(info, "pss", info.rss))
    return total


def markdown(frame: "pd.DataFrame") -> str:
    """Return a table as Markdown, missing values as dashes and without the index."""
    head = ["" if str(name) == " " else str(name) for name in frame.columns]
    body = frame.astype(object).where(frame.notna(), "–").to_numpy().tolist()
    rows = [head, ["---"] * len(head), *([str(value) for value in row] for row in body)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
