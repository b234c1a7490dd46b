"""The status of a study, read from its work folder, whichever machine its steps run on."""

import json
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from sgnet_nnunet import __version__
from sgnet_nnunet.errors import printable
from sgnet_nnunet.files import read_json, write_text
from sgnet_nnunet.study.runner import RECORDS, identity_of
from sgnet_nnunet.study.steps import PLAN

STATES = ("running", "failed", "waiting", "done")
COLUMNS = ("step", "state", "epoch", "loss", "time", "left", "problem")
_TAIL = 20_000  # bytes of a training's log that are read
_MOST_WAITING = 5
_FIGURES = {
    "epoch": r": Epoch (\d+)\s*$",
    "loss": r"train_loss (-?[\d.]+)",
    "seconds": r"Epoch time: ([\d.]+) s",
}
"""In nnU-Net's log of a training."""


@dataclass(frozen=True, kw_only=True)
class StepStatus:
    """Status of one step; times are in seconds, None where they are unknown."""

    step: str
    state: str  # one of `STATES`
    log: str
    seconds: float | None = None
    left: float | None = None
    epoch: str = ""
    loss: str = ""
    problem: str = ""


def read_status(work: Path) -> list[StepStatus]:
    """Return the status of each step of the study of a work folder."""
    plan = read_json(work / PLAN, remedy="start the study, which writes it")
    found: dict[str, StepStatus] = {}
    for name, planned in plan.items():
        needs = [found[need].state for need in planned["needs"]]
        found[name] = _read_step(work, name, planned, ready=all(state == "done" for state in needs))
    return list(found.values())


def _read_step(work: Path, name: str, planned: dict[str, Any], *, ready: bool) -> StepStatus:
    """Return the status of a step; `ready` are those whose inputs are made. What is to be redone waits."""
    expected, now = planned["minutes"] * 60, time.time()
    waiting = StepStatus(step=name, state="waiting", log=planned["log"], left=expected)
    try:
        record = json.loads((work / RECORDS / f"{name}.json").read_text(encoding="utf-8"))
        current = record["state"] != "done" or (ready and record["identity"] == identity_of(name, work))
    except (OSError, ValueError):
        return waiting
    if record["state"] == "waiting" or not current:
        return waiting
    seconds = record.get("ended", now) - record["began"]
    if record["state"] in {"done", "failed"}:
        problem = record.get("problem", "")
        return replace(waiting, state=record["state"], seconds=seconds, left=None, problem=problem)
    running = replace(waiting, state="running", seconds=seconds, left=max(0.0, expected - seconds))
    return _with_epoch(running, work / planned["resume"], planned["epochs"]) if planned["resume"] else running


def _with_epoch(step: StepStatus, folder: Path, epochs: int) -> StepStatus:
    """Return the status of a training with epoch, loss and time left by the newest log in a fold's folder."""
    logs = sorted(folder.glob("training_log_*.txt"), key=lambda path: path.stat().st_mtime)
    if not logs:
        return step
    with logs[-1].open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL))
        text = file.read().decode("utf-8", errors="replace")
    lists = {name: re.findall(pattern, text, re.MULTILINE) for name, pattern in _FIGURES.items()}
    last = {name: float(found[-1]) for name, found in lists.items() if found}
    if "epoch" in last:
        step = replace(step, epoch=f"{last['epoch'] + 1:.0f} of {epochs}")
        if "seconds" in last:
            step = replace(step, left=max(0, epochs - last["epoch"]) * last["seconds"])
    return replace(step, loss=f"{last['loss']:.3f}") if "loss" in last else step


def duration(seconds: float | None) -> str:
    """Return a time as hours, minutes and seconds, 3:05:00; "" if it is unknown."""
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def summary(status: Sequence[StepStatus]) -> str:
    """Return how many steps are in each state, and the work that is left, in one line."""
    counts = Counter(step.state for step in status)
    left = duration(sum(step.left or 0 for step in status))
    return (
        f"{', '.join(f'{counts[each]} {each}' for each in STATES)}; about {left} of work left, one at a time"
    )


def rows_of(status: Sequence[StepStatus]) -> list[tuple[str, ...]]:
    """Return a row a step, of `COLUMNS`; what runs and what has failed comes first."""
    return [
        tuple(map(printable, (each.step, each.state, each.epoch, each.loss, duration(each.seconds),
                              duration(each.left), each.problem)))
        for each in sorted(status, key=lambda step: STATES.index(step.state))
    ]  # fmt: skip


def table_of(status: Sequence[StepStatus]) -> Table:
    """Return the live table: what runs, what has failed, and the next few of what waits."""
    table = Table(title=summary(status), box=box.SIMPLE)
    for column in COLUMNS:
        table.add_column(column, overflow="fold")
    waiting = [step for step in status if step.state == "waiting"][:_MOST_WAITING]
    for row in rows_of([*(step for step in status if step.state in STATES[:2]), *waiting]):
        table.add_row(*map(Text, row))
    return table


def write_status(work: Path, status: Sequence[StepStatus], *, title: str) -> None:
    """Write `study_status.html` into the work folder; the page reloads itself."""
    from sgnet_nnunet.report.viewer import render  # noqa: PLC0415 - half a second, not for `--status`

    page = render(
        "study_status.html", title=title, version=__version__, written=time.strftime("%F %T"),
        summary=summary(status), columns=COLUMNS, rows=rows_of(status),
        logs={step.step: step.log for step in status},
        finished=all(step.state in {"done", "failed"} for step in status),
    )  # fmt: skip
    write_text(work / "study_status.html", page)
