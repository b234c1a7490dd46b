"""`sgnet evaluate`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.cli.report import Preset, ReportOptions, make_report
from sgnet_nnunet.results.two_folders import results_of_folders


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder of predicted masks.")],
    references: Annotated[Path, typer.Argument(help="Folder of reference masks, named alike.")],
    output: Annotated[Path, typer.Option("-o", help="Folder to write the report to.")],
    labels: Annotated[
        Path | None,
        typer.Option(help="nnU-Net's dataset.json; without one, everything above 0 is foreground."),
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="CSV with the columns case and patient, for scans of one patient.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of images, CASE_0000.nii.gz and so on, for the pictures.")
    ] = None,
    presets: Annotated[
        list[Preset] | None, typer.Option("--presets", help="Add the scores of BraTS challenges.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score missing predictions as empty masks.")
    ] = False,
    workers: Annotated[int, typer.Option("-np", min=1, help="Processes; each needs less than 1 GB.")] = min(
        4, os.cpu_count() or 1
    ),
    viewer: Annotated[bool, typer.Option("--viewer", help="Add a page to scroll through any case.")] = False,
) -> None:
    """Judge a folder of masks against a folder of references, and write a report."""
    make_report(
        lambda: results_of_folders(
            predictions,
            references,
            labels=labels,
            patients=patients,
            images=images,
            allow_missing=allow_missing,
        ),
        ReportOptions(folder=output, presets=presets or (), workers=workers, viewer=viewer),
    )
