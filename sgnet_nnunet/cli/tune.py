"""`sgnet tune`."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from sgnet_nnunet.cli.console import TRUST, out, progress_bar, say
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.files import check_output_files, make_folder
from sgnet_nnunet.inference import EngineName, PrecisionName, RejectorName
from sgnet_nnunet.inference.operating_point import FILE_NAME
from sgnet_nnunet.nnunet import CHECKPOINT

if TYPE_CHECKING:
    from sgnet_nnunet.evaluation.tuning import Tuning

RATES = {
    "f1": "lesion F1",
    "sensitivity": "lesion sensitivity",
    "false_positives_per_case": "false positives per case",
}


_model = partial(typer.Option, rich_help_panel="Model")
_prediction = partial(typer.Option, rich_help_panel="Prediction")
_choice = partial(typer.Option, rich_help_panel="Choice of the operating point")


def tune(
    dataset: Annotated[str, _model("-d", metavar="ID", help="Data set, its number or name.")],
    trainer: Annotated[str, _model("-tr", metavar="NAME", help="Trainer.")] = "SGNetTrainer",
    plans: Annotated[str, _model("-p", metavar="NAME", help="Plans.")] = "nnUNetPlans",
    configuration: Annotated[str, _model("-c", metavar="NAME", help="Configuration.")] = "3d_fullres",
    folds: Annotated[
        list[str] | None, _model("-f", metavar="N", help="Folds; all that are trained by default.")
    ] = None,
    checkpoint: Annotated[str, _model("-chk", metavar="NAME", help="Checkpoint.")] = CHECKPOINT,
    trust: Annotated[bool, _model("--trust", help=TRUST)] = False,
    device: Annotated[
        str | None,
        _prediction("-device", metavar="NAME", help="cpu, cuda or mps; cuda by default if there is one."),
    ] = None,
    engine: Annotated[
        EngineName, _prediction(metavar="NAME", help="auto, tiled, whole or sparse, as for sgnet predict.")
    ] = "auto",
    precision: Annotated[PrecisionName, _prediction(metavar="NAME", help="f32 or bf16.")] = "f32",
    mirroring: Annotated[
        bool,
        _prediction("--tta/--disable_tta", help="Average over mirrored images; then predict with --tta too."),
    ] = False,
    threads: Annotated[
        int,
        _prediction("-np", min=1, max=1024, metavar="N", help="Cases whose lesions are counted at a time."),
    ] = 1,
    sensitivity: Annotated[
        float | None,
        _choice(
            min=0.01,
            max=1,
            metavar="SHARE",
            help="Lesion sensitivity to reach, instead of the best lesion F1.",
        ),
    ] = None,
    rejector: Annotated[
        RejectorName,
        _choice(
            metavar="NAME",
            help="Fit a rejector of false lesions: none, components (by shape, probability and contrast) or "
            "gates (by gate scores, too).",
        ),
    ] = "none",
    most_lost: Annotated[
        float,
        _choice(min=0, max=1, metavar="SHARE", help="Share of lesions of 5 mm or more that it may lose."),
    ] = 0.0,
    patients: Annotated[
        Path | None,
        _choice(metavar="CSV", help="Columns case and patient; the report of sgnet convert by default."),
    ] = None,
    output: Annotated[
        Path | None,
        _choice("-o", metavar="JSON", help=f"File to write; {FILE_NAME} in the model's folder by default."),
    ] = None,
) -> None:
    """Choose the threshold and the minimum lesion volume, and report the cross-validated improvement.

    Each fold's network predicts its own validation cases as sgnet predict does; --npz files are not used.

    The point is for predictions that average the same folds.
    """
    from sgnet_nnunet.evaluation.rejection import RejectorSettings  # noqa: PLC0415
    from sgnet_nnunet.evaluation.tuning import tune as tune_model  # noqa: PLC0415
    from sgnet_nnunet.evaluation.tuning import write_tuning  # noqa: PLC0415
    from sgnet_nnunet.inference.predictor import PredictionOptions  # noqa: PLC0415
    from sgnet_nnunet.nnunet import find_model_folder, prints_to_log  # noqa: PLC0415
    from sgnet_nnunet.report.figures import draw_tuning  # noqa: PLC0415

    model = f"{trainer}__{plans}__{configuration}"
    path = output or find_model_folder(dataset, model) / FILE_NAME
    if path.suffix != ".json" or path.is_dir():
        raise SGNetError(f"-o {path}: is not the name of a JSON file; give one such as {FILE_NAME}")
    picture = path.with_suffix(".png")
    check_output_files(path.parent, (path.name, picture.name))
    settings = RejectorSettings(gates=rejector == "gates", most_lost=most_lost)
    with prints_to_log(), progress_bar() as progress:
        tuning = tune_model(
            dataset,
            model=model,
            folds=folds or (),
            sensitivity=sensitivity,
            rejector=None if rejector == "none" else settings,
            options=PredictionOptions(
                checkpoint=checkpoint,
                device=device,
                engine=engine,
                precision=precision,
                mirroring=mirroring,
                trust=trust,
            ),
            patients=patients,
            threads=threads,
            on_start=lambda total: progress.add_task("tuning", total=total),
            on_done=lambda _: progress.advance(progress.task_ids[0]),
        )
    make_folder(path.parent)
    write_tuning(path, tuning)
    out.print(_table(tuning))
    say(f"{tuning.objective}: {tuning.point}")
    for line in _rejection(tuning):
        say(line)
    say(f"for predictions with folds {' '.join(tuning.provenance.folds)}: {path} (and .png)")
    draw_tuning(tuning, picture)


def _rejection(tuning: "Tuning") -> Iterator[str]:
    """Yield what the rejector does, on cases that it was fitted without."""
    if tuning.rejection is None:
        return
    report = tuning.rejection.report(tuning.default.cases)
    yield f"rejector*: false positives per case {report['before']:.3f} without, {report['after']:.3f} with"
    for size, counts in report["lesions_by_mm"].items():
        yield f"rejector*: lesions {size} mm: {counts['lost']} of {counts['found']} found ones lost"


def _table(tuning: "Tuning") -> Table:
    table = Table("", "default", "tuned*", "improvement*, 95 % interval", caption="* cross-validated")
    for name, title in RATES.items():
        default, tuned = (
            f"{float(getattr(counts, name)):.3f}" for counts in (tuning.default, tuning.cross_validated)
        )
        estimate = tuning.improvement[name]
        low, high = estimate.interval.low, estimate.interval.high
        table.add_row(title, default, tuned, f"{estimate.value:+.3f} [{low:+.3f}, {high:+.3f}]")
    return table
