"""DICOM series: what is read, chosen and refused."""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dcm2niix
import numpy as np
import pytest
import SimpleITK
from dicom_series import (
    DWI,
    FLAIR,
    LOCALIZER,
    T1,
    T1CE,
    T2,
    Patient,
    smooth_volume,
    write_classic,
    write_enhanced,
    zip_folder,
)
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2K, ImplicitVRLittleEndian, RLELossless, generate_uid
from scipy.spatial.transform import Rotation

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.nifti import Volume, read_image
from sgnet_nnunet.patient.dicom import DicomSeries, find_series, load_series
from sgnet_nnunet.patient.scans import read_scan
from sgnet_nnunet.patient.sequences import choose_series


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def volume(rng: np.random.Generator) -> Volume:
    return smooth_volume(rng, shape=(9, 8, 6), turn=Rotation.random(rng=rng).as_matrix())


def load(path: Path) -> DicomSeries:
    (series,) = find_series(path)
    return load_series(series)


def refusal(path: Path) -> str:
    with pytest.raises(InputFileError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert caught.value.path == path
    return caught.value.problem


def change(paths: list[Path], edit: Callable[[Dataset, int], Any]) -> None:
    """Rewrite files after `edit` of each data set, called with its index."""
    for index, path in enumerate(paths):
        dataset = dcmread(path)
        edit(dataset, index)
        dataset.save_as(path)


def same(series: DicomSeries, volume: Volume) -> bool:
    assert series.volume.data.dtype == np.float32
    assert np.allclose(series.volume.affine, volume.affine, atol=1e-6)
    return bool(np.allclose(series.volume.data, volume.data, rtol=0, atol=1e-3))


def test_a_classic_series_comes_back_with_its_place_and_its_files_in_order(tmp_path: Path, volume: Volume):
    paths = write_classic(tmp_path / "series", volume)
    series = load(tmp_path / "series")
    assert same(series, volume)
    assert series.files == tuple(paths)
    assert series.frames == tuple((k, 1) for k in range(6))
    for k, header in enumerate(series.headers):
        assert header.InstanceNumber == k + 1
        assert "PixelData" not in header
    assert (series.number, series.description, series.modality) == ("5", T1CE["SeriesDescription"], "MR")


def test_an_enhanced_series_comes_back_whatever_the_order_of_its_frames(
    tmp_path: Path, volume: Volume, rng: np.random.Generator
):
    order = rng.permutation(6)
    path = write_enhanced(tmp_path / "series" / "one.dcm", volume, order=order)
    for named in (path, path.parent):
        series = load(named)
        assert same(series, volume)
        assert series.frames == tuple((0, int(np.flatnonzero(order == k)[0]) + 1) for k in range(6))
        assert len(series.headers) == 1


def test_slices_run_along_the_normal_and_keep_their_place_if_they_were_stored_against_it(
    tmp_path: Path, volume: Volume
):
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, 2] * 5
    affine[:3, 2] *= -1
    against = Volume(volume.data[:, :, ::-1].copy(), affine)
    write_classic(tmp_path, against)
    assert same(load(tmp_path), volume)


def test_values_are_rescaled_within_half_a_step(tmp_path: Path, volume: Volume):
    volume = Volume((volume.data * 0.37 - 120.5).astype(np.float32), volume.affine)
    write_classic(tmp_path, volume)
    step = np.ptp(volume.data) / 4095
    assert np.allclose(load(tmp_path).volume.data, volume.data, rtol=0, atol=0.51 * step)


def test_every_frame_is_rescaled_by_its_own_slope(tmp_path: Path, volume: Volume):
    path = write_enhanced(tmp_path / "one.dcm", volume)
    dataset = dcmread(path)
    for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.PixelValueTransformationSequence[0].RescaleSlope = k + 1
        frame.PixelValueTransformationSequence[0].RescaleIntercept = -100 * k
    dataset.save_as(path)
    assert np.array_equal(load(path).volume.data, volume.data * np.arange(1, 7) - 100 * np.arange(6))


def save_implicit(dataset: Dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian


def add_overlay(dataset: Dataset) -> None:
    """Have 12 bits of value, and an overlay in one of the others."""
    stored = dataset.pixel_array
    dataset.BitsStored, dataset.HighBit = 12, 11
    dataset.PixelData = (stored | (stored % 2 << 14)).astype("<u2").tobytes()


@pytest.mark.parametrize("kind", ["signed", "implicit", "rle", "lossless jpeg", "overlay"])
def test_stored_values_are_decoded(tmp_path: Path, volume: Volume, kind: str):
    if kind == "signed":
        volume = Volume((volume.data - 500).astype(np.int16), volume.affine)
    edit = {
        "signed": lambda _: None,
        "implicit": save_implicit,
        "rle": lambda dataset: dataset.compress(RLELossless),
        "lossless jpeg": lambda dataset: compress_by_itk(dataset, tmp_path / "jpeg.dcm"),
        "overlay": add_overlay,
    }[kind]
    for path in write_classic(tmp_path / "series", volume):
        dataset = dcmread(path)
        edit(dataset)
        implicit = dataset.file_meta.TransferSyntaxUID.is_implicit_VR
        dataset.save_as(path, implicit_vr=implicit, little_endian=True)
    assert same(load(tmp_path / "series"), volume)


def compress_by_itk(dataset: Dataset, path: Path) -> None:
    image = SimpleITK.GetImageFromArray(dataset.pixel_array[None])
    writer = SimpleITK.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.SetUseCompression(True)
    writer.SetCompressor("JPEG")
    writer.Execute(image)
    written = dcmread(path)
    assert written.file_meta.TransferSyntaxUID in {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
    dataset.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID
    dataset["PixelData"] = written["PixelData"]


def test_monochrome1_is_turned_to_bright_where_the_value_is_high(tmp_path: Path, volume: Volume):
    inverse = Volume((volume.data.max() - volume.data).astype(np.int16), volume.affine)
    write_classic(tmp_path, inverse, T1CE | {"PhotometricInterpretation": "MONOCHROME1"})
    assert same(load(tmp_path), volume)


def test_files_without_a_preamble_other_files_and_other_objects_are_understood(
    tmp_path: Path, volume: Volume
):
    for path in write_classic(tmp_path, volume):
        path.write_bytes(path.read_bytes()[132:])
    (tmp_path / "README.txt").write_text("not DICOM")
    (tmp_path / "empty").touch()
    (tmp_path / "odd").write_bytes(b"\x08\x00\x05\x00CS but nothing that follows makes sense")
    report = dcmread(write_classic(tmp_path / "other", volume)[0])
    for path in (tmp_path / "other").iterdir():
        path.unlink()
    for keyword in ("Rows", "Columns", "PixelData"):
        delattr(report, keyword)
    report.Modality = "SR"
    report.save_as(tmp_path / "report")
    assert same(load(tmp_path), volume)


def test_a_zip_file_is_read_in_memory_even_if_its_names_lead_elsewhere(tmp_path: Path, volume: Volume):
    paths = write_classic(tmp_path / "series", volume)
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"../../{path.name}")
    shutil.rmtree(tmp_path / "series")
    assert same(load(tmp_path / "series.zip"), volume)
    assert [each.name for each in tmp_path.iterdir()] == ["series.zip"]
    assert not any((tmp_path.parent.parent / path.name).exists() for path in paths)


def test_a_zip_file_that_announces_more_than_memory_holds_is_refused(
    tmp_path: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
):
    write_classic(tmp_path / "series", volume)
    path = zip_folder(tmp_path / "series", tmp_path / "series.zip")
    monkeypatch.setattr("sgnet_nnunet.files.free_memory", lambda: 1000)
    assert "memory" in refusal(path)


def test_a_damaged_zip_file_is_refused(tmp_path: Path, volume: Volume):
    write_classic(tmp_path / "series", volume)
    path = zip_folder(tmp_path / "series", tmp_path / "series.zip")
    content = bytearray(path.read_bytes())
    content[2000:2400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(InputFileError, match="cannot be read"):
        load(path)


def resize(dataset: Dataset, index: int) -> None:
    if index == 2:
        dataset.Rows, dataset.PixelData = 4, dataset.PixelData[: len(dataset.PixelData) // 2]


def turn_one(dataset: Dataset, index: int) -> None:
    if index == 2:
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def colour(dataset: Dataset, _: int) -> None:
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "RGB", 3, 0
    dataset.PixelData = dataset.PixelData * 3


def undecodable(dataset: Dataset, _: int) -> None:
    dataset.file_meta.TransferSyntaxUID = HTJ2K
    dataset.PixelData = encapsulate([b"12"])


def move(*slices: int, by: float, tag: str = "", value: Any = None) -> Callable[[Dataset, int], None]:
    """Return an edit that moves slices along the third axis of an upright volume, and sets a tag."""

    def edit(dataset: Dataset, index: int) -> None:
        if index in slices:
            x, y, z = dataset.ImagePositionPatient
            dataset.ImagePositionPatient = [x, y, z + by]
            if tag:
                setattr(dataset, tag, value)

    return edit


def shear(dataset: Dataset, index: int) -> None:
    x, y, z = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x + 0.2 * index, y, z]


def shift_one(dataset: Dataset, index: int) -> None:
    if index == 2:
        x, y, z = dataset.ImagePositionPatient
        dataset.ImagePositionPatient = [x + 1.0, y, z]


def set_on(index: int, **tags: Any) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, each: int) -> None:
        if index in {each, -1}:
            for keyword, value in tags.items():
                setattr(dataset, keyword, value)

    return edit


def without(keyword: str, index: int = -1) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, each: int) -> None:
        if index in {each, -1}:
            delattr(dataset, keyword)

    return edit


BAD: dict[str, tuple[Callable[[Dataset, int], Any], str]] = {
    "mixed sizes": (resize, "several sizes"),
    "mixed orientations": (turn_one, "several orientations"),
    "mixed pixel sizes": (set_on(1, PixelSpacing=[1.1, 1.1]), "several pixel sizes"),
    "colour": (colour, "colour"),
    "another modality": (set_on(-1, Modality="CT"), "modality CT"),
    "no decoder": (undecodable, "High-Throughput JPEG 2000"),
    "uneven spacing": (move(3, by=0.5), "2 to 3 mm apart"),
    "duplicate slices": (move(3, by=-2.5), "duplicate"),
    "echoes": (move(3, by=-2.5, tag="EchoTime", value=80.0), "EchoTime"),
    "time points": (
        move(3, by=-2.5, tag="TemporalPositionIdentifier", value=2),
        "TemporalPositionIdentifier",
    ),
    "shear": (shear, "sheared"),
    "shifted slice": (
        lambda dataset, index: move(2, by=0)(dataset, index) or shift_one(dataset, index),
        "off",
    ),
    "no position": (without("ImagePositionPatient", 2), "ImagePositionPatient"),
    "no orientation": (without("ImageOrientationPatient"), "ImageOrientationPatient"),
    "no spacing": (without("PixelSpacing", 1), "PixelSpacing"),
    "no pixels": (without("PixelData", 2), "no pixels"),
    "truncated pixels": (set_on(2, PixelData=b"12"), "cannot be read"),
    "blank": (lambda dataset, _: set_on(-1, PixelData=bytes(len(dataset.PixelData)))(dataset, 0), "blank"),
    "infinite slope": (set_on(-1, RescaleSlope="1e300", RescaleIntercept="0"), "not finite"),
    "two patients": (set_on(1, PatientID="MRN-000815"), "PatientID"),
    "mosaic": (set_on(-1, ImageType=["ORIGINAL", "PRIMARY", "MOSAIC"]), "mosaic"),
    "collapsed orientation": (set_on(-1, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "none"),
    "deflated": (set_on(0, SeriesDescription="1.2.840.10008.1.2.1.99"), "Deflated"),
    "no rows": (set_on(-1, Rows=0), "without pixels"),
    "no frames": (set_on(-1, NumberOfFrames=3), "frames"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_series_that_is_no_even_stack_of_grey_images_is_refused_in_one_line(
    tmp_path: Path, rng: np.random.Generator, kind: str
):
    edit, expected = BAD[kind]
    change(write_classic(tmp_path, smooth_volume(rng, shape=(9, 8, 6))), edit)
    problem = refusal(tmp_path)
    assert expected in problem
    assert not {"Doe", "Jane", "MRN", "4711", "0815"} & set(problem.replace("^", " ").split())


@pytest.mark.parametrize(("removed", "number"), [((3,), 1), ((1, 4, 5), 3)])
def test_missing_slices_are_counted_and_not_interpolated(
    tmp_path: Path, rng: np.random.Generator, removed: tuple[int, ...], number: int
):
    paths = write_classic(tmp_path, smooth_volume(rng, shape=(9, 8, 10)))
    for k in removed:
        paths[k].unlink()
    assert f"lacks {number} of 10 slices, the first after slice {removed[0]}" in refusal(tmp_path)


def test_slices_that_are_missing_at_an_end_are_suspected_by_the_numbers_of_the_others(
    tmp_path: Path, volume: Volume
):
    paths = write_classic(tmp_path, volume, T1CE | {"ImagesInAcquisition": 6})
    assert load(tmp_path).warnings == ()
    paths[-1].unlink()
    assert "5 of the 6" in load(tmp_path).warnings[0]
    paths[0].unlink()
    assert "2 to 5" in load(tmp_path).warnings[0]


def test_a_series_may_be_spread_over_several_multi_frame_files(tmp_path: Path, volume: Volume):
    patient, uid = Patient(), generate_uid()
    for name, order in (("a", [4, 2, 0]), ("b", [1, 5, 3])):
        write_enhanced(tmp_path / name, volume, patient=patient, series_uid=uid, order=np.array(order))
    series = load(tmp_path)
    assert same(series, volume)
    assert series.frames == ((0, 3), (1, 1), (0, 2), (1, 3), (0, 1), (1, 2))


def message_about(path: Path) -> str:
    try:
        read_scan(path)
    except InputFileError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("seed", range(2))
def test_damaged_bytes_end_in_one_line_without_the_patient(tmp_path: Path, seed: int):
    rng = np.random.default_rng(seed)
    volume = smooth_volume(rng, shape=(6, 5, 4))
    slices = write_classic(tmp_path / "classic", volume)
    enhanced = write_enhanced(tmp_path / "enhanced" / "one", volume)
    archive = zip_folder(tmp_path / "classic", tmp_path / "series.zip")
    for _ in range(60):
        target, file = [(tmp_path / "classic", slices[1]), (enhanced, enhanced), (archive, archive)][
            rng.integers(3)
        ]
        content = file.read_bytes()
        broken = bytearray(content)
        start = int(rng.integers(len(broken)))
        kind = rng.integers(3)
        if kind == 0:
            del broken[start:]
        elif kind == 1:
            broken[start : start + 4] = rng.bytes(4)
        else:
            del broken[start : start + int(rng.integers(1, 40))]
        file.write_bytes(broken)
        message = message_about(target)
        assert "\n" not in message
        assert not any(secret in message for secret in ("Doe", "Jane", "4711", "IM00"))
        file.write_bytes(content)


def test_a_copied_file_is_refused_as_a_copy(tmp_path: Path, volume: Volume):
    paths = write_classic(tmp_path, volume)
    shutil.copy(paths[1], tmp_path / "copy")
    assert "1 images twice" in refusal(tmp_path)


def test_too_few_slices_are_no_volume(tmp_path: Path, volume: Volume):
    path = write_classic(tmp_path, volume)[0]
    assert "3D" in refusal(path)


def test_positions_that_are_rounded_to_a_hundredth_are_even(tmp_path: Path, rng: np.random.Generator):
    volume = smooth_volume(rng, shape=(9, 8, 12), spacing=(0.47, 0.47, 0.8987))

    def rounded(dataset: Dataset, _: int) -> None:
        dataset.ImagePositionPatient = [round(float(each), 2) for each in dataset.ImagePositionPatient]

    change(write_classic(tmp_path, volume), rounded)
    assert np.allclose(load(tmp_path).volume.affine, volume.affine, atol=0.01)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of six series, that of FLAIR in one enhanced file."""
    folder, rng, patient = tmp_path_factory.mktemp("study"), np.random.default_rng(1), Patient()
    volume = smooth_volume(rng, shape=(9, 8, 10))
    for tags in (T1CE, T1, T2, DWI, LOCALIZER):
        write_classic(folder, volume, tags, patient=patient)
    write_enhanced(folder / "flair.dcm", volume, FLAIR, patient=patient)
    return folder


def test_t1ce_and_flair_are_chosen_by_their_tags(study: Path):
    series = find_series(study)
    assert [each.number for each in series] == ["1", "2", "3", "4", "5", "6"]
    assert choose_series(series, channel="t1ce")[0].number == "5"
    assert choose_series(series, channel="flair")[0].number == "3"


@pytest.mark.parametrize("name", ["4", "T2_TSE_tra", "uid"])
def test_a_series_can_be_named(study: Path, name: str):
    series = find_series(study)
    wanted = series[3].uid if name == "uid" else name
    assert choose_series(series, wanted)[0] is series[3]


def test_the_list_of_series_is_given_where_none_can_be_chosen(study: Path):
    series = find_series(study)
    for chosen in ({"wanted": "7"}, {"channel": "t1ce"}, {}):
        with pytest.raises(InputFileError) as caught:
            choose_series([each for each in series if each.number not in {"2", "5"}], **chosen)
        assert all(each.listed in str(caught.value) for each in series if each.number in "1346")


def test_two_series_that_fit_are_not_chosen_between(study: Path, tmp_path: Path):
    shutil.copytree(study, tmp_path / "study")
    volume = smooth_volume(np.random.default_rng(2), shape=(9, 8, 10))
    write_classic(tmp_path / "study", volume, T1CE | {"SeriesNumber": 9}, patient=Patient())
    with pytest.raises(InputFileError, match="2 are T1ce by the tags"):
        choose_series(find_series(tmp_path / "study"), channel="t1ce")
    derived = T1CE | {"SeriesNumber": 8, "ImageType": ["DERIVED", "SECONDARY", "MPR"]}
    shutil.rmtree(tmp_path / "study")
    shutil.copytree(study, tmp_path / "study")
    write_classic(tmp_path / "study", volume, derived, patient=Patient())
    assert choose_series(find_series(tmp_path / "study"), channel="t1ce")[0].number == "5"


def test_a_folder_without_images_is_refused(tmp_path: Path):
    with pytest.raises(InputFileError, match="no DICOM image"):
        find_series(tmp_path)


def test_missing_pydicom_is_named_with_its_extra(tmp_path: Path, without_module: Callable[[str], None]):
    without_module("pydicom")
    with pytest.raises(SGNetError, match=r"pip install 'sgnet-nnunet\[dicom\]'"):
        find_series(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classic", "enhanced"])
@pytest.mark.parametrize("seed", range(4))
def test_dcm2niix_finds_the_same_place_and_the_same_values(tmp_path: Path, kind: str, seed: int):
    rng = np.random.default_rng(seed)
    shape = tuple(int(each) for each in rng.integers(8, 24, 3))
    spacing = tuple(float(each) for each in rng.uniform(0.5, 5, 3))
    volume = smooth_volume(rng, shape=shape, spacing=spacing, turn=Rotation.random(rng=rng).as_matrix())
    volume = Volume(volume.data * 0.5 if seed % 2 else volume.data, volume.affine)
    if kind == "classic":
        write_classic(tmp_path / "series", volume)
    else:
        write_enhanced(tmp_path / "series" / "one.dcm", volume, order=rng.permutation(shape[2]))
    (tmp_path / "out").mkdir()
    command = [dcm2niix.bin, "-z", "n", "-b", "n", "-o", str(tmp_path / "out"), str(tmp_path / "series")]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (path,) = (tmp_path / "out").glob("*.nii")
    theirs, ours = read_image(path).oriented("LPS"), load(tmp_path / "series").volume.oriented("LPS")
    assert np.allclose(theirs.affine, ours.affine, atol=1e-4)
    assert np.allclose(theirs.data, ours.data, rtol=1e-5, atol=1e-3)
