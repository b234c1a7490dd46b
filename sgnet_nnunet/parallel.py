"""Running jobs in several processes that neither hang nor outlive their parent."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context
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


WAITING = 2
"""Predictions that may wait for each export process, as in nnU-Net, lest they fill the memory."""


def ahead(
    function: Callable[[Job], Outcome], jobs: Iterable[Job], *, processes: int = 0
) -> Iterator[Outcome]:
    """Return an iterator over the outcome of each job, in order; the next ones are made while one is used.

    The first ones are begun at once.

    Args:
        function: Called with one job; picklable if there are processes.
        jobs: Its arguments.
        processes: Processes that work one job each; 0 for one thread of this process.

    Raises:
        SGNetError: If a process died.
        Exception: What `function` raised, in its job's turn.
    """
    remaining = iter(jobs)
    pool = _pool(processes)
    waiting = deque(pool.submit(function, job) for job in islice(remaining, max(processes, 1)))

    def in_turn() -> Iterator[Outcome]:
        with pool, _death_told():
            while waiting:
                outcome = waiting.popleft().result()
                waiting.extend(pool.submit(function, job) for job in islice(remaining, 1))
                yield outcome

    return in_turn()


@contextmanager
def behind(
    *, processes: int = 0, on_done: Callable[[], object] = lambda: None
) -> Iterator[Callable[..., None]]:
    """Yield a function that calls another one later, and waits if too many calls are waiting.

    Leaving the block waits for all calls.

    Args:
        processes: Processes that make the calls; 0 for one thread of this process, which makes one call
            while one waits.
        on_done: Called in this thread for each call that has succeeded.

    Raises:
        SGNetError: If a process died.
        Exception: What a call raised, at the next one or on leaving the block.
    """
    waiting: deque[Future[object]] = deque()

    def finish(most: int) -> None:
        while len(waiting) > most:
            waiting.popleft().result()
            on_done()

    with _pool(processes) as pool, _death_told():

        def submit(function: Callable[..., object], *arguments: object) -> None:
            finish((WAITING * processes or 1) - 1)
            waiting.append(pool.submit(function, *arguments))

        yield submit
        finish(0)


def _pool(processes: int) -> Executor:
    # spawn, for a fork of a process with threads can deadlock.
    return ProcessPoolExecutor(processes, get_context("spawn")) if processes else ThreadPoolExecutor(1)


@contextmanager
def _death_told() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise SGNetError(
            "a process of -npp or -nps died, probably for want of memory; run again with fewer of them"
        ) from error
