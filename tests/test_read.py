"""What `read_image`, `read_mask` and `read_labels` accept and refuse."""

import gzip
import io
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.nifti import read_image, read_labels, read_mask, values_in

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


@pytest.mark.parametrize("content", [b"not an image at all", b"\0" * 400, gzip.compress(b"x" * 1000)])
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


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4, 1), (6, 5, 4, 3)])
def test_only_three_dimensions_are_accepted(tmp_path: Path, shape: tuple[int, ...]):
    path = save(tmp_path / "a.nii", np.ones(shape, np.int16))
    with pytest.raises(InputFileError, match=f"is {len(shape)}D .*3D is needed; save"):
        read_image(path)


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
    assert mask.size == pytest.approx((values > 500).sum() * abs(np.linalg.det(AFFINE[:3, :3])), rel=1e-5)


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
