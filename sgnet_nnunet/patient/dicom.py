"""Read DICOM series, classic and enhanced multi-frame, from a folder, a zip file or one file.

A series is described by its tags first (`find_series`), chosen (`choose_series`), and only then decoded
(`load_series`). Nothing of a zip file is written to the disk. An error names the file or folder that the
user named, and series and slices by their numbers: names of files below it may hold a patient's name.
"""

import io
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from nibabel.affines import from_matvec
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError, needs_extra, printable
from sgnet_nnunet.files import check_memory, open_archive, open_file
from sgnet_nnunet.nifti import Volume
from sgnet_nnunet.patient.sequences import group_of, image_type, text_of

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

POSITION_TOLERANCE_MM = 1e-2
POSITION_TOLERANCE = 1e-2
"""What slices may be off an even stack, in mm or as a share of their distance, whichever is larger."""

DIRECTION_TOLERANCE = 1e-3
"""By which the cosines of ImageOrientationPatient may differ within a series: 0.06 degrees."""

SPACING_TOLERANCE = 1e-3
"""Relative, by which PixelSpacing may differ within a series."""

FEWEST_SLICES = 3
"""A series of fewer images is no volume, but a localizer or a screenshot."""

_RAS_OF_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_PREFIX = 132  # bytes up to the end of the mark DICM
_DEFLATED, _LONGEST_META = b"1.2.840.10008.1.2.1.99", 1024
_BARE = (b"\x02\x00", b"\x08\x00")  # first group of a file that lacks the preamble
_COPY = "export or copy the series again"


def _of_first(keyword: str) -> property:
    """Return a property that is a tag of the first header, printable."""
    return property(lambda series: text_of(series.headers[0], keyword), doc=f"{keyword}; empty without one.")


@dataclass(frozen=True, eq=False, kw_only=True)
class _Series:
    """The headers of a series' files, complete but for the pixels; what is absent is an empty text."""

    headers: tuple["Dataset", ...]

    uid = _of_first("SeriesInstanceUID")
    study_uid = _of_first("StudyInstanceUID")
    frame_of_reference = _of_first("FrameOfReferenceUID")
    modality = _of_first("Modality")
    number = _of_first("SeriesNumber")
    description = _of_first("SeriesDescription")


@dataclass(frozen=True, eq=False, kw_only=True)
class DicomSeries(_Series):
    """One DICOM series, as a volume and as what objects that refer to it need.

    `volume.data[i, j, k]` is the pixel in row j and column i of slice k, rescaled; slices run along the
    normal of the image plane (row direction x column direction), so that the affine has the handedness of
    DICOM. The affine is RAS+, as everywhere in this package, and not DICOM's LPS+.

    Attributes:
        files: The files in the order of the slices, a multi-frame file once, as are the headers. Those of a
            zip file are paths below it, which cannot be opened.
        frames: For each slice k, the index in `files`, and the number of the frame in it, from 1.
        volume: The voxels, float32, and their affine.
        warnings: What was unusual and did not keep it from being used.
    """

    files: tuple[Path, ...]
    frames: tuple[tuple[int, int], ...]
    volume: Volume
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class FoundSeries(_Series):
    """A series in a folder, zip file or file, before anything of it is checked; by the names of its files."""

    path: Path
    names: tuple[str, ...]

    @cached_property
    def images(self) -> int:
        """Number of images, each frame of a multi-frame file counted."""
        return sum(int(header.get("NumberOfFrames", None) or 1) for header in self.headers)

    @property
    def listed(self) -> str:
        """The series in one clause, for a list to choose from."""
        named = f'{self.number or "no number"} "{self.description}"'
        return f"{named} ({self.modality}, {self.images} images)"


@contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Turn whatever pydicom or zipfile raises, also as a tag is looked up, into an InputFileError.

    What is in quotation marks is left out of it: values of tags, and names of files in a zip file.
    """
    with needs_extra("dicom"):
        from pydicom import config  # noqa: PLC0415 - a third of a second, for DICOM only
    try:
        with config.disable_value_validation(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # they quote as well
            yield
    except (SGNetError, MemoryError):
        raise
    except Exception as error:
        detail = " ".join(str(getattr(error, "strerror", "") or error).split()) or type(error).__name__
        detail = printable(re.sub(r"(['\"]).*\1", "...", detail))[:200]
        raise InputFileError(path, f"cannot be read as DICOM ({detail})", _COPY) from error


def is_dicom(path: Path) -> bool:
    """Return whether a path is a folder, a zip file, or a DICOM file by its content."""
    if path.is_dir():
        return True
    try:
        with open_file(path) as file:
            return _is_marked(cast(BinaryIO, file)) or zipfile.is_zipfile(file)
    except OSError:
        return False


def _is_marked(file: BinaryIO) -> bool:
    file.seek(0)
    start = file.read(_PREFIX)
    file.seek(0)
    is_bare = start[:2] in _BARE and (start[4:6].isalpha() or start[6:8] == b"\0\0")
    return start[128:] == b"DICM" or is_bare


def _undeflated(file: BinaryIO) -> BinaryIO:
    """Return a file, unless all of its tags are compressed: pydicom reserves whatever they announce."""
    is_deflated = _DEFLATED in file.read(_LONGEST_META)
    file.seek(0)
    if is_deflated:
        raise ValueError(
            "its transfer syntax is Deflated Explicit VR Little Endian; decompress it with dcmconv"
        )
    return file


def _open_each(path: Path, names: Container[str] | None = None) -> Iterator[tuple[str, BinaryIO]]:
    """Yield the name and the opened content of the files of a folder or zip file, or of the one file.

    `names` are those to open; all of them by default.
    """
    if path.is_dir():
        for each in sorted(path.rglob("*")):
            name = str(each.relative_to(path))
            if (names is None or name in names) and each.is_file():
                with open_file(each) as file:
                    yield name, cast(BinaryIO, file)
        return
    with open_file(path) as file:
        is_zip = not _is_marked(cast(BinaryIO, file)) and zipfile.is_zipfile(file)
        if not is_zip:
            file.seek(0)
            yield "", cast(BinaryIO, file)
    if is_zip:
        with open_archive(path) as file, zipfile.ZipFile(file) as archive:
            for entry in sorted(archive.infolist(), key=lambda each: each.filename):
                if not entry.is_dir() and (names is None or entry.filename in names):
                    yield entry.filename, io.BytesIO(archive.read(entry))


def find_series(path: Path) -> tuple[FoundSeries, ...]:
    """Return the series of images in a folder, a zip file or one file, sorted by number.

    Objects without an image plane (reports, contours, segmentations, DICOMDIR) are left out.

    Raises:
        InputFileError: It cannot be read, or holds no image.
        SGNetError: If pydicom is not installed.
    """
    path = path.parent if path.name.upper() == "DICOMDIR" and path.is_file() else path
    groups: dict[str, list[tuple[str, Dataset]]] = {}
    with one_line_errors(path):
        from pydicom import dcmread  # noqa: PLC0415

        for name, file in _open_each(path):
            if not _is_marked(file):
                continue
            header = dcmread(_undeflated(file), stop_before_pixels=True, force=True)
            if "Rows" in header and text_of(header, "Modality") not in {"SEG", "PR", "RTDOSE"}:
                groups.setdefault(text_of(header, "SeriesInstanceUID"), []).append((name, header))
        if not groups:
            raise InputFileError(path, "holds no DICOM image", "name the folder or zip file of the series")
        found = [
            FoundSeries(path=path, names=names, headers=headers)
            for names, headers in (zip(*files, strict=True) for files in groups.values())
        ]
        return tuple(sorted(found, key=lambda each: (len(each.number), each.number, each.uid)))


@dataclass(frozen=True, eq=False)
class _Frame:
    """One image of a series.

    Attributes:
        file: Index of its header in the series; `number` is that of the frame in it, from 1.
        position: Centre of the first pixel in mm (LPS+), shape (3,).
        axes: Directions of rising column and row index, unit vectors, shape (2, 3).
        spacing: Distance in mm of two columns and of two rows, shape (2,).
        scale: Slope and intercept of the stored values.
        told_apart: Tags that tell images at one position apart, and their values.
    """

    file: int
    number: int
    position: NDArray[np.float64]
    axes: NDArray[np.float64]
    spacing: NDArray[np.float64]
    scale: tuple[float, float]
    told_apart: dict[str, str]


_Refuse = Callable[..., InputFileError]
"""Makes the error about a series out of a problem and a remedy."""

_IDENTITY = ("PatientID", "PatientName", "PatientBirthDate")

_PLACE = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
}
"""Tags of where an image lies, and the functional group that has them if enhanced."""

_APART = {
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "EchoNumbers": ("", ""),
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "TriggerTime": ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "ImageType": ("MRImageFrameTypeSequence", "FrameType"),
}
"""Tags of time points, echoes and kinds of image, and the functional group that has them if enhanced."""


def load_series(series: FoundSeries) -> DicomSeries:
    """Check the geometry of a series, and read its pixels.

    Raises:
        InputFileError: It is not one complete stack of grey-valued images of one patient.
    """
    path, label = series.path, f"series {series.number or series.uid}"

    def refuse(problem: str, remedy: str = _COPY) -> InputFileError:
        return InputFileError(path, f"{label} {problem}", remedy)

    with one_line_errors(path):
        _check_headers(series.headers, refuse)
        frames = [
            each for index, header in enumerate(series.headers) for each in _frames(index, header, refuse)
        ]
        stack, affine = _stack(frames, refuse)
        used = list(dict.fromkeys(frame.file for frame in stack))
        data = _pixels(series, stack, refuse)
        note = _numbering(series.headers)
    return DicomSeries(
        files=tuple(path / series.names[index] for index in used),
        headers=tuple(series.headers[index] for index in used),
        frames=tuple((used.index(frame.file), frame.number) for frame in stack),
        volume=Volume(data, affine),
        warnings=(f"{label} {note}",) if note else (),
    )


def _numbering(headers: Sequence["Dataset"]) -> str:
    """Return what the numbers of the images say of missing ones, which at the ends nothing else does."""
    numbers = sorted(int(header.get("InstanceNumber", None) or 0) for header in headers)
    announced = int(headers[0].get("ImagesInAcquisition", None) or 0)
    if len(headers) > 1 and numbers[0] > 0 and numbers != [*range(1, len(numbers) + 1)]:
        return f"has {len(numbers)} images with the numbers {numbers[0]} to {numbers[-1]}: is it complete?"
    if len(headers) > 1 and announced > len(headers):
        return f"has {len(headers)} of the {announced} images that its acquisition announces: is it complete?"
    return ""


def identity_of(header: "Dataset") -> dict[str, str]:
    """Return the tags that identify a patient, to compare and never to show; without the empty ones."""
    values = {keyword: text_of(header, keyword).rstrip("^ ").casefold() for keyword in _IDENTITY}
    return {keyword: value for keyword, value in values.items() if value}


def patient_code(header: "Dataset") -> str:
    """Return three digits of a checksum of PatientID, by which visits are told apart; empty without one.

    Other codes are of other patients. One in 4,096 patients has a given code: it leads back to nobody.
    """
    identity = identity_of(header).get("PatientID", "")
    return sha256(identity.encode()).hexdigest()[:3] if identity else ""


def _check_headers(headers: Sequence["Dataset"], refuse: _Refuse) -> None:
    """Refuse a series that is not one of MR images of one size and one patient, each there once."""
    if (modality := text_of(headers[0], "Modality")) != "MR":
        raise refuse(f"has the modality {modality or 'of no tag'}, MR is needed", "name another series")
    for keyword in (*_IDENTITY, "StudyInstanceUID", "FrameOfReferenceUID"):
        if len({text_of(header, keyword) for header in headers}) > 1:
            raise refuse(f"holds images that differ in {keyword}", "export the series of one patient again")
    for header in headers:
        _check_header(header, refuse)
    sizes = Counter(f"{header.Columns} x {header.Rows}" for header in headers)
    if len(sizes) > 1:
        raise refuse(f"holds images of several sizes ({', '.join(sorted(sizes))})", "export one size only")
    instances = {text_of(header, "SOPInstanceUID") for header in headers}
    if repeated := len(headers) - len(instances):
        raise refuse(f"holds {repeated} images twice (same SOPInstanceUID)", "remove the copies")


def _check_header(header: "Dataset", refuse: _Refuse) -> None:
    """Refuse an image that is not grey-valued, or cannot be decoded."""
    photometric = text_of(header, "PhotometricInterpretation")
    if int(header.get("SamplesPerPixel", 1)) != 1 or not photometric.startswith("MONOCHROME"):
        raise refuse(f"holds colour images ({photometric})", "name the series of grey-valued images")
    if "MOSAIC" in image_type(header):
        raise refuse("holds mosaics, several slices in one image", "export it as single slices")
    if min(int(header.Rows), int(header.Columns)) < 1:
        raise refuse("holds images without pixels")
    _check_decoder(_transfer_syntax(header), refuse)


def _transfer_syntax(header: "Dataset") -> "UID":
    """Return the transfer syntax; of a file without the preamble, the one that it was read as."""
    from pydicom import uid  # noqa: PLC0415

    meta = getattr(header, "file_meta", None)
    if meta is not None and "TransferSyntaxUID" in meta:
        return meta.TransferSyntaxUID
    is_implicit, _ = header.original_encoding
    return uid.ImplicitVRLittleEndian if is_implicit else uid.ExplicitVRLittleEndian


_ITK_SYNTAXES = {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
"""Lossless JPEG, the most common compression of MR; SimpleITK brings a decoder, and pydicom does not."""


def _check_decoder(syntax: "UID", refuse: _Refuse) -> None:
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415

    try:
        is_known = syntax in _ITK_SYNTAXES or get_decoder(syntax).is_available
    except NotImplementedError:
        is_known = False
    if not is_known:
        remedy = "decompress it, for example with gdcmconv --raw or dcmdjpeg"
        raise refuse(f"has the transfer syntax {syntax.name}, which cannot be decoded", remedy)


def _frames(file: int, header: "Dataset", refuse: _Refuse) -> Iterator[_Frame]:
    """Yield the images of a file."""
    count = int(header.get("NumberOfFrames", None) or 1)
    described = len(header.get("PerFrameFunctionalGroupsSequence", None) or ())
    if described != count and (described or count > 1):
        raise refuse(f"has a file of {count} frames, of which {described} are described")
    for index in range(count):
        position, axes, spacing = _place(header, index, refuse)
        slope = _value(header, index, "RescaleSlope", "PixelValueTransformationSequence")
        intercept = _value(header, index, "RescaleIntercept", "PixelValueTransformationSequence")
        yield _Frame(
            file=file,
            number=index + 1,
            position=position,
            axes=axes.reshape(2, 3),
            spacing=spacing[::-1],
            scale=(1.0 if slope is None else float(slope), float(intercept or 0)),
            told_apart={
                keyword: str(_value(header, index, inner or keyword, group) or header.get(keyword, ""))
                for keyword, (group, inner) in _APART.items()
            },
        )


def _place(header: "Dataset", frame: int, refuse: _Refuse) -> list[NDArray[np.float64]]:
    """Return position, orientation and pixel spacing of a frame (from 0), as DICOM has them."""
    values = []
    for keyword, group in _PLACE.items():
        found = _value(header, frame, keyword, group)
        value = np.array([] if found is None else found, dtype=np.float64)
        if not value.size or not np.isfinite(value).all():
            raise refuse(f"has no {keyword} in image {text_of(header, 'InstanceNumber')}, frame {frame + 1}")
        values.append(value)
    return values


def _value(header: "Dataset", frame: int, keyword: str, group: str) -> Any:  # noqa: ANN401 - of a tag
    """Return the value of a tag in a functional group of a frame (from 0), or of a classic image."""
    item = group_of(header, frame, group)
    return (header if item is None else item).get(keyword, None)


def _stack(frames: Sequence[_Frame], refuse: _Refuse) -> tuple[list[_Frame], NDArray[np.float64]]:
    """Return the images sorted along their normal, and the affine (RAS+) of an even stack of them."""
    if len(frames) < FEWEST_SLICES:
        raise refuse(
            f"holds {len(frames)} images, a 3D volume is needed", "name the folder of all its slices"
        )
    axes, spacing = frames[0].axes, frames[0].spacing
    for frame in frames:
        if np.abs(frame.axes - axes).max() > DIRECTION_TOLERANCE:
            raise refuse("holds images of several orientations", "export one orientation only")
        if not np.allclose(frame.spacing, spacing, rtol=SPACING_TOLERANCE):
            raise refuse("holds images of several pixel sizes", "export one size only")
    if not np.allclose(axes @ axes.T, np.eye(2), atol=DIRECTION_TOLERANCE) or not np.all(spacing > 0):
        raise refuse("has an ImageOrientationPatient or PixelSpacing that is none")
    normal = np.cross(*axes)
    stack = sorted(frames, key=lambda frame: float(frame.position @ normal))
    positions = np.array([frame.position for frame in stack])
    steps = np.diff(positions @ normal)
    _check_repeats(stack, steps, refuse)
    _check_steps(steps, refuse)
    step = (positions[-1] - positions[0]) / (len(stack) - 1)
    tolerance = max(POSITION_TOLERANCE_MM, POSITION_TOLERANCE * float(np.linalg.norm(step)))
    if (shift := float(np.linalg.norm(step - (step @ normal) * normal))) > tolerance:
        remedy = "reconstruct it without gantry tilt"
        raise refuse(f"is sheared: each slice is moved by {shift:.3g} mm within its plane", remedy)
    line = positions[0] + np.arange(len(stack))[:, None] * step
    if (off := float(np.abs(positions - line).max())) > max(tolerance, POSITION_TOLERANCE_MM):
        raise refuse(f"has slices up to {off:.3g} mm off a straight stack")
    columns = np.column_stack([axes[0] * spacing[0], axes[1] * spacing[1], step])
    return stack, _RAS_OF_LPS @ from_matvec(columns, positions[0])


def _check_repeats(stack: Sequence[_Frame], steps: NDArray[np.float64], refuse: _Refuse) -> None:
    """Refuse several images at one position, and name the tags that tell them apart."""
    repeats = np.flatnonzero(steps <= POSITION_TOLERANCE_MM)
    if not repeats.size:
        return
    one, other = (stack[repeats[0] + offset].told_apart for offset in (0, 1))
    if differing := [keyword for keyword in one if one[keyword] != other[keyword]]:
        problem = f"holds several images at one position, which differ in {', '.join(differing)}"
        raise refuse(f"{problem} (4D: time points or echoes)", "export one of them")
    raise refuse(f"holds {repeats.size} duplicate slices, the first at slice {repeats[0] + 1}", "remove them")


def _check_steps(steps: NDArray[np.float64], refuse: _Refuse) -> None:
    """Refuse gaps and uneven distances between sorted slices."""
    tolerance = max(POSITION_TOLERANCE_MM, POSITION_TOLERANCE * float(steps.mean()))
    if np.abs(steps - steps.mean()).max() <= tolerance:
        return
    fit = np.rint(steps / steps.min())
    if np.all(np.abs(steps - fit * steps.min()) <= tolerance * fit):
        first = int(np.flatnonzero(fit > 1)[0]) + 1
        problem = (
            f"lacks {int((fit - 1).sum())} of {int(fit.sum()) + 1} slices, the first after slice {first}"
        )
        raise refuse(problem)
    problem = f"has slices {steps.min():.4g} to {steps.max():.4g} mm apart"
    raise refuse(problem, "export it with even spacing; it is not resampled in silence")


def _pixels(series: FoundSeries, stack: Sequence[_Frame], refuse: _Refuse) -> NDArray[np.float32]:
    """Return the rescaled voxels, shape (columns, rows, slices)."""
    from pydicom import dcmread  # noqa: PLC0415

    rows, columns = (int(getattr(series.headers[0], keyword)) for keyword in ("Rows", "Columns"))
    voxels = len(stack) * rows * columns
    check_memory(series.path, 4 * voxels, voxels=voxels)
    data = np.empty((len(stack), rows, columns), dtype=np.float32)
    places: dict[str, list[tuple[int, _Frame]]] = {}
    for k, frame in enumerate(stack):
        places.setdefault(series.names[frame.file], []).append((k, frame))
    for name, file in _open_each(series.path, places):
        dataset = dcmread(_undeflated(file), force=True)
        if "PixelData" not in dataset:
            number = text_of(dataset, "InstanceNumber")
            raise refuse(f"has no pixels in image {number or places[name][0][0] + 1}")
        stored = _decode(dataset)
        for k, frame in places[name]:
            slope, intercept = frame.scale
            data[k] = stored[frame.number - 1]
            data[k] = data[k] * np.float32(slope) + np.float32(intercept)
    if not np.isfinite(data).all():
        raise refuse("has voxels that are not finite", "check RescaleSlope and RescaleIntercept")
    low, high = data.min(), data.max()
    if low == high:
        raise refuse(f"is blank: every voxel is {low:g}")
    if text_of(series.headers[0], "PhotometricInterpretation") == "MONOCHROME1":
        data = (low + high) - data  # its lowest value is the brightest
    return data.transpose(2, 1, 0)


def _decode(dataset: "Dataset") -> NDArray[Any]:
    """Return the stored values of all frames, shape (frames, rows, columns)."""
    from pydicom.pixels.utils import pixel_array  # noqa: PLC0415

    syntax = _transfer_syntax(dataset)
    if syntax in _ITK_SYNTAXES:
        return _decode_by_itk(dataset)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = syntax
    stored = pixel_array(dataset, raw=True)
    return stored.reshape(-1, *stored.shape[-2:])


def _decode_by_itk(dataset: "Dataset") -> NDArray[Any]:
    """Return what `_decode` does, by the decoders of SimpleITK, which read files only."""
    import SimpleITK  # noqa: PLC0415 - half a second
    from pydicom import Dataset as Bare  # noqa: PLC0415

    bare = Bare()
    bare.file_meta = dataset.file_meta
    for keyword in ("SOPClassUID", "SOPInstanceUID", "NumberOfFrames", "PixelData"):
        if keyword in dataset:
            bare[keyword] = dataset[keyword]
    bare.update(dataset.group_dataset(0x0028))
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        bare.pop(keyword, None)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "image.dcm"
        bare.save_as(path, enforce_file_format=True)
        stored = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path), imageIO="GDCMImageIO"))
    return stored.reshape(-1, *stored.shape[-2:])
