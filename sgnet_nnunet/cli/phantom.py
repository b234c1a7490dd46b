"""`sgnet phantom`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.cli.console import out, progress_bar
from sgnet_nnunet.phantom.dataset import write_phantoms


def phantom(
    folder: Annotated[Path, typer.Argument(help="Folder to write the patients to.")],
    patients: Annotated[int, typer.Option("-n", min=1, help="Number of patients.")] = 8,
    seed: Annotated[int, typer.Option(help="Seed; the same seed gives the same files.")] = 0,
    workers: Annotated[int, typer.Option("-np", min=1, help="Processes to use.")] = os.cpu_count() or 1,
) -> None:
    """Write synthetic patients in the layout of Brain-Mets-Lung-MRI-Path-Segs."""
    with progress_bar() as progress:
        task = progress.add_task("phantoms", total=patients)
        write_phantoms(
            folder, patients=patients, seed=seed, workers=workers, on_done=lambda _: progress.advance(task)
        )
    out.print(f"{patients} patients in {folder}", soft_wrap=True, highlight=False)
