"""Parallel work: independent jobs in processes, and the stages of a pipeline in threads."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait
from typing import Protocol, TypeVar

from sgnet_nnunet.errors import SGNetError, path_in_hand

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")


def run_jobs(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], *, workers: int
) -> Iterator[tuple[Job, Outcome]]:
    """Yield each job with its outcome as it is finished, in any order; one worker is this process.

    The function and its jobs must be picklable. Closing the iterator early drops the jobs that have not
    begun and waits for the others; Ctrl-C kills them.

    Raises:
        SGNetError: A worker process was killed, or memory ran out.
        Exception: What `function` raised.
    """
    workers = min(workers, len(jobs))
    try:
        if workers <= 1:
            yield from ((job, function(job)) for job in jobs)
        else:
            yield from _run_in_pool(function, jobs, workers)
    except (BrokenProcessPool, MemoryError) as error:
        killed = isinstance(error, BrokenProcessPool)
        problem = "a worker process was killed (out of memory?)" if killed else "out of memory"
        remedy = f"retry with fewer than {workers} workers" if workers > 1 else "close other programs"
        raise SGNetError(f"{problem}; {remedy}") from error


def _run_in_pool(
    function: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int
) -> Iterator[tuple[Job, Outcome]]:
    # A process with threads (torch, ITK, progress bars) can deadlock when it is forked.
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        with _children_without_interrupts():
            futures = {pool.submit(_call, function, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except (KeyboardInterrupt, SystemExit):
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _children_without_interrupts() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which a terminal sends to all: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _call(function: Callable[[Job], Outcome], job: Job) -> Outcome:
    """Call the function in a worker; an error remembers the file, see `path_in_hand`."""
    try:
        return function(job)
    except Exception as error:
        error.path_in_hand = path_in_hand(error)  # type: ignore[attr-defined]
        raise


def _start_worker() -> None:
    """Let the worker end with its parent; else it waits for ever, and may write during the next run."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


_KEEPER = """
import os, signal, subprocess, sys, threading
def end_with_parent():
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=end_with_parent, daemon=True).start()
status = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)
sys.exit(status if status >= 0 else 128 - status)
"""
"""Runs a command in a group of processes that ends as soon as the standard input does."""


@contextmanager
def run_until_we_end(
    command: Sequence[str], *, environment: Mapping[str, str]
) -> Iterator[subprocess.Popen[str]]:
    """Run a command, and yield the process with the command's output, standard error included.

    Its exit status is known after the block. Leaving the block by an error, and the end of this process,
    however it ends, kill the command with all processes that it has started.
    """
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-IS", "-c", _KEEPER, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="backslashreplace",
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            yield process
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        process.wait()  # before its input is closed


@contextmanager
def ahead(
    function: Callable[[Job], Outcome],
    jobs: Iterable[Job],
    *,
    threads: int = 1,
    alone: Callable[[Outcome], bool] = lambda _: False,
) -> Iterator[Iterator[Outcome]]:
    """Yield an iterator over the outcome of each job, in order; the next ones are made meanwhile.

    The first `threads` jobs are begun at once. The job after an outcome that is `alone` waits until that
    outcome has been used. Leaving the block drops the jobs that have not begun.

    Raises:
        Exception: What `function` raised, in its job's turn.
    """
    remaining = iter(jobs)
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Outcome]] = deque()

    def begin(number: int) -> None:
        waiting.extend(pool.submit(function, job) for job in islice(remaining, number))

    def in_turn() -> Iterator[Outcome]:
        while waiting:
            # Popped as it is handed over: this generator must not keep an image alive.
            outcome = [waiting.popleft().result()]
            following = int(not alone(outcome[0]))
            begin(following)
            yield outcome.pop()
            begin(1 - following)

    begin(threads)
    try:
        yield in_turn()
    finally:
        pool.shutdown(cancel_futures=True)


class Submit(Protocol):
    """Has the function of `behind` called later."""

    def __call__(self, *arguments: object, now: bool = False) -> None:
        """Hand over a call; with `now`, return only when it and those before it are finished."""


@contextmanager
def behind(
    function: Callable[..., object], *, threads: int = 1, on_done: Callable[[], object] = lambda: None
) -> Iterator[Submit]:
    """Yield a function that hands calls of `function` to other threads, and waits if all are at work.

    Leaving the block waits for all calls. `on_done` is called in this thread for each that has succeeded.

    Raises:
        Exception: What a call raised, at a later one or on leaving the block.
    """
    waiting: deque[Future[object]] = deque()

    def finish(most: int) -> None:
        while len(waiting) > most:
            waiting.popleft().result()
            on_done()

    with ThreadPoolExecutor(threads) as pool:

        def submit(*arguments: object, now: bool = False) -> None:
            finish(threads - 1)
            waiting.append(pool.submit(function, *arguments))
            if now:
                finish(0)

        yield submit
        finish(0)
