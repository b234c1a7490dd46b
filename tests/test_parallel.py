"""Workers neither hang nor hide what went wrong."""

import math
import operator
import os

import pytest

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.parallel import run_jobs


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


def test_dying_worker_ends_the_run_with_advice():
    with pytest.raises(SGNetError, match=r"a worker died.*run again with fewer"):
        list(run_jobs(os._exit, [1, 1, 1], workers=2))


def test_lack_of_memory_ends_the_run_with_advice():
    with pytest.raises(SGNetError, match="run again with fewer"):
        list(run_jobs(out_of_memory, [1], workers=1))
