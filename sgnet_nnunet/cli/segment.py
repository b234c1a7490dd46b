"""`sgnet segment`."""

import logging
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from sgnet_nnunet.cli.console import Checkpoint, Device, Folds, PointFile, Trust, err, progress_bar, say
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference import EngineName, PrecisionName, RuntimeName
from sgnet_nnunet.inference.predictor import PredictionOptions, Predictor
from sgnet_nnunet.inference.shipped import find_models
from sgnet_nnunet.nnunet import CHECKPOINT, prints_to_log

if TYPE_CHECKING:
    from sgnet_nnunet.patient.batch import Outcome
    from sgnet_nnunet.patient.pipeline import PatientFiles, SegmentOptions

STATUSES = ("segmented", "unchanged", "failed")

_scans = partial(typer.Option, rich_help_panel="Scans")
_model = partial(typer.Option, rich_help_panel="Model")
_network = partial(typer.Option, rich_help_panel="Network")


def segment(
    output: Annotated[
        Path, typer.Option("-o", metavar="FOLDER", help="Folder to write to, one subfolder a row of a table.")
    ],
    models: Annotated[
        list[Path] | None,
        _model(
            "-m",
            metavar="FOLDER",
            help="Model's folder, trained or exported; several are averaged. Without it: synthetic, the "
            "model in the package.",
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PATIENTS.CSV]",
            help="Many patients: columns patient, t1ce, flair, brain_mask, t1ce_series, flair_series. "
            "Rows that are finished are left as they are.",
        ),
    ] = None,
    t1ce: Annotated[
        Path | None, _scans(metavar="PATH", help="T1ce: NIfTI, NRRD, or a DICOM folder or zip file.")
    ] = None,
    flair: Annotated[
        Path | None, _scans(metavar="PATH", help="FLAIR; it may be the same DICOM folder or zip file.")
    ] = None,
    t1ce_series: Annotated[
        str | None, _scans(metavar="NAME", help="T1ce's DICOM series: its UID, number or description.")
    ] = None,
    flair_series: Annotated[str | None, _scans(metavar="NAME", help="FLAIR's DICOM series.")] = None,
    brain_mask: Annotated[
        Path | None, _scans(metavar="FILE", help="Mask of the brain, for a head with its skull.")
    ] = None,
    hdbet_weights: Annotated[
        Path | None, _scans(metavar="FOLDER", help="HD-BET's weights; its own download's by default.")
    ] = None,
    register: Annotated[
        Literal["auto", "never", "always"],
        _scans(metavar="NAME", help="Register FLAIR with T1ce: where the headers do not suffice (auto)."),
    ] = "auto",
    probability: Annotated[bool, _scans("--probability", help="Also write probability.nii.gz.")] = False,
    keep_identity: Annotated[
        bool, _scans("--keep-identity", help="Allow paths, which may name the patient, in the output.")
    ] = False,
    folds: Folds = None,
    checkpoint: Checkpoint = CHECKPOINT,
    trust: Trust = False,
    operating_point: PointFile = "auto",
    device: Device = None,
    engine: Annotated[EngineName, _network(metavar="NAME", help="auto, tiled, whole or sparse.")] = "auto",
    runtime: Annotated[RuntimeName, _network(metavar="NAME", help="auto, torch or openvino.")] = "auto",
    precision: Annotated[PrecisionName, _network(metavar="NAME", help="f32 or bf16, with OpenVINO.")] = "f32",
    max_memory: Annotated[
        float | None, _network(min=0.1, metavar="GB", help="Memory to take; what is free by default.")
    ] = None,
    mirroring: Annotated[
        bool, _network("--tta/--disable_tta", help="Average over mirrored images, up to 8 times slower.")
    ] = False,
) -> None:
    """Segment new patients from their scans: mask, table of lesions, pictures, report, DICOM objects.

    Exit status 1 if a row of a table failed. Research use only.
    """
    logging.getLogger("sgnet_nnunet").setLevel(logging.INFO)
    if (table is None) == (t1ce is None):
        raise SGNetError("name one patient by --t1ce and --flair, or many by a table; not both")
    from sgnet_nnunet.patient.pipeline import PatientFiles, SegmentOptions  # noqa: PLC0415 - pandas

    settings = SegmentOptions(
        register=register,
        hdbet_weights=hdbet_weights,
        save_probability=probability,
        keep_identity=keep_identity,
    )
    options = PredictionOptions(
        folds=tuple(folds or ()),
        checkpoint=checkpoint,
        device=device,
        engine=engine,
        runtime=runtime,
        precision=precision,
        max_memory=None if max_memory is None else round(max_memory * 1e9),
        mirroring=mirroring,
        trust=trust,
    )
    with prints_to_log():
        folders = find_models(models or (), options)
        predictor = Predictor.open(folders, options=options, operating_point=operating_point)
        if table is not None:
            line, failed = _segment_many(table, output, predictor, settings)
        else:
            assert t1ce is not None  # noqa: S101 - for the type checker
            files = PatientFiles(
                t1ce=t1ce,
                flair=flair,
                brain_mask=brain_mask,
                t1ce_series=t1ce_series,
                flair_series=flair_series,
            )
            line, failed = _segment_one(files, output, predictor, settings), False
    say(line)
    if failed:
        raise typer.Exit(1)


def _segment_one(
    files: "PatientFiles", output: Path, predictor: Predictor, settings: "SegmentOptions"
) -> str:
    from sgnet_nnunet.patient.pipeline import segment_patient  # noqa: PLC0415

    found = segment_patient(files, output, predictor=predictor, options=settings)
    kept = found.kept
    volume = sum(record.volume_mm3 for record in kept)
    removed = f", {len(found.records) - len(kept)} removed by the operating point" if predictor.point else ""
    return f"{len(kept)} lesions, {volume:.0f} mm3{removed}: {output}"


def _segment_many(
    table: Path, output: Path, predictor: Predictor, settings: "SegmentOptions"
) -> tuple[str, bool]:
    """Return what to print, and whether a row failed."""
    from sgnet_nnunet.patient.batch import SUMMARY, read_patients, segment_table  # noqa: PLC0415

    patients, bar = read_patients(table), progress_bar()

    def done(outcome: "Outcome") -> None:
        if outcome.problem:
            say(f"{outcome.patient}: {outcome.problem}", console=err)
        bar.advance(task)

    with bar if err.is_terminal else nullcontext():
        task = bar.add_task("patients", total=len(patients))
        outcomes = segment_table(patients, output, predictor=predictor, options=settings, on_done=done)
    counts = {status: sum(each.status == status for each in outcomes) for status in STATUSES}
    listed = ", ".join(f"{number} {status}" for status, number in counts.items())
    return f"{output}: {listed}; see {SUMMARY}", counts["failed"] > 0
