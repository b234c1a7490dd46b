"""Memory that a training on the CPU keeps from step to step."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of `mallopt(3)`."""

LARGEST_BLOCK = 2**30
"""Bytes; the largest block that is kept. A feature map of a batch has a few hundred million."""
LARGEST_REST = 2**31 - 1
"""Bytes; how much unused memory is kept, the most that `mallopt` takes."""


def keep_freed_memory() -> bool:
    """Have this process keep what its tensors free, for the next ones; return whether it does from now on.

    By default glibc asks the kernel for every large block and gives it back at once. Each step of a
    training then pays for all of its pages again, which on a CPU was two fifths of its time. Other C
    libraries than glibc are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    options = ((M_MMAP_THRESHOLD, LARGEST_BLOCK), (M_TRIM_THRESHOLD, LARGEST_REST))
    return all(mallopt(name, value) == 1 for name, value in options)
