"""`sgnet demo`."""

from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from sgnet_nnunet.cli.console import out, progress_bar
from sgnet_nnunet.demo.run import DemoPlan, run_demo
from sgnet_nnunet.evaluation.scores import Scores


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
