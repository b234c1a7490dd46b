"""The cores and threads that everything is measured with."""

import os

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def pin(cores: int) -> None:
    """Keep this process, and those it will start, to so many cores and threads.

    To be called before NumPy and PyTorch are imported, which ask only once.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    os.environ.update(dict.fromkeys(VARIABLES, str(cores)))
