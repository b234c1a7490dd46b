"""How a study stands: read from its folder, by whoever looks, on whatever machine its steps run."""

import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from sgnet_nnunet import __version__
from sgnet_nnunet.errors import printable
from sgnet_nnunet.files import write_text
from sgnet_nnunet.study.runner import RECORDS
from sgnet_nnunet.study.steps import read_plan

PAGE = "study_status.html"
_TAIL = 20_000  # bytes of a training's log that are read
_EPOCH = re.compile(r": Epoch (\d+)\s*$", re.MULTILINE)
_LOSS = re.compile(r"train_loss (-?[\d.]+)")
_EPOCH_TIME = re.compile(r"Epoch time: ([\d.]+) s")
_MOST_WAITING = 5


class State(str, Enum):
    """Of a step."""

    RUNNING = "running"
    FAILED = "failed"
    WAITING = "waiting"
    DONE = "done"


@dataclass(frozen=True, kw_only=True)
class StepStatus:
    """How one step stands; times are in seconds, None where they are unknown."""

    step: str
    state: State
    seconds: float | None = None
    left: float | None = None
    epoch: int | None = None
    epochs: int = 0
    loss: float | None = None
    problem: str = ""
    log: str = ""


@dataclass(frozen=True)
class Status:
    """How every step stands, and the seconds that are left, if each waits for the one before."""

    steps: tuple[StepStatus, ...]
    left: float

    def counts(self) -> Counter[State]:
        """Return how many steps are in each state."""
        return Counter(step.state for step in self.steps)


def read_status(work: Path) -> Status:
    """Return how the study of a work folder stands."""
    plan = read_plan(work)
    now = time.time()
    steps = tuple(_read_step(work, name, planned, now) for name, planned in plan.items())
    return Status(steps, sum(step.left or 0 for step in steps))


def _read_step(work: Path, name: str, planned: dict[str, Any], now: float) -> StepStatus:
    expected = planned["minutes"] * 60
    try:
        record = json.loads((work / RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return StepStatus(step=name, state=State.WAITING, left=expected, log=planned["log"])
    state = State(record["state"])
    if state is State.DONE:
        return StepStatus(
            step=name, state=state, seconds=record["ended"] - record["began"], log=planned["log"]
        )
    if state is State.FAILED:
        return StepStatus(step=name, state=state, problem=record["problem"], log=planned["log"])
    if state is State.WAITING:
        return StepStatus(step=name, state=state, left=expected, log=planned["log"])
    seconds = now - record["began"]
    training = _read_training(work / planned["resume"], planned["epochs"]) if planned["resume"] else {}
    left = training.pop("left", max(0.0, expected - seconds))
    return StepStatus(step=name, state=state, seconds=seconds, left=left, log=planned["log"], **training)


def _read_training(folder: Path, epochs: int) -> dict[str, Any]:
    """Return epoch, epochs, loss and seconds left by the newest log of nnU-Net in a fold's folder."""
    logs = sorted(folder.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return {}
    with logs[-1].open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL))
        text = file.read().decode("utf-8", errors="replace")
    numbers, losses, times = (pattern.findall(text) for pattern in (_EPOCH, _LOSS, _EPOCH_TIME))
    if not numbers:
        return {}
    found: dict[str, Any] = {"epoch": int(numbers[-1]) + 1, "epochs": epochs}
    if losses:
        found["loss"] = float(losses[-1])
    if times:
        found["left"] = max(0, epochs - int(numbers[-1])) * float(times[-1])
    return found


def duration(seconds: float | None) -> str:
    """Return a time as 3 h 05 min, 12 min or 40 s; "" if it is unknown."""
    if seconds is None:
        return ""
    minutes = round(seconds / 60)
    if minutes >= 60:  # noqa: PLR2004
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes >= 2 else f"{seconds:.0f} s"  # noqa: PLR2004


def rows_of(status: Status, *, every: bool = False) -> list[tuple[str, ...]]:
    """Return step, state, epoch, loss, time, time left and problem of the steps to be shown.

    What runs and what has failed comes first; of what waits, only the next few, unless all are asked for.
    """
    order = {state: place for place, state in enumerate(State)}
    shown: Counter[State] = Counter()
    rows = []
    for step in sorted(status.steps, key=lambda one: order[one.state]):
        shown[step.state] += 1
        hidden = step.state is State.DONE or shown[State.WAITING] > _MOST_WAITING
        if hidden and not every and step.state in {State.DONE, State.WAITING}:
            continue
        epoch = f"{step.epoch} of {step.epochs}" if step.epoch else ""
        loss = f"{step.loss:.3f}" if step.loss is not None else ""
        cells = (
            step.step,
            step.state.value,
            epoch,
            loss,
            duration(step.seconds),
            duration(step.left),
            step.problem,
        )
        rows.append(tuple(map(printable, cells)))
    return rows


COLUMNS = ("step", "state", "epoch", "loss", "time", "left", "problem")


def table_of(status: Status) -> Table:
    """Return the live table."""
    counts = status.counts()
    title = ", ".join(f"{counts[state]} {state.value}" for state in State)
    table = Table(title=f"{title}; about {duration(status.left)} of work left", box=box.SIMPLE)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    for row in rows_of(status):
        table.add_row(*map(Text, row))
    return table


def write_status(work: Path, status: Status, *, title: str) -> None:
    """Write `study_status.html` into the work folder; the page loads itself anew."""
    from sgnet_nnunet.report.viewer import render  # noqa: PLC0415 - half a second, not for `--status`

    counts = {state.value: status.counts()[state] for state in State}
    logs = {step.step: step.log for step in status.steps}
    page = render(
        "study_status.html",
        title=title,
        version=__version__,
        written=time.strftime("%F %T"),
        counts=counts,
        left=duration(status.left),
        columns=COLUMNS,
        rows=rows_of(status, every=True),
        logs=logs,
        finished=not counts[State.RUNNING.value] and not counts[State.WAITING.value],
    )
    write_text(work / PAGE, page)
