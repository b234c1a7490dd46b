"""`sgnet convert`."""

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sgnet_nnunet.cli.console import err, out, progress_bar
from sgnet_nnunet.dataset.convert import convert_collection
from sgnet_nnunet.dataset.options import ConversionOptions, nnunet_raw_folder
from sgnet_nnunet.phantom.population import write_phantoms


class Target(str, Enum):
    """What to segment."""

    WHOLE = "whole"
    CORE = "core"
    REGIONS = "regions"


class Register(str, Enum):
    """How to align FLAIR with T1ce."""

    NONE = "none"
    RIGID = "rigid"


class Split(str, Enum):
    """How to split the patients."""

    CV = "cv"
    PAPER = "paper"


def convert(
    root: Annotated[Path, typer.Argument(help="Folder of the collection, one subfolder a patient.")],
    dataset_id: Annotated[int, typer.Option("-d", min=1, max=999, help="nnU-Net data set id.")] = 501,
    target: Annotated[
        Target, typer.Option(help="Whole tumour, tumour core, or both as regions.")
    ] = Target.WHOLE,
    register: Annotated[
        Register,
        typer.Option(help="Align FLAIR with T1ce by the affines alone, or rigidly by mutual information."),
    ] = Register.NONE,
    split: Annotated[
        Split, typer.Option(help="Five folds grouped by patient, or the paper's 64/9/19 patients.")
    ] = Split.CV,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad file.")] = False,
    workers: Annotated[
        int, typer.Option("-np", min=1, help="Processes; each needs 1 to 2 GB.")
    ] = ConversionOptions.workers,
) -> None:
    """Convert Brain-Mets-Lung-MRI-Path-Segs into an nnU-Net data set.

    Exit status: 0 if all went well, 2 if nothing could be converted, 3 if some files were bad and
    the others were converted.
    """
    options = ConversionOptions(
        dataset_id=dataset_id,
        target=target.value,
        register=register.value,
        split=split.value,
        strict=strict,
        workers=workers,
    )
    with progress_bar() as progress:
        result = convert_collection(
            root,
            nnunet_raw_folder(),
            options,
            on_start=lambda total: progress.add_task("converting", total=total),
            on_done=lambda _: progress.advance(progress.task_ids[0]),
        )
    for row in result.report:
        if row.status != "used":
            err.print(
                escape(f"{row.status}: {row.patient} {row.accession}: {row.reason}"),
                soft_wrap=True,
                highlight=False,
            )
    out.print(
        f"{result.dataset_folder}: {result.used} used, {result.left_out} left out, {result.failed} failed; "
        "see conversion_report.csv",
        soft_wrap=True,
        highlight=False,
    )
    raise typer.Exit(result.exit_status)


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
