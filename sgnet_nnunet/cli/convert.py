"""`sgnet convert`."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sgnet_nnunet.cli.console import err, out, progress_bar
from sgnet_nnunet.conversion import ConversionOptions, convert_collection
from sgnet_nnunet.conversion.options import nnunet_raw_folder


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
