"""Every command ends on a signal within seconds, without a traceback and with all its processes.

`SGNET_INTERRUPTS` is how many interrupts are tried, half of them during imports, half at work. For the list:

    SGNET_INTERRUPTS=56 pytest -s tests/cli/test_interrupts.py
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from sgnet_nnunet.cli.app import COMMANDS

SGNET = [sys.executable, "-c", "from sgnet_nnunet.cli.main import main; main()"]
SECONDS = float(os.environ.get("SGNET_INTERRUPTS_SECONDS", "30"))
"""That a command may take to end; 3 on an idle machine."""
PATIENCE = 60
STATUSES = {128 + each for each in (signal.SIGINT, signal.SIGTERM)}
MARK = "SGNET_TEST_PROCESS"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs signals and /proc"),
]


@dataclass(frozen=True)
class Ended:
    status: int
    seconds: float
    errors: str
    survivors: list[str]

    @property
    def fault(self) -> str:
        faults = [
            f"status {self.status}" * (self.status not in STATUSES),
            f"{self.seconds:.1f} s" * (self.seconds > SECONDS),
            self.errors * ("Traceback" in self.errors or "interrupted" not in self.errors),
            f"{len(self.survivors)} processes go on" * bool(self.survivors),
        ]
        return ", ".join(filter(None, faults))


def processes(mark: str) -> list[str]:
    """Return the ids of the running processes that inherited a mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it may have ended
            if f"{MARK}={mark}".encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (done := condition()) and time.monotonic() < end:
        time.sleep(0.005)
    return done


def reached(process: int, *, seconds: float, begun: dict[int, float] = {}) -> bool:  # noqa: B006 - remembers
    """Return whether the seconds have passed since the package's first lines; until then, Python acts."""
    status = Path(f"/proc/{process}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    if caught >> (signal.SIGTERM - 1) & 1:
        begun.setdefault(process, time.monotonic())
    return process in begun and time.monotonic() - begun[process] >= seconds


def interrupt(
    arguments: list[str],
    moment: Callable[[int], bool],
    *,
    number: int,
    whole_group: bool,
    folder: Path,
    mark: str,
) -> Ended:
    """Run a command, send it (as `kill` does) or its group (as a terminal does) a signal at a moment."""
    environment = {**os.environ, MARK: mark, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    with subprocess.Popen(
        [*SGNET, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
        start_new_session=True,
        # A job in the background of a script ignores the signal, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    ) as process:
        try:
            wait_for(lambda: moment(process.pid) or process.poll() is not None, PATIENCE)
            sent = time.monotonic()
            with suppress(ProcessLookupError):  # it may have ended
                (os.killpg if whole_group else os.kill)(process.pid, number)
            try:
                errors = process.communicate(timeout=PATIENCE)[1]
            finally:
                process.kill()
            wait_for(lambda: not processes(mark), SECONDS)
            return Ended(process.returncode, time.monotonic() - sent, errors, processes(mark))
        finally:
            for survivor in processes(mark):
                os.kill(int(survivor), signal.SIGKILL)


def test_each_command_ends_at_any_moment(command_lines, tmp_path):
    rng = random.Random(int(os.environ.get("SGNET_INTERRUPTS_SEED", "0")))
    number = int(os.environ.get("SGNET_INTERRUPTS", "12"))
    names = [command.__name__ for commands in COMMANDS.values() for command in commands]
    faults = []
    for i in range(number):
        importing = i % 2 == 0
        output = tmp_path / str(i)
        output.mkdir()
        lines = command_lines(output)
        name = (names if importing else list(lines))[i // 2 % len(names if importing else lines)]
        seconds = rng.uniform(0, 0.8) if importing else rng.uniform(1.5, 5.0)
        ended = interrupt(
            lines.get(name, ["doctor"]),
            partial(reached, seconds=seconds),
            number=signal.SIGTERM if i % 7 == 6 else signal.SIGINT,
            whole_group=bool(i // 2 % 2),
            folder=output,
            mark=f"{os.getpid()}-{i}",
        )
        text = f"{name}, {'importing' if importing else 'at work'}, {seconds:.2f} s: "
        sys.stdout.write(f"{text}{ended.status} after {ended.seconds:.2f} s {ended.fault}\n")
        finished = ended.status in {0, 1, 2} and not {"Traceback", "interrupted"} & set(ended.errors.split())
        faults += [text + ended.fault] if ended.fault and not finished else []
    sys.stdout.write(f"{number - len(faults)} of {number} interrupts handled\n")
    assert not faults


@pytest.mark.parametrize("name", ["convert", "phantom", "evaluate", "demo"])
def test_workers_die_with_their_parent(command_lines, tmp_path, name):
    mark = f"{os.getpid()}-{name}"
    ended = interrupt(
        command_lines(tmp_path)[name],
        lambda _: len(processes(mark)) >= 4,  # the command, two workers, their resource tracker
        number=signal.SIGKILL,
        whole_group=False,
        folder=tmp_path,
        mark=mark,
    )
    assert ended.status == -signal.SIGKILL
    assert not ended.survivors
