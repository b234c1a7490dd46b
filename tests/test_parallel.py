"""Workers neither hang nor hide what went wrong, and the stages of a pipeline overlap."""

import math
import operator
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sgnet_nnunet.errors import InputFileError, SGNetError, describe
from sgnet_nnunet.files import read_json
from sgnet_nnunet.parallel import ahead, behind, run_jobs, run_until_we_end

PATIENCE = 120
"""Seconds until what should happen at once is a failure, on a busy machine too."""


def out_of_memory(_: int) -> None:
    raise MemoryError


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_comes_back_with_its_outcome(workers: int):
    assert sorted(run_jobs(math.isqrt, [9, 4, 25], workers=workers)) == [(4, 2), (9, 3), (25, 5)]


def test_no_jobs_start_no_process():
    assert list(run_jobs(math.isqrt, [], workers=8)) == []


def test_errors_cross_the_process_border():
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        list(run_jobs(operator.index, ["a", "b"], workers=2))


def test_killed_worker_ends_the_run_with_advice():
    with pytest.raises(SGNetError, match=r"a worker process was killed .* fewer than 2 workers"):
        list(run_jobs(os._exit, [1, 1, 1], workers=2))


def test_lack_of_memory_ends_the_run_with_advice():
    with pytest.raises(SGNetError, match="out of memory"):
        list(run_jobs(out_of_memory, [1], workers=1))


def fail_at_work(folder: Path) -> object:
    return {}["a" * len([folder])]


def test_error_of_a_worker_remembers_the_file_that_it_was_at_work_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # for the workers, which import this module
    with pytest.raises(KeyError) as raised:
        list(run_jobs(fail_at_work, [tmp_path, tmp_path], workers=2))
    assert describe(raised.value) == f"{tmp_path}: KeyError: 'a'"


INTERRUPTED = """
import multiprocessing, os, signal, threading, time
from sgnet_nnunet.parallel import run_jobs
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, if the tests run in a shell's background
threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT]).start()
try:
    list(run_jobs(time.sleep, [900, 900], workers=2))
except KeyboardInterrupt:
    print(multiprocessing.active_children())
"""


def test_ctrl_c_ends_the_workers_at_once():
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], check=False, stdout=subprocess.PIPE, text=True, timeout=600
    )
    assert done.stdout == "[]\n"
    assert time.monotonic() - started < 600


CHILD = (
    "import time, subprocess, sys; print(subprocess.Popen(['sleep', '900']).pid, flush=True); time.sleep(900)"
)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until_gone(process: int) -> bool:
    end = time.monotonic() + PATIENCE
    while is_running(process) and time.monotonic() < end:
        time.sleep(0.01)
    return not is_running(process)


def run_child(report: Callable[[int], None]) -> None:
    with run_until_we_end([sys.executable, "-c", CHILD], environment=os.environ) as process:
        report(int(process.stdout.readline()))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_command_and_its_children_end_with_an_error_of_the_block():
    found = []

    def fail(process: int) -> None:
        found.append(process)
        raise KeyError

    with pytest.raises(KeyError):
        run_child(fail)
    assert wait_until_gone(found[0])


KILLED = f"""
import os, signal, sys
from sgnet_nnunet.parallel import run_until_we_end
with run_until_we_end([sys.executable, "-c", {CHILD!r}], environment=os.environ) as process:
    print(process.stdout.readline(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_command_and_its_children_end_with_their_parent_however_it_ends():
    done = subprocess.run(
        [sys.executable, "-c", KILLED], check=False, stdout=subprocess.PIPE, text=True, timeout=600
    )
    assert done.returncode == -9
    assert wait_until_gone(int(done.stdout))


@pytest.mark.parametrize("code", ["sys.exit(3)", "os.kill(os.getpid(), 9)"])
def test_status_of_a_command_is_passed_on(code: str):
    with run_until_we_end(
        [sys.executable, "-c", f"import os, sys; print('out', file=sys.stderr); {code}"],
        environment=os.environ,
    ) as process:
        assert process.stdout.read() == "out\n"
    assert process.returncode == (3 if "exit" in code else 128 + 9)


@pytest.mark.parametrize("threads", [1, 2, 9])
def test_outcomes_come_in_order(threads: int):
    with ahead(operator.neg, [3, 1, 2, 5], threads=threads) as outcomes:
        assert list(outcomes) == [-3, -1, -2, -5]
    with ahead(operator.neg, [], threads=threads) as outcomes:
        assert list(outcomes) == []


def test_error_comes_in_its_jobs_turn(tmp_path):
    (tmp_path / "good.json").write_text("{}")
    (tmp_path / "bad.json").write_text("{")
    with ahead(read_json, [tmp_path / f"{name}.json" for name in ("good", "bad", "good")]) as outcomes:
        assert next(outcomes) == {}
        with pytest.raises(InputFileError, match=r"bad\.json: is not JSON"):
            next(outcomes)


@pytest.mark.parametrize("threads", [1, 2])
def test_no_more_jobs_are_begun_than_there_are_threads(threads: int):
    begun = []
    with ahead(begun.append, range(6), threads=threads) as outcomes:
        next(outcomes)
        deadline = time.monotonic() + PATIENCE
        while len(begun) < 1 + threads and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        assert begun == list(range(1 + threads))
    assert len(begun) == 1 + threads


def test_first_job_begins_before_it_is_asked_for():
    begun = threading.Event()
    with ahead(lambda _: begun.set(), [1]) as outcomes:
        assert begun.wait(PATIENCE)
        assert list(outcomes) == [None]


def test_next_job_waits_for_an_outcome_that_is_to_be_alone():
    begun = []
    with ahead(lambda job: begun.append(job) or job, range(3), alone=lambda job: job == 1) as outcomes:
        assert [next(outcomes), next(outcomes)] == [0, 1]
        time.sleep(0.02)
        assert begun == [0, 1]
        assert next(outcomes) == 2


def test_stages_overlap():
    """Each stage waits until another one is at work on its neighbour, which can only be if they overlap."""
    barrier = threading.Barrier(2, timeout=PATIENCE)
    written = []

    def write(case):
        barrier.wait()
        written.append(case)

    with ahead(lambda case: case, range(3)) as cases, behind(write) as submit:
        for case in cases:
            submit(case)
            barrier.wait()
    assert written == [0, 1, 2]


def test_one_call_is_made_behind_and_no_more():
    release, started, submitted = threading.Event(), [], []

    def write(case):
        started.append(case)
        assert release.wait(PATIENCE)

    def produce():
        with behind(write) as submit:
            for case in range(3):
                submit(case)
                submitted.append(case)

    thread = threading.Thread(target=produce)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not submitted and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)
    assert submitted == [0]
    release.set()
    thread.join(PATIENCE)
    assert started == submitted == [0, 1, 2]


def test_call_can_be_waited_for():
    written = []
    with behind(lambda case: time.sleep(0.02) or written.append(case), threads=2) as submit:
        submit(1)
        submit(2, now=True)
        assert sorted(written) == [1, 2]


def test_calls_are_counted_when_they_have_succeeded():
    done = []

    def check(number):
        if number < 0:
            raise InputFileError(f"{number}.nii.gz", "is damaged", "copy it again")

    def run(numbers):
        with behind(check, on_done=lambda: done.append(1)) as submit:
            for number in numbers:
                submit(number)

    run([1, 2])
    assert len(done) == 2
    with pytest.raises(InputFileError, match="is damaged"):
        run([3, -1, 4])
    assert len(done) == 3


def test_error_of_the_block_waits_for_the_calls():
    written = []

    def write(case):
        time.sleep(0.02)
        written.append(case)

    def fail():
        with behind(write) as submit:
            submit(1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert written == [1]
