"""Lesions as DICOM objects that reference the scanned series, and as a segmentation for 3D Slicer.

SEG, RTSTRUCT and SR number the lesions as the table does; only lesions that the operating point keeps are
written. Identifying tags are copied from the series. Every description says "research use only".
"""

import colorsys
import logging
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its users' name for it)
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy import ndimage

from sgnet_nnunet import __version__
from sgnet_nnunet.errors import InputFileError, needs_extra
from sgnet_nnunet.files import atomic_path
from sgnet_nnunet.lesions import Box
from sgnet_nnunet.patient.dicom import DicomSeries
from sgnet_nnunet.patient.lesion_table import LesionMap, LesionRecord
from sgnet_nnunet.patient.outputs import DICOM_SEG

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from highdicom.sr import VolumetricROIMeasurementsAndQualitativeEvaluations
    from pydicom import Dataset
    from pydicom.dataelem import RawDataElement

logger = logging.getLogger(__name__)

PROGRAM = "SG-Net"
DESCRIPTION = f"{PROGRAM} {__version__}, research use only"
SERIES_NUMBERS = {"SEG": 9101, "RTSTRUCT": 9102, "SR": 9103}
"""Beyond those of scanners, so that viewers list these series last."""

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From the world of NIfTI (RAS+) to that of DICOM (LPS+), and back."""

_HUE_STEP = 0.618034  # the golden ratio: hues of consecutive lesions are far apart
_RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
_CONTOUR_DATA = 0x30060050
_STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, which readers of RTSTRUCT look for
_SLICER_TAGS = (
    "TerminologyEntry:Segmentation category and type - DICOM master list"
    "~SCT^49755003^Morphologically Altered Structure~SCT^14799000^Neoplasm, Secondary~^^~~^^~^^"
)
_REMEDY = "convert the series to NIfTI to get the results without DICOM objects"
_ARGUMENTS = {
    "patient_id": "PatientID",
    "patient_name": "PatientName",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "accession_number": "AccessionNumber",
    "study_id": "StudyID",
    "study_date": "StudyDate",
    "study_time": "StudyTime",
}
"""highdicom's arguments for tags that it reads from every source, and the tags."""

_TIMES = {"PatientBirthDate": "%Y%m%d", "StudyDate": "%Y%m%d", "StudyTime": "%H%M%S"}

Outline = NDArray[np.float64]
"""Corners of a closed polygon in a slice, as indices (i, j) of pixels, shape (n, 2)."""


def write_seg(path: Path, lesion_map: LesionMap, series: DicomSeries) -> bool:
    """Write a binary DICOM SEG on the series' own slices or frames, one segment a lesion.

    Returns:
        Whether the file was written: a SEG has at least one segment, so that without lesions there is none.

    Raises:
        InputFileError: If no object can refer to the series.
        SGNetError: If the extra `dicom` is not installed.
        ValueError: If the lesions are not on the grid of the series.
    """
    with needs_extra("dicom"):
        import highdicom as hd  # noqa: PLC0415
        from pydicom.uid import ExplicitVRLittleEndian  # noqa: PLC0415
    if not _has_lesions(path, lesion_map, series):
        return False
    frames = [int(header.get("NumberOfFrames", 1)) for header in series.headers]
    first = np.cumsum([0, *frames])
    pixels = np.zeros((first[-1], *lesion_map.labels.T.shape[1:]), dtype=np.uint16)
    pixels[[first[file] + frame - 1 for file, frame in series.frames]] = lesion_map.labels.T
    with _naming(series):
        segmentation = hd.seg.Segmentation(
            source_images=_headers(series),
            pixel_array=pixels,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_segment(record) for record in lesion_map.kept],
            transfer_syntax_uid=ExplicitVRLittleEndian,
            content_label="BRAIN_LESIONS",
            content_description=DESCRIPTION,
            content_creator_name=f"{PROGRAM}^",
            **_series_of("SEG"),
        )
        _save(path, segmentation)
    return True


def write_rtstruct(path: Path, lesion_map: LesionMap, series: DicomSeries) -> bool:
    """Write a DICOM RT Structure Set, one ROI a lesion, with closed contours on the series' own slices.

    Contours follow the edges of the pixels, so that their area is that of the lesion. A hole is joined to
    the contour around it by a channel of no width (DICOM PS3.3, C.8.8.6.3, "keyhole").

    Returns:
        Whether the file was written, and raises, as for `write_seg`.
    """
    with needs_extra("dicom"):
        import highdicom as hd  # noqa: PLC0415
        from pydicom.uid import ImplicitVRLittleEndian  # noqa: PLC0415
    if not _has_lesions(path, lesion_map, series):
        return False
    source = _headers(series)[0]
    with _naming(series):
        structures = hd.SOPClass(
            study_instance_uid=series.study_uid,
            sop_class_uid=_RTSTRUCT_CLASS,
            modality="RTSTRUCT",
            transfer_syntax_uid=ImplicitVRLittleEndian,  # no limit of 64 KB a contour
            specific_character_set=source.get("SpecificCharacterSet"),
            referring_physician_name=source.get("ReferringPhysicianName"),
            **{name: source.get(keyword) for name, keyword in _ARGUMENTS.items()},
            **_series_of("RTSTRUCT"),
        )
        structures.copy_patient_and_study_information(source)
        now = datetime.now().astimezone()
        structures.OperatorsName = ""
        structures.FrameOfReferenceUID = series.frame_of_reference
        structures.PositionReferenceIndicator = source.get("PositionReferenceIndicator", "")
        structures.StructureSetLabel = "Brain lesions"
        structures.StructureSetDescription = DESCRIPTION
        structures.StructureSetDate, structures.StructureSetTime = f"{now:%Y%m%d}", f"{now:%H%M%S}"
        structures.ApprovalStatus = "UNAPPROVED"
        structures.ReferencedFrameOfReferenceSequence = [_referenced_series(series)]
        boxes = ndimage.find_objects(lesion_map.labels)
        rois = [_roi(*each, lesion_map, series) for each in zip(lesion_map.kept, boxes, strict=True)]
        keywords = ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence")
        for keyword, items in zip(keywords, zip(*rois, strict=True), strict=True):
            setattr(structures, keyword, list(items))
        _save(path, structures)
    return True


def write_sr(path: Path, lesion_map: LesionMap, series: DicomSeries, *, seg: Path | None = None) -> bool:
    """Write the measurements of the lesions as a DICOM SR (TID 1500) that refers to the segments of a SEG.

    Args:
        path: File to write.
        lesion_map: The lesions.
        series: What they were found in.
        seg: File of `write_seg`; `seg.dcm` in the same folder if None.

    Returns:
        Whether the file was written, and raises, as for `write_seg`.
    """
    with needs_extra("dicom"):
        import highdicom as hd  # noqa: PLC0415
        from pydicom import dcmread  # noqa: PLC0415
        from pydicom.sr.codedict import codes  # noqa: PLC0415
    if not _has_lesions(path, lesion_map, series):
        return False
    segmentation = dcmread(seg or path.with_name(DICOM_SEG), stop_before_pixels=True)
    observer = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=hd.UID.from_uuid(str(uuid5(NAMESPACE_URL, PROGRAM))),
        name=PROGRAM,
        manufacturer_name=PROGRAM,
        model_name=DESCRIPTION,
    )
    device = hd.sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=observer)
    with _naming(series):
        report = hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=device),
            procedure_reported=hd.sr.CodedConcept("24590-2", "LN", "MR Brain"),
            imaging_measurements=[_measurements(record, segmentation, series) for record in lesion_map.kept],
            title=codes.DCM.ImagingMeasurementReport,
        )
        document = hd.sr.Comprehensive3DSR(
            evidence=[segmentation], content=report, is_complete=True, **_series_of("SR")
        )
        _save(path, document)
    return True


def write_seg_nrrd(path: Path, lesion_map: LesionMap) -> None:
    """Write the lesions as a `.seg.nrrd` file, which 3D Slicer opens as a segmentation with named segments.

    Without lesions it has no segments. The keys are those of Slicer's vtkMRMLSegmentationStorageNode.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(lesion_map.labels.T))
    affine, spacing = LPS @ lesion_map.grid.affine, lesion_map.grid.spacing
    image.SetSpacing(spacing)
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    keys = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
        "Segmentation_Description": DESCRIPTION,
    }
    for index, (record, box) in enumerate(
        zip(lesion_map.kept, ndimage.find_objects(lesion_map.labels), strict=True)
    ):
        keys |= {
            f"Segment{index}_{key}": value
            for key, value in {
                "ID": f"Lesion_{record.number}",
                "Name": lesion_name(record),
                "NameAutoGenerated": "0",
                "Color": " ".join(f"{value / 255:.6f}" for value in lesion_colour(record.number)),
                "ColorAutoGenerated": "0",
                "LabelValue": str(record.number),
                "Layer": "0",
                "Extent": " ".join(f"{axis.start} {axis.stop - 1}" for axis in box),
                "Tags": f"{_SLICER_TAGS}|",
            }.items()
        }
    for key, value in keys.items():
        image.SetMetaData(key, value)
    with atomic_path(path) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True)


def lesion_name(record: LesionRecord) -> str:
    """Return the name of a lesion in every file: "Lesion 1"."""
    return f"Lesion {record.number}"


def lesion_colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a lesion by its number: red, green and blue, 0 to 255."""
    lightness, saturation = ((1.0, 0.85), (0.75, 1.0), (1.0, 0.5))[number % 3]
    red, green, blue = colorsys.hsv_to_rgb(_HUE_STEP * (number - 1) % 1, saturation, lightness)
    return round(255 * red), round(255 * green), round(255 * blue)


def outlines(mask: NDArray[np.bool_]) -> list[Outline]:
    """Return the closed polygons that enclose exactly the foreground of a slice, shape (i, j).

    There is one for each part that is connected by edges. Pixel (i, j) reaches from i - 0.5 to i + 0.5.
    """
    parts, _ = ndimage.label(mask)
    polygons = []
    for part, box in enumerate(ndimage.find_objects(parts), start=1):
        ring, *holes = sorted(_loops(parts[box] == part), key=min)
        for hole in holes:
            ring = _join(ring, hole)
        corners = np.array(ring, dtype=np.float64)
        before, after = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
        bends = np.any(before != after, axis=1)
        polygons.append(corners[bends] + [axis.start - 0.5 for axis in box])
    return polygons


_Corner = tuple[int, int]


def _loops(part: NDArray[np.bool_]) -> list[list[_Corner]]:
    """Return the borders of a part, step by step along the pixels' edges: around it, and around each hole.

    Pixel (i, j) has its corners at (i, j) and (i + 1, j + 1), and the foreground is on the same side of every
    step. Where two steps leave a corner, the turn towards the foreground keeps to the same pixel.
    """
    padded = np.pad(part, 1)
    steps: dict[_Corner, list[_Corner]] = defaultdict(list)
    # The neighbour that is background, the corner that the step starts at, and the step.
    for neighbour, start, step in (
        ((0, -1), (0, 0), (1, 0)),
        ((1, 0), (1, 0), (0, 1)),
        ((0, 1), (1, 1), (-1, 0)),
        ((-1, 0), (0, 1), (0, -1)),
    ):
        border = part & ~np.roll(padded, [-neighbour[0], -neighbour[1]], axis=(0, 1))[1:-1, 1:-1]
        for i, j in np.argwhere(border).tolist():
            steps[i + start[0], j + start[1]].append(step)
    loops = []
    while steps:
        start = corner = min(steps)
        step, loop = steps[corner][0], list[_Corner]()
        while not loop or corner != start:
            turned = (-step[1], step[0])
            step = turned if turned in steps[corner] else steps[corner][0]
            steps[corner].remove(step)
            if not steps[corner]:
                del steps[corner]
            loop.append(corner)
            corner = (corner[0] + step[0], corner[1] + step[1])
        loops.append(loop)
    return loops


def _join(ring: list[_Corner], hole: list[_Corner]) -> list[_Corner]:
    """Return a ring with the hole joined to it by a channel along i, from the hole's lowest corner.

    Between that corner and the first of the ring's all four pixels around a corner are foreground: holes are
    joined from the lowest corner upwards, and what is connected by corners is one hole.
    """
    first = hole.index(min(hole))
    i, j = hole[first]
    corners = set(ring)
    while (i, j) not in corners:
        i -= 1
    place = ring.index((i, j))
    return [*ring[: place + 1], *hole[first:], *hole[: first + 1], *ring[place:]]


def _roi(record: LesionRecord, box: Box, lesion_map: LesionMap, series: DicomSeries) -> tuple["Dataset", ...]:
    """Return a lesion's items of the three sequences: its description, its contours, its observation."""
    from pydicom import Dataset  # noqa: PLC0415

    i, j, k = (axis.start for axis in box)
    affine, contours = LPS @ lesion_map.grid.affine, []
    for offset, mask in enumerate(np.moveaxis(lesion_map.labels[box] == record.number, 2, 0)):
        for outline in outlines(mask):
            corners = np.insert(np.add(outline, (i, j)), 2, k + offset, axis=1)
            contour = Dataset()
            contour.ContourImageSequence = [_reference(series, k + offset)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(corners)
            contour[_CONTOUR_DATA] = _decimals(apply_affine(affine, corners))
            contours.append(contour)
    roi, shape, observation = Dataset(), Dataset(), Dataset()
    roi.ROINumber = shape.ReferencedROINumber = observation.ReferencedROINumber = record.number
    roi.ReferencedFrameOfReferenceUID = series.frame_of_reference
    roi.ROIName = lesion_name(record)
    roi.ROIDescription = DESCRIPTION
    roi.ROIVolume = f"{record.volume_mm3 / 1000:.6g}"  # cm3
    roi.ROIGenerationAlgorithm = "AUTOMATIC"
    roi.ROIGenerationDescription = DESCRIPTION
    shape.ROIDisplayColor = list(lesion_colour(record.number))
    shape.ContourSequence = contours
    observation.ObservationNumber = record.number
    observation.ROIObservationDescription = DESCRIPTION
    observation.RTROIInterpretedType = ""  # that it is a target is for a person to say
    observation.ROIInterpreter = ""
    return roi, shape, observation


def _decimals(points: NDArray[np.float64]) -> "RawDataElement":
    """Return points as ContourData, encoded: pydicom would check every number, for seconds."""
    from pydicom.dataelem import RawDataElement  # noqa: PLC0415
    from pydicom.tag import Tag  # noqa: PLC0415

    text = "\\".join(f"{value:.4f}" for value in points.ravel())
    value = f"{text:{len(text) + len(text) % 2}}".encode()
    return RawDataElement(Tag(_CONTOUR_DATA), "DS", len(value), value, 0, True, True)


def _referenced_series(series: DicomSeries) -> "Dataset":
    """Return the frame of reference with the study, the series and its instances, as RTSTRUCT nests them."""
    from pydicom import Dataset  # noqa: PLC0415

    frame_of_reference, study, its_series = Dataset(), Dataset(), Dataset()
    frame_of_reference.FrameOfReferenceUID = series.frame_of_reference
    frame_of_reference.RTReferencedStudySequence = [study]
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY_CLASS, series.study_uid
    study.RTReferencedSeriesSequence = [its_series]
    its_series.SeriesInstanceUID = series.uid
    its_series.ContourImageSequence = [_instance(header) for header in series.headers]
    return frame_of_reference


def _reference(series: DicomSeries, k: int) -> "Dataset":
    """Return the reference to the instance, or the frame of a multi-frame one, that slice k comes from."""
    file, frame = series.frames[k]
    item = _instance(series.headers[file])
    if "NumberOfFrames" in series.headers[file]:
        item.ReferencedFrameNumber = frame
    return item


def _instance(header: "Dataset") -> "Dataset":
    from pydicom import Dataset  # noqa: PLC0415

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def _segment(record: LesionRecord) -> "SegmentDescription":
    import highdicom as hd  # noqa: PLC0415
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    algorithm = hd.AlgorithmIdentificationSequence(
        name=PROGRAM, family=codes.DCM.ArtificialIntelligence, version=__version__, source="sgnet-nnunet"
    )
    return hd.seg.SegmentDescription(
        segment_number=record.number,
        segment_label=lesion_name(record),
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.NeoplasmMetastatic,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=hd.UID(),
        tracking_id=lesion_name(record),
        anatomic_regions=[codes.SCT.Brain],
        display_color=hd.color.CIELabColor.from_rgb(*lesion_colour(record.number)),
    )


def _measurements(
    record: LesionRecord, segmentation: "Dataset", series: DicomSeries
) -> "VolumetricROIMeasurementsAndQualitativeEvaluations":
    import highdicom as hd  # noqa: PLC0415
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    side = {"left": codes.SCT.Left, "right": codes.SCT.Right}.get(record.hemisphere)
    lengths = (
        (codes.SCT.LongAxis, None, record.diameter_axial_mm),
        (codes.SCT.ShortAxis, None, record.perpendicular_mm),
        (codes.SCT.Diameter, codes.SCT.Maximum, record.diameter_3d_mm),
    )
    segment = segmentation.SegmentSequence[record.number - 1]
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(segment.TrackingUID, segment.TrackingID),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=record.number,
            source_series=hd.sr.SourceSeriesForSegmentation(series.uid),
        ),
        finding_category=codes.SCT.MorphologicallyAbnormalStructure,
        finding_type=codes.SCT.NeoplasmMetastatic,
        finding_sites=[hd.sr.FindingSite(codes.SCT.Brain, laterality=side)],
        algorithm_id=hd.sr.AlgorithmIdentification(PROGRAM, __version__, parameters=["research use only"]),
        measurements=[
            hd.sr.Measurement(codes.SCT.Volume, round(record.volume_mm3, 3), codes.UCUM.CubicMillimeter),
            *(
                hd.sr.Measurement(name, round(length, 3), codes.UCUM.Millimeter, derivation=derivation)
                for name, derivation, length in lengths
            ),
        ],
    )


def _has_lesions(path: Path, lesion_map: LesionMap, series: DicomSeries) -> bool:
    """Return whether there is something to write; log if not."""
    if not series.volume.grid.same_place_as(lesion_map.grid):
        raise ValueError(f"the lesions' grid {lesion_map.grid} is not that of the series")
    if not lesion_map.kept:
        logger.warning("%s: not written, no lesion was found", path.name)
    return bool(lesion_map.kept)


def _headers(series: DicomSeries) -> list["Dataset"]:
    """Return the headers; in the first, which highdicom copies, lacking and invalid tags become empty."""
    if not series.frame_of_reference:
        raise InputFileError(_name(series), "has no FrameOfReferenceUID", _REMEDY)
    first, *others = series.headers
    first = deepcopy(first)
    for keyword in _ARGUMENTS.values():
        if not _is_valid(keyword, first.get(keyword)):
            setattr(first, keyword, "")
    return [first, *others]


def _is_valid(keyword: str, value: object) -> bool:
    if keyword == "PatientSex":
        return value in {"M", "F", "O"}
    if keyword not in _TIMES:
        return value is not None
    try:
        datetime.strptime(str(value).partition(".")[0], _TIMES[keyword])
    except ValueError:
        return False
    return True


def _series_of(modality: str) -> dict[str, Any]:
    """Return the arguments that describe a new series, and the program that makes it."""
    import highdicom as hd  # noqa: PLC0415

    return {
        "series_instance_uid": hd.UID(),
        "series_number": SERIES_NUMBERS[modality],
        "series_description": f"Brain lesions, {DESCRIPTION}",
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": PROGRAM,
        "manufacturer_model_name": "sgnet-nnunet",
        "software_versions": __version__,
        "device_serial_number": "none",
    }


def _name(series: DicomSeries) -> str:
    """Return what an error calls the series: the names of its files may hold the patient's."""
    return f"DICOM series {series.number}".rstrip()


@contextmanager
def _naming(series: DicomSeries) -> Iterator[None]:
    """Turn what highdicom says against a series into an InputFileError, without the values of tags.

    Its warnings quote the patient's name, and are kept silent.
    """
    logging.getLogger("highdicom").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        text = " ".join(str(error).split())
        if isinstance(error, ValueError):
            text = re.sub(r"(['\"]).*?\1", "...", text)
        problem = f"no DICOM object can refer to its series ({text})"
        raise InputFileError(_name(series), problem, _REMEDY) from error


def _save(path: Path, dataset: "Dataset") -> None:
    with atomic_path(path) as partial:
        dataset.save_as(partial, enforce_file_format=True)
