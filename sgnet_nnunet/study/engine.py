"""Runs a study with Snakemake: checks first, then the workflow, with a table of how it stands."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sgnet_nnunet.errors import InputFileError, SGNetError, needs_extra
from sgnet_nnunet.files import make_folder
from sgnet_nnunet.parallel import run_until_we_end
from sgnet_nnunet.study.runner import DONE, GPUS, RECORDS, read_record, state_of
from sgnet_nnunet.study.status import State, Status, read_status
from sgnet_nnunet.study.steps import Plan, Step, write_steps
from sgnet_nnunet.study.study_file import StudyFile

LOCK = "study/lock"
SNAKEMAKE_LOG = "study/logs/snakemake.log"
LOCAL = "local"

_DATA = ("convert", "fingerprint", "plan", "preprocess")
_TESTS = {
    "slurm": ["sinfo", "--noheader"],
    "kubernetes": ["kubectl", "version", "--request-timeout=10s"],
}
"""A command that succeeds where the cluster of an executor can be reached."""

_LARGEST_CHECKSUM = 1 << 30  # bytes of a tracked file, all of which are small


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a study is run; what is None is read from its file.

    `accept_changes` allows that trainings are repeated because the data have changed.
    """

    executor: str | None = None
    jobs: int | None = None
    cores: int | None = None
    accept_changes: bool = False
    extra: tuple[str, ...] = ()


class Run:
    """A study that is ready to run: its steps are written, its work folder is locked."""

    def __init__(self, file: StudyFile, options: RunOptions) -> None:
        self.file, self.options = file, options
        self.executor = options.executor or file.study.cluster.executor
        self.cores = options.cores or os.cpu_count() or 1
        self.gpus = visible_gpus() if self.executor == LOCAL else []
        device = file.study.device
        if device == "auto":
            device = "cuda" if self.gpus or self.executor != LOCAL else "cpu"
        self.device = device
        self.work = file.work

    def check(self) -> None:
        """Refuse what cannot run: an engine that is not installed, a cluster that is not there, no GPU.

        Raises:
            SGNetError: Says which and what to do.
        """
        with needs_extra("study"):
            import snakemake  # noqa: F401, PLC0415
        name = self.executor
        if name != LOCAL and not importlib.util.find_spec(
            f"snakemake_executor_plugin_{name.replace('-', '_')}"
        ):
            remedy = f"run: pip install snakemake-executor-plugin-{name}, or give another --executor"
            raise SGNetError(f"executor {name}: Snakemake has no such plug-in; {remedy}")
        if self.device == "cuda" and name == LOCAL and not self.gpus:
            raise SGNetError("device cuda: nvidia-smi lists no GPU; give `device: cpu`, or a cluster")
        if test := _TESTS.get(name):
            _require_cluster(name, test)
        if name == "cluster-generic" and not self._option("cluster-generic-submit-cmd"):
            remedy = "give cluster.options.cluster-generic-submit-cmd, such as bsub"
            raise SGNetError(f"executor {name}: has no command that submits; {remedy}")

    def _option(self, name: str) -> object:
        return self.file.study.cluster.options.get(name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs out of the work folder, also after this one was killed.

        Raises:
            SGNetError: If another run is at work there.
        """
        make_folder(self.work)
        (self.work / LOCK).parent.mkdir(exist_ok=True)
        try:
            with FileLock(self.work / LOCK, timeout=0):
                (self.work / f"{LOCK}.pid").write_text(str(os.getpid()), encoding="utf-8")
                yield
        except Timeout as error:
            holder = self.work / f"{LOCK}.pid"
            pid = holder.read_text(encoding="utf-8") if holder.is_file() else "unknown"
            problem = f"another study runs there (process {pid})"
            raise InputFileError(self.work, problem, "wait for it, end it, or name another `work`") from error

    def prepare(self) -> dict[str, Step]:
        """Write the steps, mark those whose inputs have changed, and return all.

        Raises:
            InputFileError: If data have changed on which networks were trained, and that is not accepted.
        """
        steps = Plan(self.file, device=self.device, cores=self.cores).steps()
        here = Path.cwd()
        os.chdir(self.work)  # the paths of records are relative
        try:
            for step in steps.values():
                self._forget_changed(step)
        finally:
            os.chdir(here)
        write_steps(self.work, steps)
        return steps

    def _forget_changed(self, step: Step) -> None:
        """Mark a step as not done if the content of its sources is not what it has read."""
        record = read_record(step.id)
        if record.get("state") != "done":
            return
        for name, before in record["sources"].items():
            now = state_of(Path(name), full=True, before=before)
            changed = [key for key in before.keys() | now.keys() if _sum(before, key) != _sum(now, key)]
            if not changed:
                continue
            trained = len(list(Path(DONE).glob("train/*.json")))
            if step.kind in _DATA and trained and not self.options.accept_changes:
                problem = f"{Path(name, min(changed))} has changed since it was preprocessed"
                remedy = f"restore it, or give --accept-changes, which repeats {trained} trainings"
                raise InputFileError(self.work, problem, remedy)
            for folder in (DONE, RECORDS):
                Path(folder, f"{step.id}.json").unlink(missing_ok=True)

    # --- Snakemake -----------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of Snakemake."""
        cluster, remote = self.file.study.cluster, self.executor != LOCAL
        jobs = self.options.jobs or cluster.jobs
        command = [
            *(sys.executable, "-m", "snakemake", "--snakefile", str(files(__package__) / "workflow.smk")),
            *(
                "--directory",
                str(self.work),
                "--executor",
                self.executor,
                "--scheduler",
                "greedy",
                "--nolock",
            ),
            *("--rerun-triggers", "mtime", "input", "--rerun-incomplete", "--keep-going"),
            *("--max-checksum-file-size", str(_LARGEST_CHECKSUM), "--nocolor"),
        ]
        limits = ["data=1"]
        if remote:
            command += ["--jobs", str(jobs or 20), "--latency-wait", "60"]
        else:
            command += ["--cores", str(min(jobs or self.cores, self.cores))]
            limits.append(f"gpu={len(self.gpus)}")
        command += ["--resources", *limits]
        if remote and cluster.resources:
            command += [
                "--default-resources",
                *(f"{name}={value}" for name, value in cluster.resources.items()),
            ]
        for name, value in cluster.options.items() if remote else ():
            command += [f"--{name}"] if value is True else [] if value is False else [f"--{name}", str(value)]
        return [*command, *self.options.extra, *arguments]

    def environment(self) -> dict[str, str]:
        """Return the variables that Snakemake and its jobs get."""
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH", "")]))
        given = {"PYTHONPATH": path} if (Path(package) / "setup.py").is_file() else {}
        return os.environ | given | ({GPUS: ",".join(self.gpus)} if self.gpus else {})

    def missing(self) -> list[str]:
        """Return the ids of the steps that Snakemake would run now.

        Raises:
            SGNetError: If Snakemake refuses the workflow.
        """
        found = subprocess.run(  # noqa: S603
            self.command("--dry-run"), env=self.environment(), capture_output=True, text=True, check=False
        )
        if found.returncode:
            raise SGNetError(f"Snakemake: {_last(found.stdout + found.stderr)}; see its --dry-run")
        return list(dict.fromkeys(re.findall(rf"output: {DONE}/(\S+)\.json", found.stdout + found.stderr)))

    def run(self, *, watch: Callable[[Status], object], period: float = 2) -> Status:
        """Run what is missing, and call `watch` every few seconds; return how it ended."""
        for path in (self.work / RECORDS).rglob("*.json"):
            self._forget_failure(path)
        log = self.work / SNAKEMAKE_LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(period):
                watch(read_status(self.work))

        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        last = ""
        with (
            log.open("w", encoding="utf-8", buffering=1) as file,
            run_until_we_end(self.command(), environment=self.environment()) as process,
        ):
            for line in process.stdout or ():
                file.write(line)
                last = line.strip() or last
        stop.set()
        watcher.join()
        status = read_status(self.work)
        watch(status)
        if process.returncode and not status.counts()[State.FAILED]:
            raise SGNetError(f"Snakemake ended with status {process.returncode}: {last}; see {log}")
        return status

    def _forget_failure(self, path: Path) -> None:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record.get("state") in {"failed", "running"}:
            path.write_text(json.dumps(record | {"state": "waiting"}), encoding="utf-8")

    def snakemake_report(self) -> Path:
        """Write Snakemake's own report, and return its path."""
        path = self.work / "snakemake_report.html"
        with (self.work / SNAKEMAKE_LOG).open("a", encoding="utf-8") as log:
            command = self.command("--report", str(path))
            subprocess.run(command, env=self.environment(), stdout=log, stderr=log, check=False)  # noqa: S603
        return path

    def notify(self, status: Status) -> None:
        """Run the study's command of notification, with the outcome in its environment."""
        counts = status.counts()
        outcome = {
            "SGNET_STUDY_STATUS": "failed" if counts[State.FAILED] else "done",
            "SGNET_STUDY_DONE": str(counts[State.DONE]),
            "SGNET_STUDY_FAILED": str(counts[State.FAILED]),
            "SGNET_STUDY_WORK": str(self.work),
        }
        if command := self.file.study.notify:
            subprocess.run(  # noqa: S602 - the user's own command line
                command, shell=True, env=os.environ | outcome, check=False, timeout=60
            )


def _sum(states: Mapping[str, Sequence[Any]], name: str) -> object:
    return states[name][2] if name in states else None


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def _require_cluster(name: str, test: Sequence[str]) -> None:
    if not shutil.which(test[0]):
        raise SGNetError(f"executor {name}: there is no command {test[0]}; run this on a host of the cluster")
    try:
        found = subprocess.run(test, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
        problem = _last(found.stderr or found.stdout) if found.returncode else ""
    except subprocess.TimeoutExpired:
        problem = "no answer in 30 s"
    if problem:
        raise SGNetError(
            f"executor {name}: the cluster does not answer ({problem}); check `{' '.join(test)}`"
        )


def visible_gpus() -> list[str]:
    """Return the numbers of the GPUs that this process may use."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [each.strip() for each in given.split(",") if each.strip() not in {"", "-1"}]
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return found.stdout.split() if not found.returncode else []


@dataclass(frozen=True)
class Estimate:
    """What the missing steps of a kind are expected to take."""

    kind: str
    steps: int
    hours: float
    gpu_hours: float
    disk_gb: float


def estimate(steps: Mapping[str, Step], missing: Sequence[str]) -> list[Estimate]:
    """Return the estimates of each kind of step that would run."""
    found = []
    number = Counter(step.partition("/")[0] for step in missing)
    for kind, count in number.items():
        chosen = [steps[step] for step in missing if steps[step].kind == kind]
        hours = sum(step.cost.minutes for step in chosen) / 60
        gpu = sum(step.cost.minutes * step.gpus for step in chosen) / 60
        found.append(Estimate(kind, count, hours, gpu, sum(step.cost.disk_mb for step in chosen) / 1000))
    return found
