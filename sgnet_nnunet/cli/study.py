"""`sgnet study`."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.live import Live
from rich.table import Table

from sgnet_nnunet.cli.console import err, out, say

if TYPE_CHECKING:
    from sgnet_nnunet.study.engine import Estimate


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY.YAML", help="The study; see docs/how-to.md.")],
    executor: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="local, slurm, cluster-generic (LSF and others) or kubernetes."),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Steps at a time on a cluster, 20 by default.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Cores of this machine; all by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run, with estimated hours and disk.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Print how the study stands, and end.")] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Train again where the data have changed since the training."),
    ] = False,
) -> None:
    """Run a whole study: convert, plan, train, predict, tune, evaluate, compare, report.

    Started again, it goes on where it was. Exit status 1 if a step failed.
    """
    from sgnet_nnunet.study.engine import Run, RunOptions, estimate  # noqa: PLC0415
    from sgnet_nnunet.study.status import State, Status, read_status, table_of, write_status  # noqa: PLC0415
    from sgnet_nnunet.study.study_file import read_study  # noqa: PLC0415

    read = read_study(file)
    if status:
        out.print(table_of(read_status(read.work)))
        return
    run = Run(read, RunOptions(executor=executor, jobs=jobs, cores=cores, accept_changes=accept_changes))
    run.check()
    with run.locked():
        steps = run.prepare()
        if dry_run:
            _print_estimate(estimate(steps, run.missing()), len(steps))
            return
        before = read_status(read.work)
        began, shown = time.monotonic(), {(step.step, step.state) for step in before.steps}
        with Live(console=err, auto_refresh=False, transient=True) as live:

            def watch(now: Status) -> None:
                if err.is_terminal:
                    live.update(table_of(now), refresh=True)
                else:
                    for step in now.steps:
                        if (step.step, step.state) not in shown and step.state is not State.WAITING:
                            say(f"{step.step}: {step.state.value}", console=err)
                        shown.add((step.step, step.state))
                write_status(read.work, now, title=file.name)

            ended = run.run(watch=watch)
        run.snakemake_report()
        run.notify(ended)
    counts, done_before = ended.counts(), before.counts()[State.DONE]
    for step in ended.steps:
        if step.state is State.FAILED:
            say(f"{step.step}: {step.problem}; see {read.work / step.log}", console=err, style="bold red")
    minutes = (time.monotonic() - began) / 60
    now = counts[State.DONE] - done_before
    say(f"{counts[State.DONE]} of {len(steps)} steps done, {now} of them now, in {minutes:.1f} min")
    if counts[State.DONE] < len(steps):
        sys.exit(1)
    say(str(read.work / "reports/study.html"))


def _print_estimate(estimates: "Sequence[Estimate]", steps: int) -> None:
    table = Table(title=f"would run, of {steps} steps", box=box.SIMPLE)
    for column in ("step", "number", "hours", "GPU-hours", "disk, GB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    totals = [0.0, 0.0, 0.0, 0.0]
    for each in estimates:
        values = [each.steps, each.hours, each.gpu_hours, each.disk_gb]
        totals = [total + value for total, value in zip(totals, values, strict=True)]
        table.add_row(each.kind, *_cells(values))
    table.add_row("all", *_cells(totals), style="bold")
    out.print(table)
    say("Hours are those of one step at a time; they are estimates from measured times, see docs/scale.md.")


def _cells(values: "list[float]") -> list[str]:
    number, *others = values
    return [f"{number:,.0f}", *(f"{value:,.1f}" for value in others)]
