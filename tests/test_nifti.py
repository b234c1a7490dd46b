"""Grids and volumes, and what the readers accept and refuse."""

import gzip
import io
import logging
import math
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sgnet_nnunet
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.nifti import (
    Grid,
    Volume,
    at_least,
    encode_volume,
    read_channel,
    read_channels,
    read_image,
    read_labels,
    read_mask,
    reader_class,
    values_in,
    write_volume,
)

AFFINE = np.array([[-0.9, 0.0, 0.1, 10.0], [0.0, 1.1, 0.0, -7.0], [0.1, 0.0, 3.0, 2.0], [0.0, 0.0, 0.0, 1.0]])


def save(
    path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, image_class: type = nib.Nifti1Image
) -> Path:
    nib.save(image_class(data, affine), path)
    return path


@pytest.fixture
def values(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 1000, (6, 5, 4)).astype(np.int16)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_image_comes_back_with_its_values_type_and_affine(
    tmp_path: Path, values: np.ndarray, suffix: str, image_class: type
):
    image = read_image(save(tmp_path / f"a{suffix}", values, image_class=image_class))
    np.testing.assert_array_equal(image.data, values)
    assert image.data.dtype == np.int16
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize(
    ("stored", "read"),
    [("u1", "u1"), (">i2", "i2"), ("i4", "i4"), ("i8", "i4"), ("f4", "f4"), ("f8", "f4")],
)
def test_voxel_type_is_one_that_every_reader_knows(tmp_path: Path, stored: str, read: str):
    data = np.arange(24).reshape(2, 3, 4).astype(stored)
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(data, AFFINE, dtype=data.dtype), path)
    image = read_image(path)
    assert image.data.dtype == np.dtype(read)
    np.testing.assert_array_equal(image.data, data)


def test_large_64_bit_integers_become_float(tmp_path: Path):
    path = tmp_path / "a.nii"
    data = np.array([0, 2**40], np.int64).reshape(1, 1, 2)
    nib.save(nib.Nifti1Image(data, AFFINE, dtype=np.int64), path)
    assert read_image(path).data.dtype == np.float32
    assert read_image(path).data.max() == 2.0**40


def test_scale_factor_is_applied(tmp_path: Path, values: np.ndarray):
    image = nib.Nifti1Image(values, AFFINE)
    image.header.set_slope_inter(0.5, 3)
    image.to_filename(tmp_path / "a.nii")
    assert read_image(tmp_path / "a.nii").data.dtype == np.float32
    stored = np.asanyarray(nib.load(tmp_path / "a.nii").dataobj)
    np.testing.assert_allclose(read_image(tmp_path / "a.nii").data, stored)


def test_plain_file_named_gz_is_read_all_the_same(tmp_path: Path, values: np.ndarray):
    save(tmp_path / "a.nii", values).rename(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "a.nii.gz").data, values)


def test_gzip_truncated_anywhere_is_refused(tmp_path: Path, values: np.ndarray):
    path = save(tmp_path / "a.nii.gz", values)
    whole = path.read_bytes()
    for length in (0, 1, 12, len(whole) // 2, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputFileError, match=r"a\.nii\.gz: cannot be read .*; copy or download it again"):
            read_image(path)


def test_gzip_with_a_wrong_checksum_is_refused(tmp_path: Path, values: np.ndarray):
    path = save(tmp_path / "a.nii.gz", values)
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputFileError, match="CRC"):
        read_image(path)


def test_truncated_plain_file_is_refused(tmp_path: Path, values: np.ndarray):
    path = save(tmp_path / "a.nii", values)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputFileError, match="cannot be read"):
        read_image(path)


def test_header_that_announces_terabytes_is_refused_without_reserving_them(
    tmp_path: Path, values: np.ndarray
):
    path = save(tmp_path / "a.nii", values)
    content = bytearray(path.read_bytes())
    content[42:48] = np.array([32000, 32000, 32000], "<i2").tobytes()
    path.write_bytes(content)
    with pytest.raises(InputFileError, match="truncated: 65536000000000 bytes of voxels announced"):
        read_image(path)


@pytest.mark.parametrize(
    "content",
    [b"not an image at all", b"\0" * 400, gzip.compress(b"x" * 1000, mtime=0)],
    ids=["text", "zeros", "gzip"],
)
def test_file_that_is_no_nifti_is_refused_in_one_line(tmp_path: Path, content: bytes):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    with pytest.raises(InputFileError, match="cannot be read") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder_are_refused(tmp_path: Path):
    with pytest.raises(InputFileError, match="No such file"):
        read_image(tmp_path / "a.nii")
    with pytest.raises(InputFileError, match="directory"):
        read_mask(tmp_path)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4, 3), (6, 5, 4, 1, 3)])
def test_only_three_dimensions_are_accepted(tmp_path: Path, shape: tuple[int, ...]):
    path = save(tmp_path / "a.nii", np.ones(shape, np.int16))
    with pytest.raises(InputFileError, match=f"is {len(shape)}D .*3D is needed; save"):
        read_image(path)


@pytest.mark.parametrize("extra", [(1,), (1, 1)])
def test_one_volume_in_more_dimensions_is_read_as_3d(tmp_path: Path, values: np.ndarray, extra: tuple):
    path = save(tmp_path / "a.nii.gz", values.reshape(values.shape + extra), TURNED)
    np.testing.assert_array_equal(read_image(path).data, values)
    for reader in READERS:
        channel, properties = read_channel(path, reader=reader)
        assert sorted(channel.shape) == sorted(values.shape)
        assert len(properties["spacing"]) == 3


def test_image_without_voxels_is_refused(tmp_path: Path, values: np.ndarray):
    content = bytearray(save(tmp_path / "a.nii", values).read_bytes())
    content[44:46] = b"\0\0"
    (tmp_path / "a.nii").write_bytes(content)
    with pytest.raises(InputFileError, match=r"has no voxels \(6 x 0 x 4\)"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("column", [np.zeros(3), AFFINE[:3, 0]])
def test_singular_affine_is_refused(tmp_path: Path, values: np.ndarray, column: np.ndarray):
    singular = AFFINE.copy()
    singular[:3, 1] = column
    image = nib.Nifti1Image(values, None)
    image.header.set_sform(singular, code=1)
    image.to_filename(tmp_path / "a.nii")
    with pytest.raises(InputFileError, match="singular affine"):
        read_image(tmp_path / "a.nii")


def test_affine_that_is_not_finite_is_refused(tmp_path: Path, values: np.ndarray):
    affine = AFFINE.copy()
    affine[0, 3] = np.nan
    image = nib.Nifti1Image(values, None)
    image.header.set_sform(affine, code=1)
    image.to_filename(tmp_path / "a.nii")
    with pytest.raises(InputFileError, match="affine that is not finite"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_voxels_that_are_not_finite_are_refused_and_counted(tmp_path: Path, value: float, read):
    data = np.ones((6, 5, 4), np.float32)
    data[0, 0, :2] = value
    with pytest.raises(InputFileError, match="2 of 120 voxels are NaN or infinite"):
        read(save(tmp_path / "a.nii", data))


def test_values_beyond_float32_are_refused(tmp_path: Path):
    data = np.zeros((6, 5, 4))
    data[0, 0, 0] = 1e300
    with pytest.raises(InputFileError, match="1 of 120 voxels are NaN or infinite"):
        read_image(save(tmp_path / "a.nii", data))


def test_blank_image_is_refused(tmp_path: Path):
    with pytest.raises(InputFileError, match="is blank: every voxel is 7"):
        read_image(save(tmp_path / "a.nii", np.full((6, 5, 4), 7, np.int16)))


def test_colour_image_is_refused(tmp_path: Path):
    rgb = np.zeros((6, 5, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    with pytest.raises(InputFileError, match="convert it to one number per voxel"):
        read_image(save(tmp_path / "a.nii", rgb))


def test_mask_of_zeros_and_ones_is_read_without_a_note(tmp_path: Path, values: np.ndarray):
    mask = read_mask(save(tmp_path / "a.nii.gz", (values > 500).astype(np.uint8)))
    np.testing.assert_array_equal(mask.volume.data, values > 500)
    assert mask.volume.data.dtype == bool
    assert mask.notes == ()
    assert mask.volume_mm3 == pytest.approx(
        (values > 500).sum() * abs(np.linalg.det(AFFINE[:3, :3])), rel=1e-5
    )


def test_mask_values_above_one_are_foreground_with_a_note(tmp_path: Path):
    data = np.zeros((6, 5, 4), np.float32)
    data[1:3, 1, 1] = 1, 4
    data[0, 0, 0] = 255
    mask = read_mask(save(tmp_path / "a.nii", data))
    np.testing.assert_array_equal(mask.volume.data, data > 0)
    assert mask.notes == ("a.nii: values above 1 (4, 255) count as foreground",)


def test_mask_stored_with_a_scale_factor_is_still_an_integer_one(tmp_path: Path):
    image = nib.Nifti1Image(np.array([0, 255] * 4, np.uint8).reshape(2, 2, 2), AFFINE)
    image.header.set_slope_inter(np.float32(1 / 255), 0)
    buffer = io.BytesIO()
    image.file_map["image"].fileobj = buffer
    image.to_file_map()
    (tmp_path / "a.nii").write_bytes(buffer.getvalue())
    assert read_mask(tmp_path / "a.nii").volume.data.sum() == 4


def test_fractional_mask_is_refused(tmp_path: Path):
    data = np.zeros((6, 5, 4), np.float32)
    data[0, 0, :3] = 1, 0.5, 0.25
    with pytest.raises(InputFileError, match=r"fractional values such as 0\.25; threshold it"):
        read_mask(save(tmp_path / "a.nii", data))


def test_mask_of_huge_values_is_refused(tmp_path: Path):
    path = save(tmp_path / "a.nii", np.full((6, 5, 4), 1e30, np.float32))
    for read in (read_mask, read_labels):
        with pytest.raises(InputFileError, match=r"huge values such as 1e\+30"):
            read(path)


def test_negative_mask_is_refused(tmp_path: Path):
    data = np.zeros((6, 5, 4), np.int16)
    data[0, 0, :2] = 1, -1
    with pytest.raises(InputFileError, match="negative values such as -1"):
        read_mask(save(tmp_path / "a.nii", data))


def test_empty_mask_is_refused(tmp_path: Path):
    with pytest.raises(InputFileError, match="mask is empty"):
        read_mask(save(tmp_path / "a.nii", np.zeros((6, 5, 4), np.uint8)))


def test_error_survives_pickling(tmp_path: Path):
    with pytest.raises(InputFileError) as caught:
        read_image(tmp_path / "a.nii")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_to_the_header_is_survived_or_refused_in_one_line(
    tmp_path: Path, changes: list[tuple[int, int]]
):
    path = tmp_path / "a.nii"
    content = bytearray(save(path, np.arange(120, dtype=np.int16).reshape(6, 5, 4)).read_bytes())
    for position, byte in changes:
        content[position] = byte
    path.write_bytes(content)
    try:
        image = read_image(path)
    except InputFileError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert image.data.ndim == 3
        assert np.isfinite(image.data).all()


class TestLabels:
    def test_come_back_as_they_were_stored(self, tmp_path: Path):
        data = np.zeros((4, 5, 6), dtype=np.uint8)
        data[1, 2, 3], data[3, 0, 1] = 2, 7
        labels = read_labels(save(tmp_path / "a.nii.gz", data))
        np.testing.assert_array_equal(labels.data, data)
        assert values_in(labels.data).tolist() == [2, 7]

    def test_may_all_be_background(self, tmp_path: Path):
        labels = read_labels(save(tmp_path / "a.nii.gz", np.zeros((4, 5, 6), dtype=np.uint8)))
        assert values_in(labels.data).size == 0

    @pytest.mark.parametrize("dtype", ["f4", "f8"])
    def test_stored_as_floats_become_integers(self, tmp_path: Path, dtype: str):
        data = np.full((4, 5, 6), 1.0000001, dtype=dtype)
        labels = read_labels(save(tmp_path / "a.nii.gz", data))
        assert labels.data.dtype == np.int32
        assert (labels.data == 1).all()

    @pytest.mark.parametrize(("value", "message"), [(0.5, "fractional values such as 0.5"), (-2, "negative")])
    def test_that_are_none_are_refused(self, tmp_path: Path, value: float, message: str):
        data = np.zeros((4, 5, 6), dtype=np.float32)
        data[0, 0, 0] = value
        with pytest.raises(InputFileError, match=message):
            read_labels(save(tmp_path / "a.nii.gz", data))


OBLIQUE = np.array([[0.0, -0.8, 0.6, 5], [2.0, 0, 0, -7], [0, 0.6, 0.8, 1], [0, 0, 0, 1]])


def test_spacing_and_voxel_volume_of_an_oblique_grid():
    grid = Volume(np.zeros((2, 2, 2)), OBLIQUE).grid
    assert grid.spacing == pytest.approx((2.0, 1.0, 1.0))
    assert grid.voxel_mm3 == pytest.approx(2.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_volume_is_written_as_it_is_and_always_to_the_same_bytes(tmp_path: Path, dtype: type):
    volume = Volume(np.arange(60).reshape(5, 4, 3).astype(dtype), OBLIQUE)
    first, second = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    write_volume(first, volume)
    write_volume(second, volume)
    assert first.read_bytes() == second.read_bytes()
    second.write_bytes(encode_volume(volume))
    np.testing.assert_array_equal(read_labels(second).data, volume.data)
    image = nib.load(first)
    np.testing.assert_array_equal(image.dataobj, volume.data)
    np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-6)
    assert image.get_data_dtype() == dtype
    assert image.header.get_xyzt_units()[0] == "mm"


def rotation(degrees):
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])


def affine(steps, offset=(0, 0, 0)):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = steps, offset
    return matrix


def test_spacing_volume_and_diagonal_survive_a_turn_and_a_flip():
    grid = Grid((3, 4, 5), affine(rotation(33) @ np.diag([-1.0, 2.0, 3.0]), (7, 8, 9)))
    assert grid.spacing == pytest.approx((1, 2, 3))
    assert grid.voxel_mm3 == pytest.approx(6)
    assert grid.diagonal_mm == pytest.approx(math.hypot(3, 8, 15))


def test_points_of_an_unturned_grid_are_its_indices_times_the_spacing():
    grid = Grid((3, 4, 5), affine(np.diag([-0.9, 0.9, 5.0])))
    assert grid.millimetres(np.array([[1, 2, 3]])) == pytest.approx(np.array([[0.9, 1.8, 15.0]]), abs=1e-14)


def test_points_keep_their_distances_on_a_sheared_grid():
    steps = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 2.0]])
    step = np.array([[1, 2, -3]])
    distance = np.linalg.norm(Grid((3, 4, 5), affine(steps)).millimetres(step))
    assert distance == pytest.approx(np.linalg.norm(steps @ step[0]))


@pytest.mark.parametrize("degrees", [0, 1, 7, 33])
@pytest.mark.parametrize("voxels", [1, 2, 20, 1000])
def test_volume_of_a_rotated_grid_in_single_precision_is_still_at_its_limit(degrees: float, voxels: int):
    turn = nib.eulerangles.euler2mat(*np.radians([degrees, degrees / 2, -degrees]))
    affine = np.eye(4)
    affine[:3, :3] = turn.astype(np.float32)
    volume = voxels * Grid((4, 4, 4), affine).voxel_mm3
    assert at_least(volume, voxels)
    assert at_least(voxels, volume)


def test_sizes_that_differ_by_more_than_rounding_are_told_apart():
    assert at_least([4.999, 5 * 0.9999999, 5.0, np.inf], 5.0).tolist() == [False, True, True, True]
    assert at_least(5.0, [[0.0, 5.0000001], [5.001, np.inf]]).tolist() == [[True, True], [False, False]]


def test_world_coordinates_go_through_the_affine():
    grid = Grid((3, 4, 5), affine(np.diag([-1.0, 2.0, 3.0]), (10, 20, 30)))
    assert grid.world(np.array([[1.0, 1.0, 1.0]])).tolist() == [[9, 22, 33]]


@pytest.mark.parametrize(
    ("shape", "matrix", "message"),
    [
        ((3, 4), np.eye(4), r"three axes; got the shape \(3, 4\)"),
        ((3, 4, 5), np.eye(3), "finite 4x4 matrix"),
        ((3, 4, 5), np.full((4, 4), np.nan), "finite 4x4 matrix"),
        ((3, 4, 5), np.diag([1.0, 0.0, 1.0, 1.0]), "invertible; got voxels of 0 mm3"),
    ],
)
def test_unusable_grids_are_refused(shape, matrix, message):
    with pytest.raises(ValueError, match=message):
        Grid(shape, matrix)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "SRP"])
def test_orientation_changes_the_axes_and_not_the_world(codes: str):
    data = np.zeros((4, 5, 6), dtype=np.uint8)
    data[1, 3, 2] = 1
    volume = Volume(data, AFFINE).oriented(codes)
    assert "".join(nib.aff2axcodes(volume.affine)) == codes
    here = volume.grid.world(np.argwhere(volume.data))
    np.testing.assert_allclose(here, Grid((4, 5, 6), AFFINE).world(np.array([[1, 3, 2]])))


def test_cropping_keeps_voxels_in_their_place():
    grid = Grid((10, 9, 8), AFFINE)
    cropped = grid.crop(np.array((2, 3, 4)), np.array((10, 9, 8)))
    assert cropped.shape == (8, 6, 4)
    first = np.zeros((1, 3))
    np.testing.assert_allclose(cropped.world(first), grid.world(first + np.array((2, 3, 4))))


@pytest.mark.parametrize(("share", "same"), [(0.05, True), (0.15, False)])
def test_grids_are_in_the_same_place_up_to_a_tenth_of_a_voxel(share: float, same: bool):
    grid, moved = Grid((4, 5, 6), affine(np.diag([1.0, 2.0, 3.0]))), affine(np.diag([1.0, 2.0, 3.0]))
    moved[2, 3] += share * min(grid.spacing)
    assert Grid((4, 5, 6), moved).same_place_as(grid) is same
    assert Grid((4, 5, 6), moved).shift_from(grid) == pytest.approx(share)
    assert not Grid((4, 5, 7), grid.affine).same_place_as(grid)


def test_a_wrong_spacing_counts_at_the_far_corner():
    grid = Grid((101, 5, 6), np.eye(4))
    assert Grid((101, 5, 6), np.diag([1.01, 1, 1, 1])).shift_from(grid) == pytest.approx(1)


TURNED = np.array([[0, 0, -2.5, 9], [-0.9, 0, 0, 30], [0, 1.1, 0, -5], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture
def make_channels(tmp_path: Path, rng: np.random.Generator):
    """Return a function that writes the channels of a case."""

    def make(name: str, *, channels=2, shape=(24, 22, 14), affine=TURNED):
        files = [tmp_path / f"{name}_{channel:04d}.nii.gz" for channel in range(channels)]
        return [save(path, rng.integers(0, 1000, shape).astype(np.int16), affine) for path in files]

    return make


READERS = ("NibabelIO", "NibabelIOWithReorient", "SimpleITKIO", "SimpleITKIOWithReorient")


def same(ours, theirs):
    """Return whether two readers' properties are equal to the last bit, and of the same types."""
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    return type(ours) is type(theirs) and np.array_equal(ours, theirs)


def rescale(path, *, slope, intercept):
    image = nib.load(path)
    image.header.set_slope_inter(slope, intercept)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header), path)


@pytest.mark.parametrize("reader", READERS)
def test_agrees_with_nnunet(make_channels, pool, reader):
    files = make_channels("a")
    rescale(files[1], slope=0.37, intercept=3.25)
    channels, properties = read_channels(files, reader=reader, pool=pool)
    expected, expected_properties = reader_class(reader)().read_images([str(path) for path in files])
    np.testing.assert_array_equal(np.stack(channels), expected)
    assert channels[0].dtype == np.float32
    assert same(properties, expected_properties)


@pytest.mark.parametrize("dtype", [">i2", "u1", "f8", ">f4", "i4"])
def test_every_number_type_agrees_with_nnunet(tmp_path, pool, dtype):
    path = tmp_path / "a_0000.nii.gz"
    data = np.random.default_rng(0).uniform(0, 200, (6, 5, 4)).astype(dtype)
    image = nib.Nifti1Image(data, np.eye(4))
    image.set_data_dtype(data.dtype)
    nib.save(image, path)
    (channel,), _ = read_channels([path], reader="NibabelIO", pool=pool)
    np.testing.assert_array_equal(channel, reader_class("NibabelIO")().read_images([str(path)])[0][0])


def test_uncompressed_and_nifti2_are_read(tmp_path, pool):
    data = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    for kind, name in ((nib.Nifti1Image, "a_0000.nii"), (nib.Nifti2Image, "b_0000.nii.gz")):
        nib.save(kind(data, np.eye(4)), tmp_path / name)
        for reader in ("NibabelIOWithReorient", "SimpleITKIO"):
            (channel,), _ = read_channels([tmp_path / name], reader=reader, pool=pool)
            np.testing.assert_array_equal(channel, data.T)


def edit_header(path: Path, **fields: object) -> Path:
    """Set fields of an uncompressed file's header, valid or not."""
    raw = path.read_bytes()
    header = nib.Nifti1Header(raw[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + raw[348:])
    return path


@pytest.mark.parametrize(("unit", "mm"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (9, 1000), (10, 1)])
def test_every_reader_converts_the_unit_to_mm(tmp_path: Path, values: np.ndarray, unit: int, mm: float):
    in_units = AFFINE.copy()
    in_units[:3] /= mm
    path = edit_header(save(tmp_path / "a.nii", values, in_units), xyzt_units=unit)
    np.testing.assert_allclose(read_image(path).affine, AFFINE, rtol=1e-5, atol=1e-5)
    turned = affine(rotation(20) @ np.diag([1.0, 1.0, 3.0]), (5, 6, 7))
    in_units = turned.copy()
    in_units[:3] /= mm
    path = edit_header(save(tmp_path / "b.nii", (values > 500).astype(np.uint8), in_units), xyzt_units=unit)
    assert read_mask(path).volume_mm3 == pytest.approx(3 * (values > 500).sum(), rel=1e-5)
    for reader in READERS:
        _, properties = read_channel(path, reader=reader)
        assert properties["spacing"] == pytest.approx([3, 1, 1])


@pytest.mark.parametrize("unit", [1, 3])
def test_unit_that_cannot_be_is_refused(tmp_path: Path, unit: int):
    data = np.zeros((400, 3, 3), np.int16)
    data[1] = 7
    path = edit_header(save(tmp_path / "a.nii", data, np.eye(4)), xyzt_units=unit)
    with pytest.raises(InputFileError, match=r"xyzt_units|singular"):
        read_image(path)


@pytest.mark.parametrize("codes", ["RAS", "LAS", "ASR"])
def test_spacing_is_that_of_the_affine_for_every_reader(tmp_path: Path, values: np.ndarray, codes: str):
    volume = Volume(values, affine(np.eye(3))).oriented(codes)
    path = save(tmp_path / "a.nii", volume.data, volume.affine)
    edit_header(path, pixdim=[1, 2, 2, 2, 0, 0, 0, 0])
    assert read_image(path).grid.spacing == (1, 1, 1)
    for reader in READERS:
        _, properties = read_channel(path, reader=reader)
        assert properties["spacing"] == [1, 1, 1]


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_qform_and_sform_may_differ_by_half_a_voxel(tmp_path: Path, values: np.ndarray, share: float):
    steps = affine(np.diag([1.0, 1.0, 5.0]))
    path = save(tmp_path / "a.nii", values, steps)
    edit_header(path, qform_code=1, qoffset_z=5 * share)
    if share < 0.5:
        np.testing.assert_array_equal(read_image(path).affine, steps)
    else:
        with pytest.raises(InputFileError, match=r"a qform and a sform that are up to 0\.6 voxels apart"):
            read_image(path)
    for reader in READERS if share < 0.5 else ():
        channel, properties = read_channel(path, reader=reader)
        reader_class(reader)().write_seg(channel > 500, str(tmp_path / "mask.nii"), properties)
        np.testing.assert_allclose(read_labels(tmp_path / "mask.nii").affine, steps, atol=1e-6)


def test_codes_may_differ_where_the_affines_do_not(tmp_path: Path, values: np.ndarray):
    path = save(tmp_path / "a.nii", values, affine(rotation(20)))
    edit_header(path, qform_code=2, sform_code=1)
    np.testing.assert_allclose(read_image(path).affine, affine(rotation(20)), atol=1e-6)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("first", [True, False])
def test_channels_with_and_without_orientation_are_refused(make_channels, pool, reader, first: bool):
    files = make_channels("a")
    nib.save(nib.Nifti1Image(np.asarray(nib.load(files[first]).dataobj), None), files[first])
    # The same shape and spacing, so that nothing else is wrong.
    nib.save(nib.Nifti1Image(np.asarray(nib.load(files[not first]).dataobj), np.eye(4)), files[not first])
    with pytest.raises(InputFileError, match="has no orientation") as caught:
        read_channels(files, reader=reader, pool=pool)
    assert caught.value.path == files[first]


@pytest.mark.parametrize("reader", READERS)
def test_channels_without_orientation_are_taken_for_what_nibabel_takes_them(
    tmp_path: Path, values: np.ndarray, pool, caplog, reader
):
    path = tmp_path / "a_0000.nii"
    nib.save(nib.Nifti1Image(values, None), path)
    with caplog.at_level(logging.WARNING):
        (channel,), properties = read_channels([path], reader=reader, pool=pool)
    assert "a_0000.nii: qform_code and sform_code are 0" in caplog.text
    reader_class(reader)().write_seg(channel > 500, str(tmp_path / "mask.nii"), properties)
    mask = read_labels(tmp_path / "mask.nii")
    np.testing.assert_array_equal(mask.data, values > 500)
    np.testing.assert_array_equal(mask.affine, nib.load(path).affine)


def test_channels_that_are_stored_in_two_orientations_are_one_place(tmp_path: Path, pool, caplog):
    data = np.random.default_rng(0).integers(0, 1000, (6, 5, 4)).astype(np.int16)
    files = [tmp_path / f"a_000{channel}.nii" for channel in range(2)]
    for path, codes in zip(files, ("RAS", "PSL"), strict=True):
        write_volume(path, Volume(data, affine(np.diag([1.0, 2.0, 3.0]))).oriented(codes))
    for reader in ("NibabelIOWithReorient", "SimpleITKIOWithReorient"):
        (first, second), _ = read_channels(files, reader=reader, pool=pool)
        np.testing.assert_array_equal(first, second)
    assert "affine differs" not in caplog.text


def test_analyze_and_pairs_are_refused_with_what_they_are(tmp_path: Path, values: np.ndarray):
    nib.save(nib.AnalyzeImage(values, None), tmp_path / "a.img")
    nib.save(nib.Nifti1Pair(values, np.eye(4)), tmp_path / "b.img")
    for name in ("a.hdr", "a.img", "b.hdr", "b.img"):
        for read in (read_image, *(partial(read_channel, reader=reader) for reader in READERS)):
            with pytest.raises(InputFileError, match=r"convert Analyze 7\.5, or a pair"):
                read(tmp_path / name)


def flip_a_bit(raw: bytes) -> bytes:
    return raw[:-300] + bytes([raw[-300] ^ 4]) + raw[-299:]


def lose_planes(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-600]))


def make_4d(path):
    nib.save(nib.Nifti1Image(np.ones((6, 5, 4, 2), dtype=np.int16), np.eye(4)), path)


def make_colour(path):
    nib.save(nib.Nifti1Image(np.zeros((6, 5, 4), dtype=[(c, "u1") for c in "RGB"]), np.eye(4)), path)


def make_text(path):
    path.write_text("not an image")


@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "SimpleITKIO"])
@pytest.mark.parametrize("damage", [lose_planes, make_4d, make_colour, make_text])
def test_every_reader_refuses_the_same_damage_and_names_the_file(make_channels, pool, reader, damage):
    files = make_channels("a")
    damage(files[1])
    with pytest.raises(InputFileError) as caught:
        read_channels(files, reader=reader, pool=pool)
    assert str(files[1]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_formats_are_read_by_nnunets_class(tmp_path, rng):
    data = rng.random((4, 5, 6)).astype(np.float32)
    image = SimpleITK.GetImageFromArray(data)
    image.SetSpacing((1, 2, 3))
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    channel, properties = read_channel(tmp_path / "a.mha", reader="SimpleITKIO")
    np.testing.assert_array_equal(channel, data)
    assert properties["spacing"] == [3, 2, 1]


def write_by_itk(path: Path, data: np.ndarray) -> Path:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(data, isVector=False), str(path), useCompression=True)
    return path


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize("damage", [lambda raw: raw[:-4], lambda raw: raw[:-40], flip_a_bit])
def test_damaged_streams_of_other_formats_are_refused(tmp_path, rng, suffix, damage):
    path = write_by_itk(tmp_path / f"a{suffix}", rng.random((9, 10, 11)).astype(np.float32))
    assert read_channel(path, reader="SimpleITKIO")[0].shape == (9, 10, 11)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputFileError, match=rf"a\{suffix}: cannot be read"):
        read_channel(path, reader="SimpleITKIO")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize(
    "data",
    [
        np.full((4, 5, 6), 1j, np.complex64),
        np.full((4, 5, 6), 1e300),
        np.full((4, 5, 6), -np.inf),
        np.ones((1, 4, 5, 6)),
        np.ones((5, 6)),
    ],
    ids=["complex", "beyond single precision", "infinite", "4D", "2D"],
)
def test_other_formats_must_hold_one_3d_image_of_numbers(tmp_path, suffix, data):
    with pytest.raises(InputFileError):
        read_channel(write_by_itk(tmp_path / f"a{suffix}", data), reader="SimpleITKIO")


def test_format_without_orientation_is_refused(tmp_path):
    path = write_by_itk(tmp_path / "a.gipl", np.ones((4, 5, 6), np.int16))
    with pytest.raises(InputFileError, match="neither checksum nor orientation"):
        read_channel(path, reader="SimpleITKIO")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_no_numbers_are_refused_by_every_reader(tmp_path, reader, value):
    data = np.zeros((6, 5, 4))
    data[1, 2, 3] = value
    with pytest.raises(InputFileError, match="1 of 120 voxels are NaN or infinite"):
        read_channel(save(tmp_path / "a.nii", data, np.eye(4)), reader=reader)


@pytest.mark.parametrize("reader", READERS)
def test_offset_without_a_slope_counts_for_no_reader(tmp_path, values, reader):
    path = edit_header(save(tmp_path / "a.nii", values, np.eye(4)), scl_slope=0, scl_inter=7)
    assert read_channel(path, reader=reader)[0].sum() == values.sum() == read_image(path).data.sum()


def test_voxels_that_are_not_numbers_are_refused(tmp_path, pool):
    path = tmp_path / "a_0000.nii.gz"
    data = np.zeros((6, 5, 4), dtype=np.float32)
    data[1, 2, 3] = np.nan
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    with pytest.raises(InputFileError, match=r"a_0000\.nii\.gz: 1 of 120 voxels are NaN"):
        read_channels([path], reader="NibabelIOWithReorient", pool=pool)


@pytest.mark.parametrize("other", [{"shape": (24, 22, 15)}, {"affine": TURNED @ np.diag([1, 1, 2.0, 1])}])
def test_channels_of_two_grids_are_refused(make_channels, pool, other):
    first, second = make_channels("a", channels=1)[0], make_channels("b", channels=1, **other)[0]
    with pytest.raises(InputFileError, match=r"b_0000\.nii\.gz: has .* but a_0000\.nii\.gz has 22 x 24 x 14"):
        read_channels([first, second], reader="NibabelIOWithReorient", pool=pool)


@pytest.mark.parametrize("reader", ["NibabelIO", "SimpleITKIO"])
def test_channels_of_two_places_are_taken_with_a_warning(make_channels, pool, caplog, reader):
    moved = TURNED.copy()
    moved[0, 3] += 5
    files = make_channels("a", channels=1) + make_channels("b", channels=1, affine=moved)
    with caplog.at_level(logging.WARNING):
        read_channels(files, reader=reader, pool=pool)
    assert "b_0000.nii.gz: affine differs" in caplog.text


def test_any_reader_of_nnunet_is_found_and_others_are_refused():
    assert reader_class("NaturalImage2DIO").__name__ == "NaturalImage2DIO"
    with pytest.raises(SGNetError, match="MyIO"):
        reader_class("MyIO")


def test_no_other_module_reads_or_writes_images_by_itself():
    package = Path(sgnet_nnunet.__file__).parent
    found = {path.name for path in package.rglob("*.py") if "import nibabel" in path.read_text()}
    assert found == {"nifti.py", "outputs.py"}  # the second writes with the header of a patient's scan
