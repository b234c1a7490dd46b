"""Write MR series of DICOM, classic and enhanced multi-frame, made from a volume."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat
from scipy import ndimage

from sgnet_nnunet.nifti import Volume

LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

T1CE = {
    "SeriesDescription": "t1_mprage_sag_post_gd",
    "SeriesNumber": 5,
    "ScanningSequence": ["GR", "IR"],
    "EchoTime": 2.9,
    "RepetitionTime": 1900.0,
    "InversionTime": 900.0,
    "ContrastBolusAgent": "GADOVIST",
}
FLAIR = {
    "SeriesDescription": "t2_tirm_tra_dark-fluid",
    "SeriesNumber": 3,
    "ScanningSequence": ["SE", "IR"],
    "EchoTime": 94.0,
    "RepetitionTime": 9000.0,
    "InversionTime": 2500.0,
}
T1 = T1CE | {"SeriesDescription": "t1_mprage_sag", "SeriesNumber": 2, "ContrastBolusAgent": ""}
T2 = {"SeriesDescription": "t2_tse_tra", "SeriesNumber": 4, "ScanningSequence": "SE", "EchoTime": 100.0,
      "RepetitionTime": 5000.0}  # fmt: skip
DWI = {"SeriesDescription": "ep2d_diff_3scan_trace", "SeriesNumber": 6, "ScanningSequence": "EP",
       "EchoTime": 80.0, "RepetitionTime": 6000.0}  # fmt: skip
LOCALIZER = {"SeriesDescription": "localizer", "SeriesNumber": 1, "ScanningSequence": "GR", "EchoTime": 4.0,
             "RepetitionTime": 8.0, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}  # fmt: skip


@dataclass
class Patient:
    """Whom a study is of; one object for the series of one visit. Names are invented."""

    name: str = "Doe^Jane"
    id: str = "MRN-004711"
    birth_date: str = "19500102"
    study_uid: str = field(default_factory=generate_uid)
    frame_of_reference: str = field(default_factory=generate_uid)


def smooth_volume(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int, int] = (20, 16, 10),
    spacing: tuple[float, float, float] = (1.0, 1.2, 2.5),
    turn: np.ndarray | None = None,
) -> Volume:
    """Return smooth random grey values, int16; right-handed in LPS, turned by a 3x3 rotation."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    data = np.rint(1000 * (noise - noise.min()) / np.ptp(noise)).astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) @ np.diag(spacing)
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    return Volume(data, LPS_OF_RAS @ affine)


def _common(patient: Patient, tags: dict[str, Any], sop_class: str, series_uid: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID = patient.name, patient.id
    dataset.PatientBirthDate, dataset.PatientSex = patient.birth_date, "O"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = patient.study_uid, series_uid
    dataset.FrameOfReferenceUID = patient.frame_of_reference
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "", ""
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20240203"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "101500"
    dataset.Modality, dataset.Manufacturer = "MR", "Invented"
    dataset.ManufacturerModelName, dataset.DeviceSerialNumber = "Phantom", "0"
    dataset.SoftwareVersions, dataset.PositionReferenceIndicator = "1", ""
    dataset.MagneticFieldStrength, dataset.PatientPosition = 3.0, "HFS"
    dataset.InstanceNumber = 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def _geometry(volume: Volume) -> tuple[np.ndarray, list[float], list[float]]:
    """Return the 4x4 affine in LPS, ImageOrientationPatient and PixelSpacing (rows, columns)."""
    affine = LPS_OF_RAS @ volume.affine
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    cosines = (affine[:3, :2] / sizes[:2]).T.ravel()
    return affine, [_ds(each) for each in cosines], [_ds(sizes[1]), _ds(sizes[0])]


def _ds(value: float) -> DSfloat:
    """Return a decimal string of 16 characters at most, as the standard asks."""
    return DSfloat(float(value), auto_format=True)


def _stored(volume: Volume) -> tuple[np.ndarray, float, float]:
    """Return the values as 12 bits unless they are integers already, shape (k, j, i), slope, intercept."""
    data = volume.data.transpose(2, 1, 0)
    if data.dtype.kind in "iu":
        return np.ascontiguousarray(data.astype("<i2" if data.min() < 0 else "<u2")), 1.0, 0.0
    low, high = float(data.min()), float(data.max())
    slope = max((high - low) / 4095, 1e-12)
    return np.rint((data - low) / slope).astype("<u2"), slope, low


def _add_pixels(dataset: Dataset, stored: np.ndarray) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes()


def write_classic(
    folder: Path,
    volume: Volume,
    tags: dict[str, Any] = T1CE,
    *,
    patient: Patient | None = None,
    series_uid: str | None = None,
    rescale: bool = True,
) -> list[Path]:
    """Write a slice a file, in the order of the last axis; the names have the order of nothing.

    `tags` overwrite any other tag of every file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    patient, series_uid = patient or Patient(), UID(series_uid or generate_uid())
    affine, orientation, pixel_spacing = _geometry(volume)
    stored, slope, intercept = _stored(volume)
    paths = []
    for k, plane in enumerate(stored):
        dataset = _common(patient, {}, MRImageStorage, series_uid)
        dataset.InstanceNumber = k + 1
        dataset.AcquisitionNumber = 1
        dataset.SequenceVariant, dataset.ScanOptions, dataset.MRAcquisitionType = "NONE", "", "2D"
        dataset.EchoTrainLength, dataset.EchoNumbers, dataset.ImagingFrequency = 1, 1, 123.2
        dataset.ImagePositionPatient = [_ds(each) for each in affine[:3] @ [0, 0, k, 1]]
        dataset.ImageOrientationPatient, dataset.PixelSpacing = orientation, pixel_spacing
        step = float(np.linalg.norm(affine[:3, 2]))
        dataset.SliceThickness = dataset.SpacingBetweenSlices = _ds(step)
        dataset.SliceLocation, dataset.Laterality = _ds(k * step), ""
        if rescale and (slope, intercept) != (1, 0):
            dataset.RescaleSlope, dataset.RescaleIntercept = _ds(slope), _ds(intercept)
            dataset.RescaleType = "US"
        _add_pixels(dataset, plane)
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        name = f"IM{(7 * k) % 1009:04d}_{dataset.SeriesNumber}"
        dataset.save_as(folder / name, enforce_file_format=True)
        paths.append(folder / name)
    return paths


def write_enhanced(
    path: Path,
    volume: Volume,
    tags: dict[str, Any] = T1CE,
    *,
    patient: Patient | None = None,
    series_uid: str | None = None,
    order: np.ndarray | None = None,
) -> Path:
    """Write all slices as the frames of one file, in the given `order` of slices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine, orientation, pixel_spacing = _geometry(volume)
    stored, slope, intercept = _stored(volume)
    order = np.arange(len(stored)) if order is None else order
    times = {each: tags[each] for each in ("EchoTime", "InversionTime", "RepetitionTime") if each in tags}
    top = {
        key: value
        for key, value in tags.items()
        if key not in {*times, "ScanningSequence", "ContrastBolusAgent"}
    }
    dataset = _common(patient or Patient(), top, EnhancedMRImageStorage, UID(series_uid or generate_uid()))
    _add_pixels(dataset, stored[order])
    dataset.NumberOfFrames = len(order)
    _add_enhanced_modules(dataset)
    if tags.get("ContrastBolusAgent"):
        agent = _code("C-B03E7", "SRT", "Gadobutrol")
        agent.ContrastBolusAgentNumber = 1
        agent.ContrastBolusAdministrationRouteSequence = Sequence(
            [_code("47625008", "SCT", "Intravenous route")]
        )
        dataset.ContrastBolusAgentSequence = Sequence([agent])
    step = float(np.linalg.norm(affine[:3, 2]))
    dataset.SharedFunctionalGroupsSequence = Sequence([_shared(orientation, pixel_spacing, step, times)])
    frames = []
    for number, k in enumerate(order):
        frame, content, position, transform = Dataset(), Dataset(), Dataset(), Dataset()
        content.StackID, content.InStackPositionNumber = "1", int(k) + 1
        content.DimensionIndexValues = [1, int(k) + 1]
        content.FrameAcquisitionNumber = 1
        content.FrameReferenceDateTime = content.FrameAcquisitionDateTime = "20240203101500"
        content.FrameAcquisitionDuration = number + 1.0
        position.ImagePositionPatient = [_ds(each) for each in affine[:3] @ [0, 0, k, 1]]
        transform.RescaleSlope, transform.RescaleIntercept = _ds(slope), _ds(intercept)
        transform.RescaleType = "US"
        frame.FrameContentSequence = Sequence([content])
        frame.PlanePositionSequence = Sequence([position])
        frame.PixelValueTransformationSequence = Sequence([transform])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    dataset.save_as(path, enforce_file_format=True)
    return path


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _add_enhanced_modules(dataset: Dataset) -> None:
    """Add what the standard asks of an enhanced MR image beside its pixels and functional groups."""
    dimension = generate_uid()
    organization, stack, in_stack = Dataset(), Dataset(), Dataset()
    organization.DimensionOrganizationUID = dimension
    for item, pointer in ((stack, 0x00209056), (in_stack, 0x00209057)):
        item.DimensionOrganizationUID = dimension
        item.DimensionIndexPointer, item.FunctionalGroupPointer = pointer, 0x00209111
    dataset.DimensionOrganizationSequence = Sequence([organization])
    dataset.DimensionIndexSequence = Sequence([stack, in_stack])
    dataset.AcquisitionNumber, dataset.AcquisitionDateTime = 1, "20240203101500"
    dataset.AcquisitionDuration, dataset.ContentQualification = 60.0, "RESEARCH"
    dataset.ResonantNucleus, dataset.KSpaceFiltering = "1H", "NONE"
    dataset.ApplicableSafetyStandardAgency, dataset.ApplicableSafetyStandardDescription = "IEC", ""
    dataset.PulseSequenceName, dataset.MRAcquisitionType = "phantom", "3D"
    dataset.EchoPulseSequence, dataset.MultipleSpinEcho = "GRADIENT", "NO"
    dataset.MultiPlanarExcitation, dataset.PhaseContrast = "NO", "NO"
    dataset.TimeOfFlightContrast, dataset.SteadyStatePulseSequence = "NO", "NONE"
    dataset.EchoPlanarPulseSequence, dataset.SaturationRecovery = "NO", "NO"
    dataset.SpectrallySelectedSuppression, dataset.GeometryOfKSpaceTraversal = "NONE", "RECTILINEAR"
    dataset.SegmentedKSpaceTraversal, dataset.RectilinearPhaseEncodeReordering = "SINGLE", "LINEAR"
    dataset.NumberOfKSpaceTrajectories, dataset.CoverageOfKSpace = 1, "FULL"
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "NO", "00"
    dataset.PixelPresentation, dataset.VolumetricProperties = "MONOCHROME", "VOLUME"
    dataset.VolumeBasedCalculationTechnique, dataset.ComplexImageComponent = "NONE", "MAGNITUDE"
    dataset.AcquisitionContrast, dataset.PresentationLUTShape = "T1", "IDENTITY"
    dataset.AcquisitionContextSequence = Sequence([])


def _shared(
    orientation: list[float], pixel_spacing: list[float], step: float, times: dict[str, float]
) -> Dataset:
    shared, plane, pixel, kind, anatomy = (Dataset() for _ in range(5))
    plane.ImageOrientationPatient = orientation
    pixel.PixelSpacing, pixel.SliceThickness, pixel.SpacingBetweenSlices = pixel_spacing, _ds(step), step
    kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    kind.PixelPresentation, kind.VolumetricProperties = "MONOCHROME", "VOLUME"
    kind.VolumeBasedCalculationTechnique, kind.ComplexImageComponent = "NONE", "MAGNITUDE"
    kind.AcquisitionContrast = "T1"
    anatomy.FrameLaterality = "U"
    anatomy.AnatomicRegionSequence = Sequence([_code("12738006", "SCT", "Brain")])
    timing, echo, modifier = Dataset(), Dataset(), Dataset()
    timing.RepetitionTime, timing.FlipAngle, timing.EchoTrainLength = times.get("RepetitionTime", 1.0), 9.0, 1
    timing.RFEchoTrainLength, timing.GradientEchoTrainLength = 0, 1
    echo.EffectiveEchoTime = times.get("EchoTime", 1.0)
    modifier.InversionRecovery = "YES" if "InversionTime" in times else "NO"
    if "InversionTime" in times:
        modifier.InversionTimes = times["InversionTime"]
    shared.PlaneOrientationSequence = Sequence([plane])
    shared.PixelMeasuresSequence = Sequence([pixel])
    shared.MRImageFrameTypeSequence = Sequence([kind])
    shared.FrameAnatomySequence = Sequence([anatomy])
    shared.MRTimingAndRelatedParametersSequence = Sequence([timing])
    shared.MREchoSequence = Sequence([echo])
    shared.MRModifierSequence = Sequence([modifier])
    return shared


def zip_folder(folder: Path, path: Path) -> Path:
    """Pack the files of a folder into a zip file."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                archive.write(each, each.relative_to(folder))
    return path
