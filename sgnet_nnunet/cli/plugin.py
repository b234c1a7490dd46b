"""`sgnet link`, `sgnet unlink` and `sgnet doctor`."""

from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from sgnet_nnunet.cli.console import out, progress_bar
from sgnet_nnunet.demo import DemoPlan, run_demo
from sgnet_nnunet.evaluation.registry import Scores
from sgnet_nnunet.plugin import link as plug_link
from sgnet_nnunet.plugin.doctor import examine


def link() -> None:
    """Show nnU-Net this package's classes (after an editable install)."""
    written = plug_link.link(plug_link.nnunet_package())
    for path in written:
        out.print(f"linked {escape(str(path))}", soft_wrap=True)
    if not written:
        out.print("nnU-Net finds everything already.")


def unlink() -> None:
    """Take this package's classes out of nnU-Net's folders again."""
    if plug_link.shims_belong_to_wheel():
        out.print("pip placed these files; `pip uninstall sgnet-nnunet` removes them.")
        return
    removed = plug_link.unlink(plug_link.nnunet_package())
    for path in removed:
        out.print(f"unlinked {escape(str(path))}", soft_wrap=True)
    if not removed:
        out.print("Nothing was linked.")


def doctor() -> None:
    """Check the installation; exit status 1 if anything is wrong."""
    findings = examine()
    for finding in findings:
        mark = "[green]✓[/]" if finding.remedy is None else "[red]✗[/]"
        line = f"{mark} [bold]{finding.subject}[/]: {escape(finding.state)}"
        # Whole lines: a path or a command that the terminal's width cut short is of no use.
        out.print(line, soft_wrap=True, highlight=False)
        if finding.remedy:
            out.print(f"    {escape(finding.remedy)}", soft_wrap=True, highlight=False)
    if any(finding.remedy for finding in findings):
        raise typer.Exit(1)


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to work in.")] = Path("demo_output"),
    device: Annotated[str, typer.Option("-device", help="cpu, cuda or mps.")] = "cpu",
    epochs: Annotated[int, typer.Option(min=1, help="Training epochs.")] = DemoPlan.epochs,
    iters: Annotated[int, typer.Option(min=1, help="Training batches an epoch.")] = DemoPlan.iters,
) -> None:
    """Run the main job on phantoms: convert, plan, train, predict, score, draw."""
    with progress_bar() as progress:
        tasks = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done)

        result = run_demo(folder, DemoPlan(epochs=epochs, iters=iters, device=device), report=report)
    out.print(_table(result.scores))
    out.print(f"picture: {result.overlay}", soft_wrap=True, highlight=False)


def _table(scores: dict[str, Scores]) -> Table:
    table = Table("held-out case", "Dice", "precision", "recall", "HD95 (mm)")
    rows = {name: astuple(values) for name, values in scores.items()}
    for name, values in [*rows.items(), ("mean", tuple(np.mean(list(rows.values()), axis=0)))]:
        dice, precision, recall, hd95 = values
        table.add_row(name, f"{dice:.3f}", f"{precision:.3f}", f"{recall:.3f}", f"{hd95:.1f}")
    return table
