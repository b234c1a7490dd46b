"""The machine that was measured, and its clock and memory."""

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from sgnet_nnunet.training.benchmark_trainers import cpu_name

PACKAGES = ("torch", "nnunetv2", "batchgeneratorsv2", "numpy", "sgnet-nnunet")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def now(device: torch.device) -> float:
    """Return the time in seconds once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return perf_counter()


def seconds(function: Callable[[], object]) -> float:
    """Return how long a function takes."""
    start = perf_counter()
    function()
    return perf_counter() - start


def reset_peak(device: torch.device) -> None:
    """Forget the largest memory so far; on a CPU only Linux can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_megabytes(device: torch.device) -> float | None:
    """Return the largest memory since `reset_peak`: the device's, or the process's; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    lines = status.read_text(encoding="ascii").splitlines()
    peaks = [int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM")]
    return peaks[0] if peaks else None


def median_of(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the median of each key."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}
