"""The cores to compute with."""

import os


def usable_cores() -> int:
    """Return how many cores this process may use, where the system tells; else how many there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
