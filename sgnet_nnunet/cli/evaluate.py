"""`sgnet evaluate` and `sgnet compare`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from sgnet_nnunet.cli.console import TRUST, err, out, progress_bar, say
from sgnet_nnunet.errors import needs_extra, printable
from sgnet_nnunet.evaluation.results import Results, results_of_folders, results_of_models
from sgnet_nnunet.nnunet import find_dataset

if TYPE_CHECKING:
    from sgnet_nnunet.evaluation.comparison import Comparison


class Preset(str, Enum):
    """BraTS challenges whose scores can be added."""

    BRATS2023 = "brats2023"
    BRATS2026 = "brats2026"


def make_report(
    find_results: Callable[[], Results],
    folder: Path,
    *,
    presets: Sequence[Preset],
    workers: int,
    viewer: bool,
    gates: bool = True,
    complete: Callable[[Results], Results] | None = None,
) -> None:
    """Measure, test and write a report, whole or not at all, and print its headline tables.

    `find_results` is called after the folder was found usable; `complete`, which adds the models' costs to
    the results, after all masks are measured. The rest is as in `write_report`.
    """
    # Checked before minutes of measuring; pandas and matplotlib take half a second to import.
    with needs_extra("report"):
        import jinja2  # noqa: F401, PLC0415
        import matplotlib  # noqa: F401, PLC0415
        import pandas  # noqa: F401, PLC0415
        import PIL  # noqa: F401, PLC0415

    from sgnet_nnunet.evaluation.comparison import compare  # noqa: PLC0415
    from sgnet_nnunet.evaluation.measurement import describe_empty, measure_results  # noqa: PLC0415
    from sgnet_nnunet.files import check_output_folder  # noqa: PLC0415
    from sgnet_nnunet.report.page import write_report  # noqa: PLC0415

    check_output_folder(folder)
    results = find_results()
    with progress_bar() as progress:
        task = progress.add_task("measuring", total=len(results.cases))
        measured = measure_results(
            results,
            presets=[preset.value for preset in presets],
            workers=workers,
            on_done=lambda number: progress.advance(task, number),
        )
    if complete:
        with err.status("counting parameters, timing networks"):
            measured = replace(measured, results=complete(results))
    with err.status("writing the report"):
        results = measured.results
        comparison = compare(measured.per_case, models=results.models, dataset=results.dataset)
        write_report(comparison, folder, measurements=measured, viewer=viewer, gates=gates, workers=workers)
    for line in describe_empty(measured.per_case):
        say(line, console=err)
    print_headline(comparison)
    say(str(folder / "report.html"))


def print_headline(comparison: "Comparison") -> None:
    """Print each label's headline metrics, a row a metric and a column a model, the best in bold."""
    from sgnet_nnunet.report.figures import lines_of  # noqa: PLC0415 - pandas
    from sgnet_nnunet.report.tables import headline_table  # noqa: PLC0415

    for label in comparison.labels:
        found = headline_table(comparison, label=label)
        cells = found.marked(printable, bold="[bold]{}[/bold]", detailed="{} [dim]({})[/dim]").T
        table = Table("", title=printable(found.title), caption=found.note, box=box.SIMPLE)
        for model in cells.iloc[0]:
            table.add_column(lines_of(model, width=18), overflow="fold")
        for metric, row in cells.iloc[1:].iterrows():
            table.add_row(str(metric), *map(Text.from_markup, row))  # numbers alone
        out.print(table)


_report = partial(typer.Option, rich_help_panel="Report")
_cases = partial(typer.Option, rich_help_panel="Cases")
_models = partial(typer.Option, rich_help_panel="Models")

Output = Annotated[Path, _report("-o", metavar="FOLDER", help="Folder to write the report to.")]
Viewer = Annotated[bool, _report("--viewer", help="Add a page to scroll through any case.")]
Presets = Annotated[
    list[Preset] | None, _report(metavar="NAME", help="Add BraTS scores: brats2023, brats2026.")
]
Workers = Annotated[int, _report("-np", min=1, max=1024, metavar="N", help="Processes; each needs 1 GB.")]
Patients = Annotated[
    Path | None,
    _cases(metavar="CSV", help="Columns case and patient; the report of sgnet convert by default."),
]
AllowMissing = Annotated[bool, _cases("--allow-missing", help="Score missing predictions as empty masks.")]
WORKERS = min(4, os.cpu_count() or 1)


def evaluate(
    predictions: Annotated[Path, typer.Argument(metavar="PREDICTIONS", help="Folder of predicted masks.")],
    references: Annotated[
        Path, typer.Argument(metavar="REFERENCES", help="Folder of reference masks, named alike.")
    ],
    output: Output,
    labels: Annotated[
        Path | None,
        _cases(metavar="JSON", help="nnU-Net's dataset.json; without one, everything above 0 is foreground."),
    ] = None,
    patients: Patients = None,
    images: Annotated[
        Path | None, _cases(metavar="FOLDER", help="Images, CASE_0000.nii.gz and so on, for the pictures.")
    ] = None,
    allow_missing: AllowMissing = False,
    presets: Presets = None,
    workers: Workers = WORKERS,
    viewer: Viewer = False,
) -> None:
    """Evaluate predicted masks against reference masks, and write a report."""
    make_report(
        lambda: results_of_folders(
            predictions,
            references,
            labels=labels,
            patients=patients,
            images=images,
            allow_missing=allow_missing,
        ),
        output,
        presets=presets or (),
        workers=workers,
        viewer=viewer,
    )


def compare(
    models: Annotated[
        list[str], _models(metavar="NAME", help="Trained models, TRAINER[__PLANS[__CONFIGURATION]].")
    ],
    output: Output,
    dataset: Annotated[str, _models("-d", metavar="ID", help="Data set, its number or name.")] = "501",
    folds: Annotated[
        list[str], _models("-f", metavar="N", help="Folds whose validation cases count: numbers, or all.")
    ] = ["0", "1", "2", "3", "4"],  # noqa: B006 - Typer wants a list, and copies it
    time_cases: Annotated[
        int, _models(min=0, metavar="N", help="Cases to time each network on; 0 for none.")
    ] = 1,
    device: Annotated[
        str, _models("-device", metavar="NAME", help="Where to time networks: cpu, cuda or mps.")
    ] = "cpu",
    trust: Annotated[bool, _models("--trust", help=TRUST)] = False,
    patients: Patients = None,
    allow_missing: AllowMissing = False,
    presets: Presets = None,
    workers: Workers = WORKERS,
    gates: Annotated[bool, _report("--gates/--no-gates", help="Draw gate masks; seconds a picture.")] = True,
    viewer: Viewer = False,
) -> None:
    """Compare trained models on their validation cases, and write a report."""

    def add_costs(results: Results) -> Results:
        # PyTorch takes seconds to import.
        from sgnet_nnunet.evaluation.model_costs import with_costs  # noqa: PLC0415
        from sgnet_nnunet.nnunet import prints_to_log  # noqa: PLC0415

        preprocessed = find_dataset(dataset).preprocessed
        with prints_to_log():
            return with_costs(results, preprocessed, time_cases=time_cases, device=device)

    def find() -> Results:
        found = results_of_models(dataset, models, folds, patients=patients, allow_missing=allow_missing)
        return replace(found, trust=trust)

    make_report(
        find, output, presets=presets or (), workers=workers, viewer=viewer, gates=gates, complete=add_costs
    )
