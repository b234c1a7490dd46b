"""Run a study with Snakemake: check it, run its workflow, and report the status meanwhile."""

import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path

from filelock import FileLock, Timeout

from sgnet_nnunet.errors import InputFileError, SGNetError, needs_extra
from sgnet_nnunet.files import make_folder, write_text
from sgnet_nnunet.parallel import run_until_we_end
from sgnet_nnunet.study.runner import DONE, GPUS, RECORDS, read_record, states_of, write_record
from sgnet_nnunet.study.status import StepStatus, read_status
from sgnet_nnunet.study.steps import Step, Steps, write_steps
from sgnet_nnunet.study.study_file import StudyFile

logger = logging.getLogger(__name__)

LOCK, SNAKEMAKE_LOG = "study/lock", "study/logs/snakemake.log"
LOCAL = "local"
_HOOK_S = 60
_DATA = ("convert", "fingerprint", "plan", "preprocess")
_TESTS = {
    "slurm": ["sinfo", "--noheader"],
    "kubernetes": ["kubectl", "version", "--request-timeout=10s"],
}
"""A command that succeeds where the cluster of an executor can be reached."""

_LARGEST_CHECKSUM = 1 << 30  # bytes of a tracked file, all of which are small


class Run:
    """A study that is to run; `executor` and `jobs` are those of its file unless they are given."""

    def __init__(
        self, file: StudyFile, *, executor: str | None = None, jobs: int | None = None,
        cores: int | None = None,
    ) -> None:  # fmt: skip
        """Take the study, and the cores of this machine that it may use; all by default."""
        self.file, self.cluster, self.work = file, file.study.cluster, file.work
        self.executor, self.jobs = executor or self.cluster.executor, jobs or self.cluster.jobs
        self.cores = cores or os.cpu_count() or 1
        self.gpus = visible_gpus() if self.executor == LOCAL else []
        self.changed: list[str] = []
        best = "cuda" if self.gpus or self.executor != LOCAL else "cpu"
        self.device = best if file.study.device == "auto" else file.study.device

    def check(self) -> None:
        """Refuse what cannot run: an engine that is not installed, a cluster that is not there, no GPU.

        Raises:
            SGNetError: Says which and what to do.
        """
        with needs_extra("study"):
            import snakemake  # noqa: F401, PLC0415
        name = self.executor
        plugin = f"snakemake_executor_plugin_{name.replace('-', '_')}"
        if name != LOCAL and not importlib.util.find_spec(plugin):
            remedy = f"run: pip install snakemake-executor-plugin-{name}, or give another --executor"
            raise SGNetError(f"executor {name}: Snakemake has no such plug-in; {remedy}")
        if self.device == "cuda" and name == LOCAL and not self.gpus:
            raise SGNetError("device cuda: nvidia-smi lists no GPU; give `device: cpu`, or a cluster")
        for number, network in enumerate(self.file.study.networks):
            enough = self.device == "cpu" or name != LOCAL or network.gpus <= len(self.gpus)
            remedy = f"give at most {len(self.gpus)}, as many as nvidia-smi lists"
            self.file.require(enough, f"networks[{number}].gpus", f"there are no {network.gpus} GPUs", remedy)
        if name in _TESTS:
            _require_cluster(name, _TESTS[name])
        if name == "cluster-generic" and not self.cluster.options.get("cluster-generic-submit-cmd"):
            remedy = "give cluster.options.cluster-generic-submit-cmd, such as bsub"
            raise SGNetError(f"executor {name}: has no command that submits; {remedy}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the work folder; the system ends the lock of a run that was killed.

        Raises:
            SGNetError: If another run is at work there.
        """
        lock, holder = self.work / LOCK, self.work / f"{LOCK}.pid"
        make_folder(lock.parent)
        try:
            with FileLock(lock, timeout=0):
                write_text(holder, str(os.getpid()))
                yield
        except Timeout as error:
            pid = holder.read_text(encoding="utf-8") if holder.is_file() else "unknown"
            problem = f"another study runs there (process {pid})"
            raise InputFileError(self.work, problem, "wait for it, end it, or name another `work`") from error

    def prepare(self, *, accept_changes: bool = False, dry_run: bool = False) -> dict[str, Step]:
        """Write the steps and return them; those whose inputs have changed are not done any more.

        In a dry run these are only noted, for `missing`.

        Raises:
            InputFileError: If data have changed on which networks were trained, unless that is accepted.
        """
        steps = Steps(self.file, device=self.device, cores=self.cores).make()
        here = Path.cwd()
        os.chdir(self.work)  # the paths of records are relative
        try:
            trained = 0 if accept_changes else len(list(Path(DONE).glob("train/*.json")))
            for step in steps.values():
                if not (changed := _changed_source(step.id)):
                    continue
                if step.kind in _DATA and trained:
                    problem = f"{changed} has changed since it was preprocessed"
                    remedy = f"restore it, or give --accept-changes, which repeats {trained} trainings"
                    raise InputFileError(self.work, problem, remedy)
                self.changed.append(f"{DONE}/{step.id}.json")
                for folder in () if dry_run else (DONE, RECORDS):
                    Path(folder, f"{step.id}.json").unlink(missing_ok=True)
        finally:
            os.chdir(here)
        write_steps(self.work, steps)
        return steps

    # --- Snakemake -----------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of Snakemake."""
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", str(files(__package__) / "workflow.smk"),
            "--directory", str(self.work), "--executor", self.executor, "--scheduler", "greedy", "--nolock",
            "--rerun-triggers", "mtime", "input", "--rerun-incomplete", "--keep-going", "--nocolor",
            "--max-checksum-file-size", str(_LARGEST_CHECKSUM),
        ]  # fmt: skip
        if self.executor == LOCAL:
            cores = str(min(self.jobs or self.cores, self.cores))
            return [*command, "--cores", cores, "--resources", "data=1", f"gpu={len(self.gpus)}", *arguments]
        command += ["--jobs", str(self.jobs or 20), "--latency-wait", "60", "--resources", "data=1"]
        if self.cluster.resources:
            given = (f"{name}={value}" for name, value in self.cluster.resources.items())
            command += ["--default-resources", *given]
        for name, value in self.cluster.options.items():
            command += [f"--{name}"] if value is True else [] if value is False else [f"--{name}", str(value)]
        return [*command, *arguments]

    def environment(self) -> dict[str, str]:
        """Return the variables that Snakemake and its jobs get."""
        package = Path(__file__).parents[2]
        given = {GPUS: ",".join(self.gpus)} if self.gpus else {}
        if (package / "setup.py").is_file():  # not installed: the jobs find it as this process does
            given["PYTHONPATH"] = os.pathsep.join(filter(None, [str(package), os.environ.get("PYTHONPATH")]))
        return os.environ | given

    def missing(self) -> list[str]:
        """Return the ids of the steps that Snakemake would run now.

        Raises:
            SGNetError: If Snakemake refuses the workflow.
        """
        command = self.command("--dry-run", *(["--forcerun", *self.changed] if self.changed else []))
        found = subprocess.run(  # noqa: S603
            command, env=self.environment(), capture_output=True, text=True, check=False
        )
        if found.returncode:
            raise SGNetError(f"Snakemake: {_last(found.stdout + found.stderr)}; see its --dry-run")
        return list(dict.fromkeys(re.findall(rf"output: {DONE}/(\S+)\.json", found.stdout + found.stderr)))

    def run(self, *, watch: Callable[[list[StepStatus]], object], period: float = 2) -> list[StepStatus]:
        """Run what is missing, and call `watch` every `period` seconds; return how it ended.

        Raises:
            SGNetError: If Snakemake fails without a step that fails.
        """
        self._mark({"failed", "running"}, state="waiting")
        log = self.work / SNAKEMAKE_LOG
        make_folder(log.parent)
        stop, last = threading.Event(), ""

        def follow() -> None:
            while not stop.wait(period):
                with suppress(OSError, SGNetError):  # such as a full disk: the steps go on
                    watch(read_status(self.work))

        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        with (
            log.open("w", encoding="utf-8", buffering=1) as file,
            run_until_we_end(self.command(), environment=self.environment()) as process,
        ):
            for line in process.stdout or ():
                file.write(line)
                last = line.strip() or last
        stop.set()
        watcher.join()
        killed = "its process was killed (out of memory, or out of time?)"
        self._mark({"running"}, state="failed", ended=time.time(), problem=killed)
        status = read_status(self.work)
        watch(status)
        if process.returncode and not any(step.state == "failed" for step in status):
            self._notify(status)
            raise SGNetError(f"Snakemake ended with status {process.returncode}: {last}; see {log}")
        return status

    def finish(self, status: Sequence[StepStatus]) -> None:
        """Write Snakemake's own report, and run the study's command of notification."""
        with (self.work / SNAKEMAKE_LOG).open("a", encoding="utf-8") as log:
            command = self.command("--report", str(self.work / "snakemake_report.html"))
            subprocess.run(command, env=self.environment(), stdout=log, stderr=log, check=False)  # noqa: S603
        self._notify(status)

    def _notify(self, status: Sequence[StepStatus]) -> None:
        """Run the study's command of notification; it may contain a password, and is not printed."""
        if not (hook := self.file.study.notify):
            return
        done, failed = (sum(step.state == state for step in status) for state in ("done", "failed"))
        outcome = {
            "SGNET_STUDY_STATUS": "done" if done == len(status) else "failed",
            "SGNET_STUDY_DONE": str(done), "SGNET_STUDY_FAILED": str(failed),
            "SGNET_STUDY_WORK": str(self.work),
        }  # fmt: skip
        try:
            ended = subprocess.run(  # noqa: S602 - the user's own command line
                hook, shell=True, env=os.environ | outcome, check=False, timeout=_HOOK_S
            )
            problem = f"status {ended.returncode}" if ended.returncode else ""
        except subprocess.TimeoutExpired:
            problem = f"no end in {_HOOK_S} s"
        if problem:
            logger.warning("notify: the command failed (%s)", problem)

    def _mark(self, states: Container[str], **changes: object) -> None:
        """Change the records of the steps in these states."""
        for path in (self.work / RECORDS).rglob("*.json"):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["state"] in states:
                write_text(path, json.dumps(record | changes))


def _changed_source(step: str) -> str:
    """Return a source of a step that is done whose content is not what it has read, "" if there is none."""
    record = read_record(step)
    for name, before in record.get("sources", {}).items() if record.get("state") == "done" else ():
        now = states_of(Path(name), before)
        for file in sorted(before.keys() | now.keys()):
            if before.get(file, [])[2:] != now.get(file, [])[2:]:
                return str(Path(name, file))
        if now != before:  # the times alone: not read again the next time
            write_record(step, record | {"sources": record["sources"] | {name: now}})
    return ""


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")


def _require_cluster(name: str, test: Sequence[str]) -> None:
    if not shutil.which(test[0]):
        raise SGNetError(f"executor {name}: there is no command {test[0]}; run this on a host of the cluster")
    try:
        found = subprocess.run(test, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
        problem = _last(found.stderr or found.stdout) if found.returncode else ""
    except subprocess.TimeoutExpired:
        problem = "no answer in 30 s"
    if problem:
        remedy = f"check `{' '.join(test)}`"
        raise SGNetError(f"executor {name}: the cluster does not answer ({problem}); {remedy}")


def visible_gpus() -> list[str]:
    """Return the numbers of the GPUs that this process may use."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [each.strip() for each in given.split(",") if each.strip() not in {"", "-1"}]
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return found.stdout.split() if not found.returncode else []


def estimate(steps: Mapping[str, Step], missing: Sequence[str]) -> dict[str, list[float]]:
    """Return number, hours, GPU-hours and GB of disk of the missing steps, by kind."""
    found: dict[str, list[float]] = {}
    for step in (steps[each] for each in missing):
        hours = step.cost.minutes / 60
        row = (1, hours, hours * step.gpus, step.cost.disk_mb / 1000)
        before = found.get(step.kind, [0, 0, 0, 0])
        found[step.kind] = [one + other for one, other in zip(before, row, strict=True)]
    return found
