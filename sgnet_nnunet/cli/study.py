"""`sgnet study`."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.live import Live
from rich.table import Table

from sgnet_nnunet.cli.console import err, out, say


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
    status: Annotated[bool, typer.Option("--status", help="Print the status of the study, and end.")] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Train again where the data have changed since the training."),
    ] = False,
) -> None:
    """Run a whole study: convert, plan, train, predict, tune, evaluate, compare, report.

    Started again, it goes on where it was. Exit status 1 if a step failed.
    """
    from sgnet_nnunet.study.engine import Run, estimate  # noqa: PLC0415
    from sgnet_nnunet.study.status import StepStatus, read_status, table_of, write_status  # noqa: PLC0415
    from sgnet_nnunet.study.study_file import read_study  # noqa: PLC0415

    read = read_study(file)
    if status:
        out.print(table_of(read_status(read.work)))
        return
    run = Run(read, executor=executor, jobs=jobs, cores=cores)
    run.check()
    with run.locked():
        steps = run.prepare(accept_changes=accept_changes, dry_run=dry_run)
        if dry_run:
            _print_estimate(estimate(steps, run.missing()), len(steps))
            return
        before = read_status(read.work)
        began, shown = time.monotonic(), {(step.step, step.state) for step in before}
        with Live(console=err, auto_refresh=False, transient=True) as live:

            def watch(now: list[StepStatus]) -> None:
                if err.is_terminal:
                    live.update(table_of(now), refresh=True)
                else:
                    for step in now:
                        if (step.step, step.state) not in shown and step.state != "waiting":
                            say(f"{step.step}: {step.state}", console=err)
                        shown.add((step.step, step.state))
                write_status(read.work, now, title=file.name)

            ended = run.run(watch=watch)
        run.finish(ended)
    for step in ended:
        if step.state == "failed":
            say(f"{step.step}: {step.problem}; see {read.work / step.log}", console=err, style="bold red")
    done, earlier = (sum(step.state == "done" for step in each) for each in (ended, before))
    minutes = (time.monotonic() - began) / 60
    say(f"{done} of {len(steps)} steps done, {done - earlier} of them now, in {minutes:.1f} min")
    if done < len(steps):
        sys.exit(1)
    say(str(read.work / "reports/study.html"))


def _print_estimate(rows: Mapping[str, Sequence[float]], steps: int) -> None:
    table = Table(title=f"would run, of {steps} steps", box=box.SIMPLE)
    for column in ("step", "number", "hours", "GPU-hours", "disk, GB"):
        table.add_column(column, justify="left" if column == "step" else "right")
    total = [sum(column) for column in zip([0.0] * 4, *rows.values(), strict=True)]
    for kind, (number, *others) in {**rows, "all": total}.items():
        table.add_row(kind, f"{number:,.0f}", *(f"{value:,.1f}" for value in others))
    out.print(table)
    say("Hours are estimates, for one step at a time and the `gpu` of the study; see docs/scale.md.")
