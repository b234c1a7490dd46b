"""Running jobs in several processes that neither hang nor outlive their parent."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TypeVar

from sgnet_nnunet.errors import SGNetError

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def run_jobs(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], *, workers: int
) -> Iterator[tuple[Job, Outcome]]:
    """Yield each job with its outcome as it is finished, in any order; one worker is this process.

    Closing the iterator early drops the jobs that have not begun and waits for the others.

    Args:
        function: A picklable function, called with one job.
        jobs: Picklable arguments.
        workers: Number of processes.

    Raises:
        SGNetError: A worker died or ran out of memory.
        Exception: What `function` raised.
    """
    try:
        if min(workers, len(jobs)) <= 1:
            yield from ((job, function(job)) for job in jobs)
        else:
            yield from _run_in_pool(function, jobs, min(workers, len(jobs)))
    except (BrokenProcessPool, MemoryError) as error:
        raise SGNetError(
            f"a worker died, probably for want of memory, with {workers} of them; run again with fewer"
        ) from error


def _run_in_pool(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, Outcome]]:
    # spawn, for a fork of a process with threads (torch, ITK, progress bars) can deadlock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        futures = {pool.submit(function, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Let the worker end with its parent; else it waits for ever, and may write beside the next run."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
