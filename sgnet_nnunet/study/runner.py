"""Runs one step of a study, once: `python -m sgnet_nnunet.study.runner WORK STEP CPUS GPUS`.

Snakemake calls it for every step, perhaps thousands of times: it imports little. A step whose work is done
already is not done again, whatever Snakemake remembers of it.
"""

import fcntl  # filelock would take 27 ms to import, a tenth of what a step costs
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from sgnet_nnunet.errors import SGNetError, describe
from sgnet_nnunet.files import checksum_of, write_text

STEPS, DONE, RECORDS, LOGS, _LOCKS = (
    f"study/{name}" for name in ("steps", "done", "records", "logs", "locks")
)
"""Folders in the work folder: what each step is to do, what it has made, its record, its log."""

CPUS = "{cpus}"
"""In a command, the number of cores that the step has got."""

GPUS = "SGNET_STUDY_GPUS"
"""Numbers of the GPUs that steps of this machine share, separated by commas; a cluster sets its own."""

COMMANDS_DONE = "all commands done"
"""In the log of a step, each time that its commands have succeeded."""

_MOST_LINE = 300


def run_step(step: str, *, cpus: int, gpus: int) -> int:
    """Run a step in the work folder, which is the current one; return an exit status.

    A step that was run with the same commands on the same inputs is only marked as done.
    """
    for folder in (DONE, RECORDS, LOGS, _LOCKS):
        Path(folder, step).parent.mkdir(parents=True, exist_ok=True)
    # A process that outlives the study for a moment, or a job of a cluster, may be at it still.
    with Path(_LOCKS, f"{step}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        content: dict[str, Any] = json.loads(Path(STEPS, f"{step}.json").read_text(encoding="utf-8"))
        identity = identity_of(step)
        record = read_record(step)
        if record.get("identity") == identity and record["state"] == "done":
            write_text(Path(DONE, f"{step}.json"), record["done"])
            return 0
        for path in content.get("fresh", ()) if record.get("identity") != identity else ():
            _delete(Path(path))
        record = {"identity": identity, "state": "running", "began": time.time()}
        write_record(step, record)
        # Before they are read: what changes meanwhile is a change when the study is started the next time.
        sources = {each: states_of(Path(each), {}) for each in content.get("sources", ())}
        with Path(LOGS, f"{step}.log").open("a", encoding="utf-8") as log:
            try:
                problem = _perform(content, log, cpus=cpus, gpus=gpus)
            except Exception as error:
                traceback.print_exc(file=log)
                problem = str(error) if isinstance(error, SGNetError) else describe(error)
            log.write(f"[{time.strftime('%F %T')}] {problem or COMMANDS_DONE}\n")
        record["ended"] = time.time()
        if problem:
            write_record(step, record | {"state": "failed", "problem": problem})
            sys.stderr.write(f"{step}: {problem}; see {LOGS}/{step}.log\n")
            return 1
        done = json.dumps({each: checksum_of_tree(Path(each)) for each in content.get("outputs", ())})
        write_record(step, record | {"state": "done", "done": done, "sources": sources})
        write_text(Path(DONE, f"{step}.json"), done)
        return 0


def identity_of(step: str, work: Path = Path()) -> str:
    """Return a checksum of what a step is to do and of what the steps that it needs have made.

    Raises:
        OSError: If one of those is not done.
    """
    text = (work / STEPS / f"{step}.json").read_text(encoding="utf-8")
    needs = json.loads(text).get("needs", ())
    made = [(work / DONE / f"{each}.json").read_text(encoding="utf-8") for each in needs]
    return hashlib.sha256("\0".join([text, *made]).encode()).hexdigest()


def _perform(content: Mapping[str, Any], log: IO[str], *, cpus: int, gpus: int) -> str:
    """Run the commands and the action of a step; return why it failed, "" if it did not."""
    for name, target in content.get("links", {}).items():
        _link(Path(name), target)
    arguments = content.get("arguments", {})
    with ExitStack() as stack:
        environment = _environment(content, cpus=cpus)
        if GPUS in os.environ and gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(stack.enter_context(_reserved(gpus)))
        if arguments.get("fetch"):
            from sgnet_nnunet.study.actions import fetch  # noqa: PLC0415 - of remote images alone

            fetch(arguments["fetch"], Path(arguments["images"]))
        for command in content.get("commands", ()):
            argv = [str(cpus) if part == CPUS else part for part in command]
            if content.get("resume") and any(Path(content["resume"]).glob("checkpoint_*.pth")):
                argv.append("--c")
            log.write(f"[{time.strftime('%F %T')}] {' '.join(argv)}\n")
            log.flush()
            own = Path(sysconfig.get_path("scripts"), argv[0])
            program = str(own) if own.is_file() else shutil.which(argv[0]) or argv[0]
            status = subprocess.call(  # noqa: S603 - the commands are those of the study
                [program, *argv[1:]], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            if status not in content.get("accepted", (0,)):
                return f"`{argv[0]}` ended with status {status}: {_last_line(Path(log.name))}"
    if content.get("action"):
        from sgnet_nnunet.study import actions  # noqa: PLC0415 - half of the steps have none

        getattr(actions, content["action"])(**arguments)
    return ""


def _environment(content: Mapping[str, Any], *, cpus: int) -> dict[str, str]:
    folders = {name: str(Path(path).absolute()) for name, path in content.get("folders", {}).items()}
    threads = {
        "OMP_NUM_THREADS": str(cpus), "nnUNet_def_n_proc": str(cpus), "nnUNet_n_proc_DA": str(max(2, cpus)),
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    return threads | dict(os.environ) | content.get("environment", {}) | folders


@contextmanager
def _reserved(number: int) -> Iterator[list[str]]:
    """Yield the numbers of GPUs that no other step of this user, of any study, uses meanwhile."""
    folder = Path(tempfile.gettempdir(), f"sgnet-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True)
    while True:
        with ExitStack() as stack:
            found = []
            for gpu in os.environ[GPUS].split(","):
                lock = stack.enter_context((folder / f"{gpu}.lock").open("w"))
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                found.append(gpu)
                if len(found) == number:
                    yield found
                    return
        time.sleep(1)


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:_MOST_LINE]


def states_of(path: Path, before: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return size, time in ns and checksum of a file, or of each file of a folder, by its name in there.

    Checksums of files with the size and time of `before` are taken from there.
    """
    files = [path]
    if path.is_dir():
        found = (Path(root, name) for root, _, names in os.walk(path, followlinks=True) for name in names)
        files = sorted(each for each in found if not each.name.startswith("."))
    states = {}
    for file in filter(Path.is_file, files):
        size, changed = file.stat().st_size, file.stat().st_mtime_ns
        name = str(file.relative_to(path))
        known = before.get(name, [])
        states[name] = list(known) if known[:2] == [size, changed] else [size, changed, checksum_of(file)]
    return states


def checksum_of_tree(path: Path) -> str:
    """Return a checksum of a file, or of the names and contents of a folder; "" if there is neither."""
    states = states_of(path, {})
    text = "\n".join(f"{name} {checksum}" for name, (_, _, checksum) in states.items())
    return hashlib.sha256(text.encode()).hexdigest() if states else ""


def read_record(step: str) -> dict[str, Any]:
    """Return the record of a step, empty if it was not started."""
    try:
        record: dict[str, Any] = json.loads(Path(RECORDS, f"{step}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record


def write_record(step: str, record: Mapping[str, Any]) -> None:
    """Write the record of a step: its identity, its state, and times in seconds since 1970."""
    write_text(Path(RECORDS, f"{step}.json"), json.dumps(record))


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
