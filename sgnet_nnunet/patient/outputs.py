"""The files of a patient's output folder: volumes, tables, pictures, the report and what was run."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet import __version__
from sgnet_nnunet.errors import InputFileError, needs_extra
from sgnet_nnunet.files import atomic_path, write_json, write_text
from sgnet_nnunet.lesions import bounding_box
from sgnet_nnunet.nifti import Grid, Volume, read_header
from sgnet_nnunet.nnunet import NIFTI_SUFFIXES
from sgnet_nnunet.patient.lesion_table import LesionMap, axial_axis, write_lesions_csv, write_lesions_json
from sgnet_nnunet.patient.scans import Scan
from sgnet_nnunet.report.figures import FAINT, PREDICTION_COLOUR, REFERENCE_COLOUR
from sgnet_nnunet.report.slices import (
    Contour,
    Panel,
    draw_panels,
    fullest_slice,
    save_png,
    to_grey,
    view_of,
)
from sgnet_nnunet.report.viewer import render, write_case, write_viewer

with needs_extra("report"):
    from PIL import Image, ImageDraw, ImageFont

MASK: Final = "mask.nii.gz"
"""Values of the model's labels, on the T1ce's grid, with its header."""

PROBABILITY: Final = "probability.nii.gz"
"""Foreground probability, float32, on the T1ce's grid; written on request."""

T1CE: Final = "t1ce.nii.gz"
"""The T1ce without the skull, float32, on its own grid: `sgnet follow` registers it."""

LESIONS_CSV: Final = "lesions.csv"
LESIONS_JSON: Final = "lesions.json"
OVERVIEW: Final = "overview.png"
REPORT: Final = "report.html"
VIEWER: Final = "viewer"
"""Folder of the 3D viewer, which the report shows."""

RUN: Final = "run.json"
"""`{"format": "sgnet segment", "version": 1, "versions": {...}, "inputs": {name: sha256}, "model": {...},
"settings": {...}, "seconds": {stage: s}, "warnings": [...], ...}`; written last, without identity."""

RUN_FORMAT: Final = "sgnet segment"
RUN_VERSION: Final = 1

SEGMENTS_NRRD: Final = "lesions.seg.nrrd"
DICOM_SEG: Final = "seg.dcm"
DICOM_RTSTRUCT: Final = "rtstruct.dcm"
DICOM_SR: Final = "sr.dcm"

RESEARCH_ONLY: Final = "Research use only. Not for diagnosis or treatment."
"""Said wherever a clinician would look."""

KEPT, REMOVED = "lesions", "removed"
MOST_PANELS = 24
CAPTION = 22  # pixels below the overview's panels
SCANNER = 1  # NIfTI's code of a scanner's coordinates

_NOT_KEPT = frozenset(
    ("descrip", "aux_file", "intent_name", "intent_code", "db_name", "data_type", "cal_min", "cal_max")
) | {"glmin", "glmax", "extents", "session_error", "toffset"}
"""Fields of a NIfTI header that are of the input's voxels, or may hold a text."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Findings:
    """What was found in one patient; every array has the shape (i, j, k) of the T1ce as it was read.

    Attributes:
        t1ce: The T1ce as it was read.
        brain: The T1ce without the skull.
        flair: The FLAIR without the skull, on the T1ce's grid; None without one.
        mask: Values of the model's labels.
        removed: Lesions that the operating point removed.
        probability: Foreground probability.
        lesions: The lesions, and their labels.
        run: What `run.json` says, but for its format and the seconds that writing takes.
        summary: Lines for the report: what was done to the scans.
    """

    t1ce: Scan
    brain: Volume
    flair: Volume | None
    mask: NDArray[np.integer]
    removed: NDArray[np.bool_]
    probability: NDArray[np.float32]
    lesions: LesionMap
    run: Mapping[str, Any] = field(default_factory=dict)
    summary: Sequence[str] = ()


def write_outputs(folder: Path, findings: Findings, *, with_probability: bool = False) -> tuple[str, ...]:
    """Write the files of a patient to a folder, but for `run.json`, and return what could not be written.

    Raises:
        SGNetError: If a file cannot be written, or a package of an extra is missing.
    """
    header = header_of(findings.t1ce)
    write_like(folder / MASK, findings.mask, header)
    write_like(folder / T1CE, np.asarray(findings.brain.data, dtype=np.float32), header)
    if with_probability:
        write_like(folder / PROBABILITY, findings.probability.astype(np.float32), header)
    write_lesions_csv(folder / LESIONS_CSV, findings.lesions.records)
    write_lesions_json(folder / LESIONS_JSON, findings.lesions.records)
    problems = _write_segments(folder, findings)
    shown = _Shown(findings)
    save_png(shown.overview(), folder / OVERVIEW)
    shown.write_viewer(folder / VIEWER)
    write_text(folder / REPORT, _report(findings, folder / OVERVIEW, problems))
    return problems


def _write_segments(folder: Path, findings: Findings) -> tuple[str, ...]:
    """Write the lesions for 3D Slicer and, if the T1ce came from DICOM, as objects that refer to it.

    Returns:
        Why there are no DICOM objects, if the series is one that none can refer to.
    """
    # SimpleITK, for 3D Slicer's file, takes half a second to import.
    from sgnet_nnunet.patient.dicom_objects import (  # noqa: PLC0415
        write_rtstruct,
        write_seg,
        write_seg_nrrd,
        write_sr,
    )

    lesions, series = findings.lesions, findings.t1ce.series
    write_seg_nrrd(folder / SEGMENTS_NRRD, lesions)
    try:
        if series is not None and write_seg(folder / DICOM_SEG, lesions, series):
            write_rtstruct(folder / DICOM_RTSTRUCT, lesions, series)
            write_sr(folder / DICOM_SR, lesions, series)
    except InputFileError as error:
        return (f"no DICOM objects: T1ce {error.problem}",)
    return ()


def write_run(folder: Path, run: Mapping[str, Any]) -> None:
    """Write `run.json`, the last file: a folder without it is not finished."""
    write_json(folder / RUN, {"format": RUN_FORMAT, "version": RUN_VERSION, **run})


def header_of(scan: Scan) -> nib.Nifti1Header:
    """Return the header that output on a scan's grid gets: the scan's own, without text, if it is NIfTI.

    Units, codes, qform and sform stay as they are. Scaling, display range, extensions and every text, which
    may name the patient, are left out.
    """
    volume = scan.volume
    if not scan.path.name.endswith(NIFTI_SUFFIXES):
        header = nib.Nifti1Image(np.zeros(volume.data.shape, dtype=np.uint8), volume.affine).header
        header.set_xyzt_units("mm")
        header.set_sform(volume.affine, SCANNER)
        header.set_qform(volume.affine, SCANNER, strip_shears=True)
        return header
    header = read_header(scan.path)
    header.set_data_shape(volume.data.shape)
    header.set_slope_inter(1, 0)
    for name in _NOT_KEPT.intersection(header.keys()):
        header[name] = np.zeros_like(header[name])
    return header


def write_like(path: Path, data: NDArray[np.generic], header: nib.Nifti1Header) -> None:
    """Write an array, atomically, with a header of `header_of`, which keeps its codes, qform and sform."""
    header = header.copy()
    header.set_data_dtype(data.dtype)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    with atomic_path(path) as partial:
        nib.save(kind(data, None, header), partial)  # an affine would replace the codes


class _Shown:
    """The box around the brain of a patient in RAS, as the pictures and the viewer take it."""

    def __init__(self, findings: Findings) -> None:
        labels = findings.lesions.labels
        box = bounding_box((findings.brain.data != 0) | (labels > 0) | findings.removed)
        corner = np.array([part.start for part in box], dtype=np.intp)
        affine = Grid(labels.shape, findings.brain.affine).crop(corner, corner + labels[box].shape).affine

        def shown(data: NDArray[Any]) -> Volume:
            return Volume(data[box], affine).oriented()

        volumes = {"T1ce": findings.brain} | ({"FLAIR": findings.flair} if findings.flair else {})
        self.scans = {name: to_grey(np.asarray(shown(volume.data).data)) for name, volume in volumes.items()}
        oriented = shown(labels)
        self.affine, self.spacing = oriented.affine, oriented.grid.spacing
        self.labels: NDArray[Any] = oriented.data
        removed: NDArray[Any] = shown(findings.removed.view(np.uint8)).data
        self.removed = removed > 0
        self.findings = findings

    def overview(self) -> Image.Image:
        """Draw each kept lesion on its fullest axial slice, the largest first, with the caption below."""
        grey = self.scans["T1ce"]
        slices = [
            (
                fullest_slice(self.labels == record.number, default=0),
                f"{record.number}: {record.volume_mm3:.0f} mm3, {record.diameter_axial_mm:.1f} mm",
                record.number,
            )
            for record in self.findings.lesions.kept[:MOST_PANELS]
        ] or [(fullest_slice(grey > 0, default=grey.shape[2] // 2), "no lesion found", 0)]
        panels = [self._panel(*each) for each in slices]
        view = view_of((grey > 0) | (self.labels > 0), spacing=self.spacing, pixels_per_mm=2)
        return _captioned(draw_panels(panels, view, columns=4), RESEARCH_ONLY)

    def _panel(self, k: int, title: str, number: int) -> Panel:
        contours = [
            Contour(mask=(self.labels > 0) & (self.labels != number), colour=FAINT),
            Contour(mask=(self.labels > 0) & (self.labels == number), colour=PREDICTION_COLOUR),
        ]
        if self.removed[:, :, k].any():
            contours.append(Contour(mask=self.removed, colour=REFERENCE_COLOUR, name=REMOVED))
        return Panel(grey=self.scans["T1ce"], k=k, title=title, contours=contours)

    def write_viewer(self, folder: Path) -> None:
        """Write the 3D viewer with the scans and the lesions."""
        masks = {KEPT: self.labels > 0} | ({REMOVED: self.removed} if self.removed.any() else {})
        colours = {KEPT: PREDICTION_COLOUR, REMOVED: REFERENCE_COLOUR}
        titles = [(name, colours[name]) for name in masks]
        write_viewer(folder, title="Patient", cases=["patient"], masks=titles)
        write_case(folder, "patient", self.scans, affine=self.affine, masks=masks, notes=[RESEARCH_ONLY])


def _captioned(picture: Image.Image, text: str) -> Image.Image:
    """Return a picture with a line of text below it."""
    font = ImageFont.load_default(14)
    width = max(picture.width, round(font.getlength(text)) + 12)
    sheet = Image.new("RGB", (width, picture.height + CAPTION))
    sheet.paste(picture, (0, 0))
    ImageDraw.Draw(sheet).text((6, picture.height + 3), text, fill="white", font=font)
    return sheet


def _report(findings: Findings, overview: Path, problems: Sequence[str]) -> str:
    records = findings.lesions.records
    grid = findings.lesions.grid
    thickness = grid.spacing[axial_axis(grid)]
    return render(
        "patient.html",
        version=__version__,
        research_only=RESEARCH_ONLY,
        records=records,
        kept=len(findings.lesions.kept),
        gates=list(dict.fromkeys(name for record in records for name in record.gate_shares)),
        has_confidence=any(record.confidence is not None for record in records),
        total_mm3=sum(record.volume_mm3 for record in findings.lesions.kept),
        grid=" x ".join(str(length) for length in grid.shape)
        + " voxels of "
        + " x ".join(f"{step:.3g}" for step in grid.spacing)
        + " mm",
        thickness=thickness,
        summary=findings.summary,
        warnings=[*findings.run.get("warnings", ()), *problems],
        overview="data:image/png;base64," + b64encode(overview.read_bytes()).decode("ascii"),
        most_panels=MOST_PANELS,
        viewer=f"{VIEWER}/index.html",
    )
