"""`sgnet compare`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from sgnet_nnunet.cli.report import Preset, ReportOptions, make_report
from sgnet_nnunet.results.case import Results
from sgnet_nnunet.results.dataset_folders import find_dataset
from sgnet_nnunet.results.model_folder import results_of_models


def compare(
    models: Annotated[
        list[str],
        typer.Option("--models", help="Trained models, TRAINER[__PLANS[__CONFIGURATION]], one or more."),
    ],
    output: Annotated[Path, typer.Option("-o", help="Folder to write the report to.")],
    dataset: Annotated[str, typer.Option("-d", help="nnU-Net data set id or name.")] = "501",
    folds: Annotated[
        list[str], typer.Option("-f", help="Folds whose validation cases count: numbers, or all.")
    ] = ["0", "1", "2", "3", "4"],  # noqa: B006 - Typer wants a list, and copies it
    patients: Annotated[
        Path | None,
        typer.Option(help="CSV with the columns case and patient; sgnet convert's cases need none."),
    ] = None,
    presets: Annotated[
        list[Preset] | None, typer.Option("--presets", help="Add the scores of BraTS challenges.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score missing predictions as empty masks.")
    ] = False,
    time_cases: Annotated[int, typer.Option(min=0, help="Cases to time each network on; 0 for none.")] = 1,
    device: Annotated[str, typer.Option("-device", help="Where to time: cpu, cuda or mps.")] = "cpu",
    workers: Annotated[int, typer.Option("-np", min=1, help="Processes; each needs less than 1 GB.")] = min(
        4, os.cpu_count() or 1
    ),
    gates: Annotated[
        bool, typer.Option("--gates/--no-gates", help="Draw what gated networks admit; seconds a picture.")
    ] = True,
    viewer: Annotated[bool, typer.Option("--viewer", help="Add a page to scroll through any case.")] = False,
) -> None:
    """Compare trained models on their validation cases, and write a report."""

    def add_costs(results: Results) -> Results:
        # PyTorch takes seconds to import.
        from sgnet_nnunet.results.model_info import with_costs  # noqa: PLC0415

        preprocessed = find_dataset(dataset).preprocessed
        return with_costs(results, preprocessed, time_cases=time_cases, device=device)

    make_report(
        lambda: results_of_models(dataset, models, folds, patients=patients, allow_missing=allow_missing),
        ReportOptions(folder=output, presets=presets or (), workers=workers, viewer=viewer, gates=gates),
        complete=add_costs,
    )
