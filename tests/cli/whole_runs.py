"""Command lines run in children of a process that has everything imported, and the files that they write."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 600
"""Seconds that a command may take."""

FORKING = """
import importlib, json, os, pkgutil, sys
import sgnet_nnunet
for module in pkgutil.walk_packages(sgnet_nnunet.__path__, "sgnet_nnunet."):
    importlib.import_module(module.name)
from sgnet_nnunet.cli.main import main
answers = os.fdopen(os.dup(1), "w", buffering=1)
for line in sys.stdin:
    arguments, environment, errors = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.environ.update(environment)
        status = 0
        try:
            main(arguments)
        except SystemExit as ended:
            status = ended.code or 0
        os._exit(status)
    print(child, file=answers)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers)
"""


@contextmanager
def forked_runs() -> Iterator[Callable[..., tuple[int, float]]]:
    """Yield a function that runs a command line, and returns its status and the seconds it took.

    After `seconds` the command is killed. Its standard error is written to the file `errors`. The process
    that forks runs nothing itself: a fork would leave the threads of the tests behind.
    """
    with subprocess.Popen(
        [sys.executable, "-c", FORKING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin
        assert process.stdout

        def run(
            arguments: list[str],
            environment: dict[str, str],
            *,
            seconds: float = PATIENCE,
            errors: str | Path = os.devnull,
        ) -> tuple[int, float]:
            process.stdin.write(json.dumps([arguments, environment, str(errors)]).encode() + b"\n")
            child, begun = int(process.stdout.readline()), time.monotonic()
            if not select.select([process.stdout], [], [], seconds)[0]:
                os.kill(child, signal.SIGKILL)
            return int(process.stdout.readline()), time.monotonic() - begun

        yield run
        process.stdin.close()


def shortened(lines: dict[str, list[str]], *, workers: int) -> dict[str, list[str]]:
    """Return the lines without what only takes time."""
    for line in lines.values():
        if "-np" in line:
            line[line.index("-np") + 1] = str(workers)
    lines["predict"].remove("--tta")
    lines["segment"].remove("--tta")
    lines["export"] = lines["export"][: lines["export"].index("-f") + 2]
    lines["convert"][lines["convert"].index("rigid")] = "none"
    lines["phantom"][lines["phantom"].index("40")] = "2"
    lines["demo"] += ["--epochs", "1", "--iters", "1"]
    return lines


UNSEEDED = re.compile("demo/(logs|nnUNet_preprocessed|nnUNet_results|predictions|overlay)")
"""What the demo makes from its data set, by a training without a seed."""


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of all files, but for what differs between any two runs.

    That is the seconds in `run.json`, the time in a training log's name, and what is in files of `UNSEEDED`.
    """
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            name, content = path.relative_to(folder).as_posix(), path.read_bytes()
            if path.name == "run.json":
                content = json.dumps(json.loads(content) | {"seconds": None}).encode()
            if UNSEEDED.match(name):
                name, content = re.sub(r"training_log_[0-9_]+", "training_log", name), b""
            found[name] = content
    return found


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Return the files that only one has, or that differ."""
    return [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
