"""`sgnet tune`."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from sgnet_nnunet.cli.console import out, progress_bar
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.evaluation.froc import Tally
from sgnet_nnunet.evaluation.operating_point import FILE_NAME
from sgnet_nnunet.evaluation.results import results_of_models
from sgnet_nnunet.evaluation.tuning import Difference, Objective, Tuning, write_record
from sgnet_nnunet.evaluation.tuning import tune as tune_model
from sgnet_nnunet.nnunet import find_dataset
from sgnet_nnunet.report.figures import draw_tuning


def tune(
    dataset: Annotated[str, typer.Option("-d", help="Data set, its number or name.")],
    trainer: Annotated[str, typer.Option("-tr", help="Trainer.")] = "nnUNetTrainer",
    plans: Annotated[str, typer.Option("-p", help="Plans.")] = "nnUNetPlans",
    configuration: Annotated[str, typer.Option("-c", help="Configuration.")] = "3d_fullres",
    folds: Annotated[
        list[str], typer.Option("-f", help="Folds, predicted with --npz: one or several numbers.")
    ] = ["0", "1", "2", "3", "4"],  # noqa: B006 - typer copies it
    sensitivity: Annotated[
        float | None,
        typer.Option(
            min=0.01, max=1, help="Lesion sensitivity to hold at the fewest false positives, not the best F1."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", help=f"JSON to write; {FILE_NAME} in the model's folder by default.")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="CSV with the columns case and patient; else sgnet convert's report.")
    ] = None,
    workers: Annotated[
        int, typer.Option("-np", min=1, help="Processes; each needs about 1 GB.")
    ] = os.cpu_count() or 1,
) -> None:
    """Choose the threshold and the smallest lesion kept, and say what they honestly gain.

    Needs fold predictions saved with probabilities: nnUNetv2_train ... --npz, or --val --npz.
    """
    name = f"{trainer}__{plans}__{configuration}"
    # Only the probabilities are needed, and their absence is told with the command that makes them.
    results = results_of_models(dataset, [name], folds, patients=patients, allow_missing=True)
    folder = find_dataset(dataset).results / name
    path = output or folder / FILE_NAME
    if path.suffix != ".json" or path.is_dir():
        raise SGNetError(f"-o {path}: is not the name of a JSON file; give one such as {FILE_NAME}")
    with progress_bar() as progress:
        task = progress.add_task("tuning", total=len(results.cases))
        tuning = tune_model(
            results.cases,
            model_folder=folder,
            objective=Objective(sensitivity=sensitivity),
            workers=workers,
            on_done=lambda _: progress.advance(task),
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_tuning(tuning, path.with_suffix(".png"))
    write_record(path, tuning)
    out.print(_table(tuning))
    out.print(f"{tuning.objective}: {tuning.point}", highlight=False, soft_wrap=True)
    out.print(f"{path}, and {path.with_suffix('.png').name} beside it", highlight=False, soft_wrap=True)


def _table(tuning: Tuning) -> Table:
    table = Table("", "lesion F1", "sensitivity", "false positives/case")
    for name, tally in (
        ("default", tuning.default),
        ("cross-fitted, to expect", tuning.cross_fitted),
        ("chosen, on cases it saw", tuning.resubstitution),
    ):
        table.add_row(name, *_figures(tally))
    gain = tuning.gain
    table.add_row(
        "gain to expect, 95 % interval",
        *(_with_interval(d) for d in (gain.f1, gain.sensitivity, gain.false_positives_per_case)),
    )
    return table


def _figures(tally: Tally) -> tuple[str, ...]:
    return f"{tally.f1:.3f}", f"{tally.sensitivity:.3f}", f"{tally.false_positives_per_case:.2f}"


def _with_interval(difference: Difference) -> str:
    # A backslash, for rich would take the bracket for a style.
    return f"{difference.value:+.3f} \\[{difference.low:+.3f}, {difference.high:+.3f}]"
