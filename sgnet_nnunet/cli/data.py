"""`sgnet convert` and `sgnet phantom`."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from sgnet_nnunet.cli.console import err, progress_bar, say
from sgnet_nnunet.phantom.config import MOST_PATIENTS


def convert(
    root: Annotated[Path, typer.Argument(help="Folder of the collection, one subfolder a patient.")],
    dataset_id: Annotated[
        int, typer.Option("-d", min=1, max=999, metavar="ID", help="nnU-Net data set id.")
    ] = 501,
    target: Annotated[
        Literal["whole", "core", "regions"],
        typer.Option(metavar="NAME", help="whole (tumour), core, or both as regions."),
    ] = "whole",
    register: Annotated[
        Literal["none", "rigid"],
        typer.Option(metavar="NAME", help="Align FLAIR with T1ce by the affines alone (none), or rigid."),
    ] = "none",
    split: Annotated[
        Literal["cv", "paper"],
        typer.Option(metavar="NAME", help="cv: five folds grouped by patient; paper: its 64/9/19 patients."),
    ] = "cv",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad file.")] = False,
    workers: Annotated[
        int, typer.Option("-np", min=1, max=1024, metavar="N", help="Processes; each needs 1 to 2 GB.")
    ] = 2,
) -> None:
    """Convert Brain-Mets-Lung-MRI-Path-Segs into an nnU-Net data set.

    Exit status 2 if nothing could be converted, 3 if only some files could.
    """
    from sgnet_nnunet.dataset.convert import convert as convert_collection  # noqa: PLC0415

    with progress_bar() as progress:
        result = convert_collection(
            root,
            dataset_id=dataset_id,
            target=target,
            register=register,
            split=split,
            strict=strict,
            workers=workers,
            on_start=lambda total: progress.add_task("converting", total=total),
            on_done=lambda _: progress.advance(progress.task_ids[0]),
        )
    for row in result.report:
        if row.status != "used":
            say(f"{row.status}: {row.patient} {row.accession}: {row.reason}", console=err)
    say(
        f"{result.dataset_folder}: {result.used} used, {result.left_out} left out, {result.failed} failed; "
        "see conversion_report.csv"
    )
    raise typer.Exit(result.exit_status)


def phantom(
    folder: Annotated[Path, typer.Argument(help="Folder to write the patients to.")],
    patients: Annotated[
        int, typer.Option("-n", min=1, max=MOST_PATIENTS, metavar="N", help="Number of patients.")
    ] = 8,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed; the same seed gives the same files.")] = 0,
    population: Annotated[
        Literal["metastases", "wide"],
        typer.Option(metavar="NAME", help="metastases: as real ones; wide: far beyond the real range."),
    ] = "metastases",
    workers: Annotated[
        int, typer.Option("-np", min=1, max=1024, metavar="N", help="Processes.")
    ] = os.cpu_count() or 1,
) -> None:
    """Write synthetic patients in the layout of Brain-Mets-Lung-MRI-Path-Segs."""
    from sgnet_nnunet.phantom.config import PhantomConfig  # noqa: PLC0415
    from sgnet_nnunet.phantom.population import write_phantoms  # noqa: PLC0415
    from sgnet_nnunet.phantom.wide import WIDE  # noqa: PLC0415

    with progress_bar() as progress:
        task = progress.add_task("phantoms", total=patients)
        write_phantoms(
            folder,
            patients=patients,
            seed=seed,
            workers=workers,
            on_done=lambda _: progress.advance(task),
            config=WIDE if population == "wide" else PhantomConfig(),
        )
    say(f"{patients} patients in {folder}")
