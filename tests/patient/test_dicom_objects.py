import shutil
import subprocess
from dataclasses import replace
from itertools import product
from pathlib import Path

import highdicom as hd
import matplotlib.path
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from dicom_series import LPS_OF_RAS, T1CE, smooth_volume, write_classic, write_enhanced
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.draw import polygon2mask

from sgnet_nnunet import __version__
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.nifti import Grid
from sgnet_nnunet.patient.dicom import DicomSeries, find_series, load_series
from sgnet_nnunet.patient.dicom_objects import (
    lesion_colour,
    outlines,
    write_rtstruct,
    write_seg,
    write_seg_nrrd,
    write_sr,
)
from sgnet_nnunet.patient.lesion_table import LesionMap, LesionRecord

SHAPE, SPACING = (24, 20, 9), (0.9, 0.9, 3.0)
TAGS = {"AccessionNumber": "A1", "ReferringPhysicianName": "Roe^R", "StudyDescription": "Head"}
LPS = LPS_OF_RAS
WRITERS = (write_seg, write_rtstruct, write_sr)
NAMES = ("seg.dcm", "rtstruct.dcm", "sr.dcm")
ORIENTATIONS = {
    "axial": np.eye(3),
    "axial, flipped": np.diag([-1.0, 1.0, -1.0]),
    "coronal": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "oblique": np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))[0],
}


def make_series(folder: Path, orientation="oblique", *, multi_frame=False, **tags) -> DicomSeries:
    """Return a series of SHAPE, written and read; a tag that is None is left out."""
    turn = ORIENTATIONS[orientation] * [1, 1, np.sign(np.linalg.det(ORIENTATIONS[orientation]))]
    rng = np.random.default_rng(0)
    volume = smooth_volume(rng, shape=SHAPE, spacing=SPACING, turn=turn)
    if multi_frame:
        write_enhanced(folder / "series.dcm", volume, order=rng.permutation(SHAPE[2]))
    else:
        write_classic(folder, volume, T1CE | TAGS)
    (found,) = find_series(folder)
    series = load_series(found)
    for header, (keyword, value) in product(series.headers, tags.items()):
        if value is None:
            header.pop(keyword)
        else:
            setattr(header, keyword, value)
    return series


def make_lesions(series: DicomSeries, *, seed: int = 0, empty: bool = False) -> LesionMap:
    """Return lesions drawn with holes and branches, and a ball, a ring and a single voxel."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, dtype=np.uint16)
    labels[2:10, 2:11, 1:5] = rng.random((8, 9, 4)) < 0.6
    labels[14:21, 3:10, 2:4] = 2
    labels[16:19, 5:8, 2:4] = 0
    labels[17, 6, 2:4] = 2  # within the hole
    labels[20, 16, 7] = 3
    if empty:
        labels[:] = 0
    records = tuple(
        LesionRecord(
            number=number, volume_mm3=np.sum(labels == number) * series.volume.grid.voxel_mm3,
            diameter_axial_mm=9.5 / number, perpendicular_mm=7.25 / number, diameter_3d_mm=11.0 / number,
            centroid_mm=(0.0, 0.0, 0.0), centroid_voxel=(0.0, 0.0, 0.0), location="",
            hemisphere=("left", "right", "midline", "left")[number - 1], mean_probability=0.9,
            max_probability=1.0, kept=number < 4,
        )
        for number in range(1, 5)
        if not (empty and number < 4)
    )  # fmt: skip
    return LesionMap(labels=labels, grid=series.volume.grid, records=records)


@pytest.fixture(scope="module", params=[("axial, flipped", False), ("oblique", False), ("oblique", True)])
def written(request, tmp_path_factory):
    """A series, its lesions, and the folder with the three objects."""
    orientation, multi_frame = request.param
    folder = tmp_path_factory.mktemp("objects")
    series = make_series(folder / "series", orientation, multi_frame=multi_frame)
    lesions = make_lesions(series)
    for write, name in zip(WRITERS, NAMES, strict=True):
        assert write(folder / name, lesions, series)
    return series, lesions, folder


def test_highdicom_reads_the_seg_on_the_same_grid_voxel_for_voxel(written):
    _, lesions, folder = written
    seg = hd.seg.segread(folder / "seg.dcm")
    volume = seg.get_volume(combine_segments=True)
    read = Grid(volume.spatial_shape, LPS @ volume.affine)
    values = np.zeros_like(lesions.labels)
    inside = np.argwhere(lesions.labels)
    places = np.linalg.solve(read.affine, np.c_[lesions.grid.world(inside), np.ones(len(inside))].T)[:3].T
    np.testing.assert_allclose(places, np.rint(places), atol=1e-4)
    values[tuple(inside.T)] = volume.array[tuple(np.rint(places).astype(int).T)]
    np.testing.assert_array_equal(values, lesions.labels)
    assert np.count_nonzero(volume.array) == len(inside)
    assert seg.segmentation_type == hd.seg.SegmentationTypeValues.BINARY


def test_seg_refers_each_frame_to_the_slice_that_it_was_found_in(written):
    series, _, folder = written
    seg = hd.seg.segread(folder / "seg.dcm")
    for groups in seg.PerFrameFunctionalGroupsSequence:
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        k = round(np.linalg.solve(series.volume.affine, LPS @ [*position, 1])[2])
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        file, frame = series.frames[k]
        assert source.ReferencedSOPInstanceUID == series.headers[file].SOPInstanceUID
        assert source.get("ReferencedFrameNumber", 1) == frame


def test_segments_are_named_coded_and_coloured(written):
    seg = hd.seg.segread(written[2] / "seg.dcm")
    segments = [seg.get_segment_description(number) for number in seg.segment_numbers]
    assert [segment.segment_label for segment in segments] == ["Lesion 1", "Lesion 2", "Lesion 3"]
    segment = segments[1]
    assert segment.segmented_property_category.value == "49755003"
    assert segment.segmented_property_type.value == "14799000"
    assert segment.algorithm_identification.version == __version__
    colour = hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb(clip=True)
    np.testing.assert_allclose(colour, lesion_colour(2), atol=2)


@pytest.fixture
def series_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("series")


def rasterised(rtstruct, series, rasterise) -> np.ndarray:
    """Return the labels that the contours enclose, by an independent function of polygon and shape."""
    labels = np.zeros(SHAPE, dtype=np.uint16)
    slice_of = {
        (series.headers[file].SOPInstanceUID, frame if len(series.headers) == 1 else None): k
        for k, (file, frame) in enumerate(series.frames)
    }
    for roi in rtstruct.ROIContourSequence:
        for contour in roi.ContourSequence:
            points = np.reshape(np.array(contour.ContourData, dtype=float), (-1, 3))
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            assert len(points) == contour.NumberOfContourPoints
            indices = np.linalg.solve(series.volume.affine, LPS @ np.c_[points, np.ones(len(points))].T)[:3].T
            image = contour.ContourImageSequence[0]
            k = slice_of[image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")]
            np.testing.assert_allclose(indices[:, 2], k, atol=1e-3)
            labels[..., k][rasterise(indices[:, :2])] = roi.ReferencedROINumber
    return labels


def by_skimage(points: np.ndarray) -> np.ndarray:
    return polygon2mask(SHAPE[:2], points)


def by_matplotlib(points: np.ndarray) -> np.ndarray:
    centres = np.stack(np.indices(SHAPE[:2]), axis=-1).reshape(-1, 2)
    return matplotlib.path.Path(points).contains_points(centres).reshape(SHAPE[:2])


@pytest.mark.parametrize("rasterise", [by_skimage, by_matplotlib])
def test_contours_rasterise_back_to_each_lesion(written, rasterise):
    series, lesions, folder = written
    labels = rasterised(pydicom.dcmread(folder / "rtstruct.dcm"), series, rasterise)
    np.testing.assert_array_equal(labels, lesions.labels)


def test_rois_are_named_numbered_and_coloured_and_refer_to_the_series(written):
    series, lesions, folder = written
    rtstruct = pydicom.dcmread(folder / "rtstruct.dcm")
    assert [roi.ROIName for roi in rtstruct.StructureSetROISequence] == ["Lesion 1", "Lesion 2", "Lesion 3"]
    assert [tuple(roi.ROIDisplayColor) for roi in rtstruct.ROIContourSequence] == [
        lesion_colour(number) for number in (1, 2, 3)
    ]
    (reference,) = rtstruct.ReferencedFrameOfReferenceSequence
    its_series = reference.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert its_series.SeriesInstanceUID == series.uid
    assert [item.ReferencedSOPInstanceUID for item in its_series.ContourImageSequence] == [
        header.SOPInstanceUID for header in series.headers
    ]
    assert rtstruct.ApprovalStatus == "UNAPPROVED"
    volume = sum(float(roi.ROIVolume) for roi in rtstruct.StructureSetROISequence)
    assert volume == pytest.approx(np.count_nonzero(lesions.labels) * lesions.grid.voxel_mm3 / 1000, rel=1e-4)


def test_sr_holds_the_measurements_and_refers_to_the_segments(written):
    _, lesions, folder = written
    seg = pydicom.dcmread(folder / "seg.dcm")
    groups = hd.sr.srread(folder / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert len(groups) == 3
    for record, group, segment in zip(lesions.kept, groups, seg.SegmentSequence, strict=True):
        values = {each.name.meaning: each.value for each in group.get_measurements()}
        assert values == pytest.approx(
            {
                "Volume": record.volume_mm3,
                "Long axis": record.diameter_axial_mm,
                "Short axis": record.perpendicular_mm,
                "Diameter": record.diameter_3d_mm,
            },
            abs=1e-3,
        )
        assert group.tracking_uid == segment.TrackingUID
        reference = group.referenced_segment
        assert reference.referenced_sop_instance_uid == seg.SOPInstanceUID
        assert reference.referenced_segment_numbers == [record.number]


@pytest.mark.parametrize("name", NAMES)
def test_objects_have_the_tags_of_patient_study_and_space(written, name):
    series, _, folder = written
    made, header = pydicom.dcmread(folder / name), series.headers[0]
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "PatientSex",
        "StudyInstanceUID",
        "StudyDate",
    ):
        assert made[keyword].value == header[keyword].value
    if name != "sr.dcm":
        assert made.FrameOfReferenceUID == series.frame_of_reference
    assert made.SeriesInstanceUID != series.uid
    assert "research use only" in made.SeriesDescription


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy: apt-get install dicom3tools")
def test_dciodvfy_finds_no_error(written, name):
    report = subprocess.run(
        ["dciodvfy", written[2] / name], capture_output=True, text=True, check=False
    ).stderr
    assert not [line for line in report.splitlines() if line.startswith("Error")]


@pytest.mark.parametrize(("write", "name"), [*zip(WRITERS, NAMES, strict=True)])
def test_without_lesions_no_object_is_written(tmp_path, series_folder, caplog, write, name):
    series = make_series(series_folder)
    assert not write(tmp_path / name, make_lesions(series, empty=True), series)
    assert not list(tmp_path.iterdir())
    assert "no lesion" in caplog.text


def test_anonymised_series_without_tags_or_with_invalid_ones_is_accepted(tmp_path, series_folder):
    absent = ("PatientName", "PatientID", "AccessionNumber", "StudyID", "StudyTime", "ReferringPhysicianName")
    series = make_series(
        series_folder, PatientBirthDate="ANON", PatientSex="X", StudyDate="", **dict.fromkeys(absent)
    )
    lesions = make_lesions(series)
    for write, name in zip(WRITERS, NAMES, strict=True):
        assert write(tmp_path / name, lesions, series)
        assert pydicom.dcmread(tmp_path / name).StudyInstanceUID == series.study_uid
    assert "PatientName" not in series.headers[0]


def test_names_that_highdicom_warns_of_are_not_shown(tmp_path, series_folder, caplog, recwarn):
    series = make_series(
        series_folder, PatientName="Jane Doe", ReferringPhysicianName="Roe\\Poe", PatientSex="Doe"
    )
    lesions = make_lesions(series)
    caplog.clear()
    recwarn.clear()
    for write, name in zip(WRITERS, NAMES, strict=True):
        write(tmp_path / name, lesions, series)
    assert "Doe" not in caplog.text + " ".join(str(each.message) for each in recwarn)
    assert pydicom.dcmread(tmp_path / "seg.dcm").PatientName == "Jane Doe"


@pytest.mark.parametrize("write", [write_seg, write_rtstruct])
def test_series_without_frame_of_reference_is_refused(tmp_path, series_folder, write):
    series = make_series(series_folder, FrameOfReferenceUID=None)
    with pytest.raises(InputFileError, match=r"^DICOM series 5: has no FrameOfReferenceUID; "):
        write(tmp_path / "made.dcm", make_lesions(series), series)
    assert not list(tmp_path.iterdir())


def test_lesions_on_another_grid_are_an_error(tmp_path, series_folder):
    with pytest.raises(ValueError, match="grid"):
        write_seg(
            tmp_path / "seg.dcm",
            make_lesions(make_series(series_folder, "coronal")),
            make_series(series_folder / "other"),
        )


@pytest.mark.parametrize("write", WRITERS)
def test_missing_package_is_named_with_its_extra(tmp_path, series_folder, without_module, write):
    series = make_series(series_folder)
    lesions = make_lesions(series)
    without_module("highdicom")
    with pytest.raises(SGNetError, match=r"highdicom is not installed; .*sgnet-nnunet\[dicom\]"):
        write(tmp_path / "made.dcm", lesions, series)


@pytest.mark.parametrize("seed", range(20))
def test_outlines_enclose_the_area_of_any_mask(seed):
    rng = np.random.default_rng(seed)
    mask = ndimage.zoom(rng.random((6, 5)), 3, order=1, grid_mode=True, mode="nearest") > rng.uniform(
        0.3, 0.7
    )
    mask ^= rng.random(mask.shape) < rng.choice([0, 0.2, 0.5])
    polygons = outlines(mask)
    areas = [np.sum(x * np.roll(y, -1) - y * np.roll(x, -1)) / 2 for x, y in (each.T for each in polygons)]
    assert sum(areas) == np.count_nonzero(mask)
    assert len(polygons) == ndimage.label(mask)[1]
    centres = np.stack(np.indices(mask.shape), axis=-1).reshape(-1, 2)
    inside = sum(matplotlib.path.Path(each).contains_points(centres).reshape(mask.shape) for each in polygons)
    np.testing.assert_array_equal(inside, mask.astype(int))


def test_colours_of_twelve_lesions_can_be_told_apart():
    lab = rgb2lab(np.array([lesion_colour(number) for number in range(1, 13)])[None] / 255)[0]
    distances = np.linalg.norm(lab[:, None] - lab, axis=2) + 1e3 * np.eye(len(lab))
    assert distances.min() > 20  # ten times what is just noticed


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_segmentation_for_slicer_has_its_keys_on_the_same_grid(tmp_path, series_folder, orientation):
    lesions = make_lesions(make_series(series_folder, orientation))
    write_seg_nrrd(tmp_path / "lesions.seg.nrrd", lesions)
    image = sitk.ReadImage(str(tmp_path / "lesions.seg.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, lesions.labels)
    corner = [n - 1 for n in SHAPE]
    there = LPS[:3, :3] @ image.TransformIndexToPhysicalPoint(corner)
    np.testing.assert_allclose(there, lesions.grid.world(np.array(corner)), atol=1e-4)
    values = {key: image.GetMetaData(key) for key in image.GetMetaDataKeys()}
    assert [values[f"Segment{n}_Name"] for n in range(3)] == ["Lesion 1", "Lesion 2", "Lesion 3"]
    assert [values[f"Segment{n}_LabelValue"] for n in range(3)] == ["1", "2", "3"]
    assert values["Segment2_Extent"] == "20 20 16 16 7 7"
    assert values["Segment1_Layer"] == "0"
    assert "Segment3_ID" not in values
    assert np.array(values["Segment0_Color"].split(), dtype=float) * 255 == pytest.approx(
        lesion_colour(1), abs=1
    )


def test_segmentation_for_slicer_of_a_sheared_grid_keeps_its_place(tmp_path, series_folder):
    lesions = make_lesions(make_series(series_folder))
    affine = lesions.grid.affine @ np.array([[1, 0, 0.2, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    write_seg_nrrd(tmp_path / "lesions.seg.nrrd", replace(lesions, grid=Grid(SHAPE, affine)))
    image = sitk.ReadImage(str(tmp_path / "lesions.seg.nrrd"))
    there = LPS[:3, :3] @ image.TransformIndexToPhysicalPoint((3, 5, 7))
    np.testing.assert_allclose(there, (affine @ [3, 5, 7, 1])[:3], atol=1e-4)


def test_segmentation_for_slicer_without_lesions_is_empty(tmp_path, series_folder):
    write_seg_nrrd(tmp_path / "lesions.seg.nrrd", make_lesions(make_series(series_folder), empty=True))
    image = sitk.ReadImage(str(tmp_path / "lesions.seg.nrrd"))
    assert not sitk.GetArrayFromImage(image).any()
    assert not [key for key in image.GetMetaDataKeys() if key.startswith("Segment0")]
