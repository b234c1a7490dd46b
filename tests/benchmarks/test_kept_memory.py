"""What is kept of a step's memory, on batches too small to tell which is faster."""

import ctypes

import kept_memory
import pytest
from kept_memory import main, measure, seconds_of_steps

SMALL = (1, 2, 16, 16, 16)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc: nothing is kept")
def test_both_ways_are_timed_in_processes_of_their_own():
    figures = measure(batch=SMALL, steps=2, rounds=1)
    assert list(figures) == [False, True]
    assert all(seconds > 0 and peak > 0 for seconds, peak in figures.values())


def test_every_step_but_the_first_is_timed():
    seconds, _ = seconds_of_steps(kept=False, batch=SMALL, steps=3)
    assert len(seconds) == 3


def test_keeping_where_nothing_can_be_kept_is_an_error(monkeypatch):
    monkeypatch.setattr(kept_memory, "keep_freed_memory", lambda: False)
    with pytest.raises(RuntimeError, match="glibc only"):
        seconds_of_steps(kept=True, batch=SMALL, steps=1)


def test_the_ratio_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(kept_memory, "measure", lambda **_: {False: (3.0, 200.0), True: (2.0, 300.0)})
    main(rounds=1, steps=1, patches=4)
    assert capsys.readouterr().out.splitlines() == [
        "memory given back: 3.00 s a step, peak 200 MB",
        "memory kept: 2.00 s a step, peak 300 MB",
        "ratio: 1.50",
    ]
