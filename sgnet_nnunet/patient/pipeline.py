"""A new patient's way through a model: read, align, strip, predict, measure, write.

All computing is done on the T1ce's grid with its axes turned to run as the training's do, so that the order
of axes and flips of the patient's files change nothing; the output is turned back.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from platform import platform, python_version
from typing import Any, Literal

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

from sgnet_nnunet import __version__
from sgnet_nnunet.errors import InputFileError, SGNetError, describe
from sgnet_nnunet.files import check_output_folder, checksum_of, output_folder
from sgnet_nnunet.inference.component_rejector import Scene
from sgnet_nnunet.inference.engines import gates_of_last
from sgnet_nnunet.inference.operating_point import (
    combine_checksums,
    foreground_probability,
    lesions_at,
    segmentation_at,
)
from sgnet_nnunet.inference.plan import ModelDescription
from sgnet_nnunet.inference.postprocessing import classes_of
from sgnet_nnunet.inference.predictor import Model, Predictor
from sgnet_nnunet.inference.preprocessing import Prepared
from sgnet_nnunet.lesions import Lesions, find_lesions
from sgnet_nnunet.nifti import Volume
from sgnet_nnunet.patient.alignment import Aligned, Mode, align
from sgnet_nnunet.patient.dicom import patient_code
from sgnet_nnunet.patient.lesion_table import LesionMap, measure_lesions
from sgnet_nnunet.patient.outputs import Findings, write_outputs, write_run
from sgnet_nnunet.patient.scans import PatientScans, check_contrasts, read_patient
from sgnet_nnunet.patient.skull import judge, strip

logger = logging.getLogger(__name__)

SPACING_DECIMALS = 5

Role = Literal["t1ce", "flair"]
NAMES: dict[str, str] = {"t1ce": "T1ce", "flair": "FLAIR", "brain_mask": "brain mask"}


@dataclass(frozen=True, kw_only=True)
class PatientFiles:
    """What the user has of one patient; a DICOM series is named by its UID, number or description."""

    t1ce: Path
    flair: Path | None = None
    brain_mask: Path | None = None
    t1ce_series: str | None = None
    flair_series: str | None = None

    @property
    def by_name(self) -> dict[str, Path]:
        """The paths that are given, by the names of `NAMES`."""
        return {name: path for name in NAMES if (path := getattr(self, name)) is not None}

    def anonymous(self, text: str) -> str:
        """Return a text with the paths, and those below them, replaced by what they are."""
        for name, path in self.by_name.items():
            forms = {str(path), str(path.absolute()), str(path.resolve())}
            whole = "|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True))
            own = re.escape(path.name) if len(path.name) > 1 else "(?!)"  # "a" is a word
            pattern = rf"(?<![\w./\\-])(?:(?:{whole})(?:[/\\][^\s:;,]*)?|{own})(?![\w/\\-]|\.\w)"
            text = re.sub(pattern, NAMES[name], text)
        return text

    def problem(self, error: Exception) -> str:
        """Return what an error says, without paths: "T1ce: is blank; copy it again"."""
        if not isinstance(error, InputFileError):
            return self.anonymous(str(error) if isinstance(error, SGNetError) else describe(error))
        owners = (
            NAMES[name] for name, path in self.by_name.items() if path in (error.path, *error.path.parents)
        )
        text = f"{error.problem}; {error.remedy}".replace(error.path.name or "/", "the file")
        return f"{next(owners, 'a file')}: {self.anonymous(text)}"


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """How to treat a patient's scans.

    Attributes:
        register: Whether to register the FLAIR with the T1ce: auto, never or always.
        hdbet_weights: Folder of HD-BET's weights, for a head that is not stripped.
        save_probability: Whether to write the foreground probability.
        keep_identity: Whether paths, which may name the patient, may be in the output.
    """

    register: Mode = "auto"
    hdbet_weights: Path | None = None
    save_probability: bool = False
    keep_identity: bool = False


class Stopwatch:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time that the block takes as the stage's."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0) + time.perf_counter() - start, 3)


def segment_patient(
    files: PatientFiles, output: Path, *, predictor: Predictor, options: SegmentOptions = SegmentOptions()
) -> LesionMap:
    """Segment one patient, and write the folder of output, which replaces an earlier one.

    Args:
        files: The patient's scans.
        output: The folder; it must be new, empty, or hold output of this function.
        predictor: The model, or the average of several.
        options: How to treat the scans.

    Raises:
        InputFileError: If a scan cannot be used; nothing is written.
        SGNetError: If the model takes other channels, or something that is needed is not installed.
    """
    clock = Stopwatch()
    check_output_folder(output)
    roles = roles_of(predictor.description)
    check_channels(files, predictor)
    with clock.stage("checksums"):
        identity = run_identity(files, predictor, options)
    with clock.stage("read"):
        scans = read_patient(
            t1ce=files.t1ce,
            flair=files.flair if "flair" in roles else None,
            t1ce_series=files.t1ce_series,
            flair_series=files.flair_series,
            training_spacing=training_spacing(predictor),
        )
    turn = Turn(scans.t1ce.volume, codes_of(predictor.description.reader))
    prepared = _prepare_scans(scans, files, turn, options, clock)
    findings = _predict(prepared, scans, roles, predictor, turn, clock)
    run = identity | _run_of(findings, prepared, clock)
    if options.keep_identity:
        run["paths"] = {name: str(path) for name, path in files.by_name.items()}
    with output_folder(output) as folder:
        with clock.stage("write"):
            findings = replace(findings, run=run, summary=prepared.notes)
            run["warnings"] += write_outputs(folder, findings, with_probability=options.save_probability)
        write_run(folder, run | {"seconds": clock.seconds})
    for warning in run["warnings"]:
        logger.warning("%s", warning)
    return findings.lesions


class Turn:
    """Turns arrays on the grid of a volume such that their axes run as in "LPS", and back; no copies."""

    def __init__(self, volume: Volume, codes: str) -> None:
        turn = ornt_transform(io_orientation(volume.affine), axcodes2ornt(codes))
        self._there = turn
        self._back = np.empty_like(turn)
        for axis, (target, flip) in enumerate(turn):
            self._back[int(target)] = axis, flip
        self.affine = np.asarray(volume.affine @ inv_ornt_aff(turn, volume.data.shape), dtype=np.float64)

    def there(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array of the volume's own axes (i, j, k) with turned axes (x, y, z)."""
        return np.asarray(apply_orientation(array, self._there))

    def back(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array of turned axes (x, y, z) with the volume's own (i, j, k)."""
        return np.asarray(apply_orientation(array, self._back))


def codes_of(reader: str) -> str:
    """Return how the axes run of the images that nnU-Net's reader class gave the training, x first.

    Readers that do not reorient take the files as they are; collections of brains are stored as LPS.
    """
    if reader.endswith("WithReorient"):
        return "RAS"
    logger.warning(
        "%s reads images in the order of their files, which is taken to be LPS in training", reader
    )
    return "LPS"


def roles_of(description: ModelDescription) -> tuple[Role, ...]:
    """Return what each channel of a model is, by its name.

    Raises:
        SGNetError: If a channel is neither T1ce nor FLAIR, or one is there twice, or T1ce is not there.
    """
    names = [name.casefold() for name in description.channels]
    roles: list[Role] = ["flair" if "flair" in name else "t1ce" for name in names]
    known = all("flair" in name or name.startswith("t1") for name in names)
    if not known or len(set(roles)) < len(roles) or "t1ce" not in roles:
        raise SGNetError(
            f"the model takes the channels {', '.join(description.channels)}; sgnet segment is for models of "
            "T1ce and FLAIR: prepare the images as its training's, and use sgnet predict"
        )
    return tuple(roles)


def check_channels(files: PatientFiles, predictor: Predictor) -> None:
    """Raise an SGNetError if the FLAIR is missing, and a model was not trained to do without."""
    for number, role in enumerate(roles_of(predictor.description)):
        if getattr(files, role) is None and number not in predictor.optional_channels:
            channel = predictor.description.channels[number]
            raise SGNetError(
                f"--{role} is missing, and the model needs {channel}; give it, or name a model that was "
                "trained with channels left out at random (modality dropout)"
            )


def training_spacing(predictor: Predictor) -> tuple[float, float, float] | None:
    """Return the median voxel size in mm of the training's images, in any order; None if it is not known."""
    spacing = predictor.description.plans.get("original_median_spacing_after_transp", ())
    return tuple(float(step) for step in spacing) if len(spacing) == 3 else None  # type: ignore[return-value]  # noqa: PLR2004


@dataclass(frozen=True, eq=False, kw_only=True)
class _Prepared:
    """The scans without the skull on the T1ce's grid, turned; what was done to them, and what was unusual."""

    brain: Volume
    flair: Volume | None
    done: dict[str, Any]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def _prepare_scans(
    scans: PatientScans, files: PatientFiles, turn: Turn, options: SegmentOptions, clock: Stopwatch
) -> _Prepared:
    told = str if options.keep_identity else files.anonymous
    head = Volume(turn.there(scans.t1ce.volume.data), turn.affine)
    brain, flair, aligned = head, None, None
    with clock.stage("strip"):
        skull = judge(head)
        inside, source = None, ""
        if files.brain_mask is not None or not skull.stripped:
            inside, source = strip(
                head, path=files.t1ce, brain_mask=files.brain_mask, hdbet_weights=options.hdbet_weights
            )
            brain = Volume(np.where(inside, head.data, 0).astype(np.float32, copy=False), head.affine)
    source = told(source)
    notes = [f"skull: {skull.reason}" + (f"; brain of {source}" if source else "")]
    warnings = [*scans.warnings]
    if scans.flair is not None:
        with clock.stage("align"):
            aligned = align(head, scans.flair.volume.oriented("RAS"), mode=options.register)
        flair = aligned.volume
        inside = head.data != 0 if inside is None and not judge(flair).stripped else inside
        within = head.data != 0 if inside is None else inside
        check_contrasts(head, flair.data, within, files.flair or files.t1ce)
        if inside is not None:
            flair = Volume(np.where(inside, flair.data, 0).astype(np.float32, copy=False), flair.affine)
        how = "registered with" if aligned.registered else "placed by its header on"
        notes.append(f"FLAIR: {how} T1ce, {aligned.coverage:.0%} of it covered")
        warnings += aligned.warnings
    done = {
        "skull": asdict(skull) | {"brain": source or "the scan's own voxels above 0"},
        "alignment": _alignment(aligned),
    }
    return _Prepared(
        brain=brain, flair=flair, done=done, notes=tuple(notes), warnings=tuple(map(told, warnings))
    )


def _alignment(aligned: Aligned | None) -> dict[str, Any] | None:
    if aligned is None:
        return None
    names = ("registered", "tried", "similarity_before", "similarity_after", "moved_mm", "coverage")
    return {name: getattr(aligned, name) for name in names} | {"transform": aligned.transform.tolist()}


def _predict(
    prepared: _Prepared,
    scans: PatientScans,
    roles: Sequence[Role],
    predictor: Predictor,
    turn: Turn,
    clock: Stopwatch,
) -> Findings:
    """Predict the prepared scans, and measure what is found, on the T1ce's own axes."""
    labels, point = predictor.description.labels, predictor.point
    # A header keeps an affine in single precision, and half a voxel decides the size of the network's grid.
    spacing = tuple(round(step, SPACING_DECIMALS) for step in prepared.brain.grid.spacing[::-1])
    with clock.stage("preprocess"):
        volumes = {"t1ce": prepared.brain, "flair": prepared.flair}
        channels = [_channel(volumes[role], prepared.brain.data.shape) for role in roles]
        inputs = predictor.prepare(channels, {"spacing": list(spacing)})
        del channels
    with clock.stage("network"):
        logits = predictor.run_engines(inputs, scans.t1ce.path)
    with clock.stage("postprocess"):
        probabilities = predictor.mean_probabilities(logits, [each.properties for each in inputs])
        del logits
        foreground = foreground_probability(probabilities, labels)
        if point is None:
            mask: NDArray[Any] = classes_of(probabilities, labels).astype(labels.mask_type, copy=False)
            lesions = find_lesions(mask > 0, spacing=spacing)
            kept: NDArray[np.bool_] = np.full(lesions.number, fill_value=True)
        else:
            scene = predictor.scene_of(inputs) if point.rejector else None
            lesions, kept = lesions_at(foreground, point, spacing, scene=scene)
            mask = segmentation_at(probabilities, point, labels, np.append(False, kept)[lesions.labels])
        del probabilities
    with clock.stage("measure"):
        measured = measure_lesions(
            Lesions(lesions.labels.T, lesions.voxels, lesions.voxel_mm3),
            kept,
            probability=foreground.T,
            brain=prepared.brain,
            confidence_of=None
            if point is None or point.calibration is None
            else point.calibration.confidence,
            gates_at=_gates_at(predictor.models, inputs),
        )
    own, flair = scans.t1ce.volume, prepared.flair
    into_voxels = np.linalg.inv(own.affine)
    records = tuple(
        replace(each, centroid_voxel=tuple((into_voxels @ [*each.centroid_mm, 1])[:3].tolist()))
        for each in measured.records
    )
    return Findings(
        t1ce=scans.t1ce,
        brain=Volume(turn.back(prepared.brain.data), own.affine),
        flair=None if flair is None else Volume(turn.back(flair.data), own.affine),
        mask=turn.back(mask.T),
        removed=turn.back(np.append(False, ~kept)[lesions.labels].T),
        probability=turn.back(foreground.T),
        lesions=LesionMap(labels=turn.back(measured.labels), grid=own.grid, records=records),
    )


def _channel(volume: Volume | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a channel as a reader gives it, (z, y, x); zeros for one that is missing."""
    if volume is None:
        return np.zeros(shape[::-1], dtype=np.float32)
    return np.array(volume.data.T, dtype=np.float32, order="C")


def _gates_at(
    models: Sequence[Model], inputs: Sequence[Prepared]
) -> Callable[[NDArray[np.intp]], dict[str, NDArray[np.float32]]]:
    """Return the function that `measure_lesions` asks for the gates; averages of models have none."""
    gates = gates_of_last(models[0].engine) if len(models) == 1 else {}
    scene = Scene.of(inputs[0], models[0].description.plans["transpose_forward"], {})

    def at(voxels: NDArray[np.intp]) -> dict[str, NDArray[np.float32]]:
        places = scene.clipped(scene.places(voxels[:, ::-1]))
        strides = {name: int(name.partition("/")[2]) for name in gates}
        return {name: gate[tuple((places // strides[name]).T)] for name, gate in gates.items()}

    return at


def run_identity(files: PatientFiles, predictor: Predictor, options: SegmentOptions) -> dict[str, Any]:
    """Return what decides the output: version, checksums of inputs and weights, settings; as in JSON."""
    settings: dict[str, Any] = asdict(options)
    del settings["keep_identity"]
    settings["hdbet_weights"] = options.hdbet_weights and input_checksum(options.hdbet_weights)
    series = {"t1ce_series": files.t1ce_series, "flair_series": files.flair_series}  # which may be a UID
    settings |= {name: each and sha256(each.encode()).hexdigest() for name, each in series.items()}
    settings["prediction"] = asdict(predictor.options)
    settings["operating_point"] = predictor.point and predictor.point.as_json(whole=False)
    models = [asdict(model.find_provenance()) for model in predictor.models]
    identity = {
        "versions": {"sgnet": __version__},
        "inputs": {name: input_checksum(path) for name, path in files.by_name.items()},
        "models": models,
        "settings": settings,
    }
    as_json: dict[str, Any] = json.loads(json.dumps(identity))
    return as_json


def _run_of(findings: Findings, prepared: _Prepared, clock: Stopwatch) -> dict[str, Any]:
    """Return what `run.json` says of this run, besides what `run_identity` returns."""
    grid, records = findings.lesions.grid, findings.lesions.records
    series = findings.t1ce.series
    return {
        "patient_code": patient_code(series.headers[0]) if series else "",
        "environment": {"python": python_version(), "system": platform()} | _packages(),
        "grid": {"shape": grid.shape, "affine": grid.affine.tolist()},
        **prepared.done,
        "lesions": len(findings.lesions.kept),
        "removed_by_operating_point": len(records) - len(findings.lesions.kept),
        "seconds": clock.seconds,
        "warnings": list(dict.fromkeys(prepared.warnings)),
    }


def _packages() -> dict[str, str]:
    """Return the versions of the packages that decide the numbers, where they are installed."""
    found = {}
    for name in ("nnunetv2", "torch", "openvino", "numpy", "scipy", "nibabel", "SimpleITK", "pydicom"):
        with suppress(PackageNotFoundError):
            found[name] = version_of(name)
    return found


def input_checksum(path: Path) -> str:
    """Return the SHA-256 checksum of a file, or one for all files of a folder, whatever their names.

    Raises:
        InputFileError: If there is no such file or folder, or it cannot be read.
    """
    try:
        if not path.is_dir():
            return checksum_of(path)
        checksums = sorted(checksum_of(file) for file in path.rglob("*") if file.is_file())
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise InputFileError(path, problem, "name a file or a folder of a scan") from error
    return combine_checksums(checksums)
