import operator
import os
import threading
import time

import pytest

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import read_json
from sgnet_nnunet.parallel import ahead, behind

# What a process is given to do must be importable there, as a test's own functions are not.


@pytest.mark.parametrize("processes", [0, 2])
def test_order_is_kept(processes):
    assert list(ahead(operator.neg, [3, 1, 2, 5], processes=processes)) == [-3, -1, -2, -5]
    assert list(ahead(operator.neg, [], processes=processes)) == []


@pytest.mark.parametrize("processes", [0, 1])
def test_error_comes_in_its_jobs_turn_and_names_the_file(processes, tmp_path):
    (tmp_path / "good.json").write_text("{}")
    (tmp_path / "bad.json").write_text("{")
    jobs = [tmp_path / f"{name}.json" for name in ("good", "bad", "good")]
    outcomes = ahead(read_json, jobs, processes=processes)
    assert next(outcomes) == {}
    with pytest.raises(InputFileError, match=r"bad\.json: is not JSON"):
        next(outcomes)


def test_one_case_is_made_ahead_and_no_more():
    begun = []
    outcomes = ahead(begun.append, range(5))
    next(outcomes)
    deadline = time.monotonic() + 5
    while len(begun) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert begun == [0, 1]
    outcomes.close()


def test_first_job_begins_before_it_is_asked_for():
    begun = threading.Event()
    outcomes = ahead(lambda _: begun.set(), [1])
    assert begun.wait(5)
    assert list(outcomes) == [None]


def test_process_that_dies_is_one_line():
    with pytest.raises(SGNetError, match="a process of -npp or -nps died"):
        list(ahead(os._exit, [1], processes=1))


def test_stages_overlap():
    """Each stage waits until another one is at work on its neighbour, which can only be if they overlap."""
    barrier = threading.Barrier(2, timeout=10)
    written = []

    def write(case):
        barrier.wait()
        written.append(case)

    with behind() as submit:
        for case in ahead(lambda case: case, range(3)):
            submit(write, case)
            barrier.wait()
    assert written == [0, 1, 2]


def test_one_call_waits_behind_and_no_more():
    release, started = threading.Event(), []

    def write(case):
        started.append(case)
        assert release.wait(10)

    submitted = []

    def produce():
        with behind() as submit:
            for case in range(3):
                submit(write, case)
                submitted.append(case)

    thread = threading.Thread(target=produce)
    thread.start()
    time.sleep(0.05)
    assert submitted == [0]
    release.set()
    thread.join(10)
    assert started == submitted == [0, 1, 2]


def test_calls_are_counted_when_they_have_succeeded():
    done = []

    def check(number):
        if number < 0:
            raise InputFileError(f"{number}.nii.gz", "is damaged", "copy it again")

    def run(numbers):
        with behind(on_done=lambda: done.append(1)) as submit:
            for number in numbers:
                submit(check, number)

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
        with behind() as submit:
            submit(write, 1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert written == [1]
