"""Runs one step of a study, once: `python -m sgnet_nnunet.study.runner WORK STEP CPUS GPUS`.

Snakemake calls it for every step, perhaps thousands of times: it imports little. A step whose work is done
already is not done again, whatever Snakemake remembers of it.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

STEPS, DONE, RECORDS, LOGS, LOCKS = (
    f"study/{name}" for name in ("steps", "done", "records", "logs", "locks")
)
"""Folders in the work folder: what each step is to do, what it has made, how it went, what it printed."""

JOURNAL = "study/journal.jsonl"
CPUS = "{cpus}"
"""In a command, the number of cores that the step has got."""

GPUS = "SGNET_STUDY_GPUS"
"""Numbers of the GPUs that steps of this machine share, separated by commas; a cluster sets its own."""

_MOST_LINE = 300


def run_step(step: str, *, cpus: int, gpus: int) -> int:
    """Run a step in the work folder, which is the current one; return an exit status.

    A step that was run with the same commands on the same inputs is only marked as done.
    """
    for folder in (DONE, RECORDS, LOGS, LOCKS):
        Path(folder, step).parent.mkdir(parents=True, exist_ok=True)
    # A process that outlives the study for a moment, or a job of a cluster, may be at it still.
    with FileLock(f"{LOCKS}/{step}.lock"):
        text = Path(STEPS, f"{step}.json").read_text(encoding="utf-8")
        content: dict[str, Any] = json.loads(text)
        needed = [Path(DONE, f"{each}.json").read_text(encoding="utf-8") for each in content.get("needs", ())]
        identity = hashlib.sha256("\0".join([text, *needed]).encode()).hexdigest()
        record = read_record(step)
        if record.get("identity") == identity and record.get("state") == "done":
            _journal(step, "kept", identity)
            _write(Path(DONE, f"{step}.json"), record["done"])
            return 0
        if record.get("identity") != identity:
            for path in content.get("fresh", ()):
                _delete(Path(path))
        started = {
            "identity": identity,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "began": time.time(),
        }
        _write_record(step, started | {"state": "running"})
        _journal(step, "started", identity)
        problem = _perform(step, content, cpus=cpus, gpus=gpus)
        if problem:
            _journal(step, "failed", identity)
            _write_record(step, started | {"state": "failed", "ended": time.time(), "problem": problem})
            sys.stderr.write(f"{step}: {problem}; see {LOGS}/{step}.log\n")
            return 1
        _journal(step, "completed", identity)
        done = json.dumps(
            {name: checksum_of_tree(Path(name)) for name in content.get("outputs", ())}, indent=1
        )
        sources = {name: state_of(Path(name), full=True) for name in content.get("sources", ())}
        finished = {"state": "done", "ended": time.time(), "done": done, "sources": sources}
        _write_record(step, started | finished)
        _write(Path(DONE, f"{step}.json"), done)
        return 0


def _perform(step: str, content: Mapping[str, Any], *, cpus: int, gpus: int) -> str:
    """Run the commands and the action of a step; return why it failed, "" if it did not."""
    for name, target in content.get("links", {}).items():
        _link(Path(name), target)
    with ExitStack() as stack, Path(LOGS, f"{step}.log").open("a", encoding="utf-8") as log:
        environment = _environment(content.get("environment", {}), cpus=cpus)
        if GPUS in os.environ and gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(stack.enter_context(_reserved(gpus)))
        arguments = content.get("arguments", {})
        if arguments.get("fetch"):
            from sgnet_nnunet.study.storage import fetch  # noqa: PLC0415 - of remote images alone

            fetch(arguments["fetch"], Path(arguments["images"]))
        for command in content.get("commands", ()):
            argv = [str(cpus) if part == CPUS else part for part in command]
            if content.get("resume") and any(Path(content["resume"]).glob("checkpoint_*.pth")):
                argv.append("--c")
            log.write(f"[{time.strftime('%F %T')}] {' '.join(argv)}\n")
            log.flush()
            status = subprocess.call(  # noqa: S603 - the commands are those of the study
                [_program(argv[0]), *argv[1:]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            if status not in content.get("accepted", (0,)):
                return f"`{argv[0]}` ended with status {status}: {_last_line(step)}"
        if content.get("action"):
            from sgnet_nnunet.study import actions  # noqa: PLC0415 - half of the steps have none

            try:
                getattr(actions, content["action"])(**arguments)
            except Exception as error:
                log.write(f"{content['action']}: {type(error).__name__}: {error}\n")
                return f"{type(error).__name__}: {error}"
    return ""


def _program(name: str) -> str:
    """Return the path of a command of this Python environment, else of the PATH."""
    own = Path(sysconfig.get_path("scripts"), name)
    return str(own) if own.is_file() else shutil.which(name) or name


def _environment(given: Mapping[str, str], *, cpus: int) -> dict[str, str]:
    folders = {name: str(Path(name).absolute()) for name in ("nnUNet_raw", "nnUNet_preprocessed")}
    threads = {
        "OMP_NUM_THREADS": str(cpus),
        "nnUNet_def_n_proc": str(cpus),
        "nnUNet_n_proc_DA": str(max(2, cpus)),
        "PYTHONUNBUFFERED": "1",
    }
    environment = threads | dict(os.environ) | folders | dict(given)
    environment["nnUNet_results"] = str(Path(environment.get("nnUNet_results", "results")).absolute())
    return environment


@contextmanager
def _reserved(number: int) -> Iterator[list[str]]:
    """Yield the numbers of GPUs that no other step of this user, of any study, uses meanwhile."""
    folder = Path(tempfile.gettempdir(), f"sgnet-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    while True:
        with ExitStack() as stack:
            found = []
            for gpu in os.environ[GPUS].split(","):
                lock = FileLock(folder / f"{gpu}.lock")
                try:
                    stack.enter_context(lock.acquire(timeout=0))
                except Timeout:
                    continue
                found.append(gpu)
                if len(found) == number:
                    yield found
                    return
        time.sleep(1)


def _last_line(step: str) -> str:
    with Path(LOGS, f"{step}.log").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:_MOST_LINE] if lines else ""


# --- what is on the disk -----------------------------------------------------------------------------------


def checksum_of_tree(path: Path) -> str:
    """Return a checksum of a file, or of the names and contents of a folder; "" if there is neither."""
    if path.is_dir():
        lines = [f"{file.relative_to(path)} {checksum_of_tree(file)}" for file in _files_of(path)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha(file)
        )


def _sha(file: Any) -> str:  # noqa: ANN401
    checksum = hashlib.sha256()  # Python 3.10
    while block := file.read(1 << 20):
        checksum.update(block)
    return checksum.hexdigest()


def _files_of(folder: Path) -> list[Path]:
    found = [Path(root, name) for root, _, names in os.walk(folder, followlinks=True) for name in names]
    return sorted(path for path in found if not path.name.startswith("."))


def state_of(path: Path, *, full: bool, before: Mapping[str, Any] | None = None) -> dict[str, list[Any]]:
    """Return size, time in ns and, if `full`, checksum of a file or of each file of a folder, by its name.

    Checksums of files with the size and time of `before` are taken from there.
    """
    files = _files_of(path) if path.is_dir() else [path]
    states: dict[str, list[Any]] = {}
    for file in files:
        try:
            status = file.stat()
        except OSError:
            continue
        name = str(file.relative_to(path)) if file != path else ""
        known = (before or {}).get(name, [0, 0, ""])
        same = known[:2] == [status.st_size, status.st_mtime_ns]
        checksum = known[2] if same else checksum_of_tree(file) if full else ""
        states[name] = [status.st_size, status.st_mtime_ns, checksum]
    return states


def read_record(step: str) -> dict[str, Any]:
    """Return how a step went, empty if it was not started."""
    try:
        record: dict[str, Any] = json.loads(Path(RECORDS, f"{step}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record


def _write_record(step: str, record: Mapping[str, Any]) -> None:
    _write(Path(RECORDS, f"{step}.json"), json.dumps(record))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _journal(step: str, event: str, identity: str) -> None:
    with Path(JOURNAL).open("a", encoding="utf-8") as file:
        line = {"time": time.time(), "step": step, "event": event, "identity": identity}
        file.write(json.dumps(line) + "\n")


def _link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.is_symlink() and str(path.readlink()) == target):
        path.unlink(missing_ok=True)
        path.symlink_to(target)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    sys.exit(run_step(sys.argv[2], cpus=int(sys.argv[3]), gpus=int(sys.argv[4])))
