"""Reading against nnU-Net's own readers, and files that cannot be read."""

import gzip
import logging

import nibabel as nib
import numpy as np
import pytest

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.inference.preprocessing import read_channels, reader_class

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
def test_agrees_with_nnunet(make_case, turned, pool, reader):
    files = make_case("a", affine=turned)
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
        (channel,), _ = read_channels([tmp_path / name], reader="NibabelIOWithReorient", pool=pool)
        np.testing.assert_array_equal(channel, data.T)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)


def lose_planes(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-600]))


def make_4d(path):
    nib.save(nib.Nifti1Image(np.ones((6, 5, 4, 2), dtype=np.int16), np.eye(4)), path)


def make_colour(path):
    nib.save(nib.Nifti1Image(np.zeros((6, 5, 4), dtype=[(c, "u1") for c in "RGB"]), np.eye(4)), path)


def make_text(path):
    path.write_text("not an image")


def empty(path):
    path.write_bytes(b"")


DAMAGES = (truncate, flip_a_bit, lose_planes, make_4d, make_colour, make_text, empty)


@pytest.mark.parametrize(
    ("reader", "damage"),
    [("NibabelIOWithReorient", damage) for damage in DAMAGES]
    + [("SimpleITKIO", damage) for damage in DAMAGES if damage is not lose_planes],
)
def test_damaged_file_is_named(make_case, pool, reader, damage):
    files = make_case("a")
    damage(files[1])
    with pytest.raises(InputFileError, match="cannot be read") as caught:
        read_channels(files, reader=reader, pool=pool)
    assert str(files[1]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_voxels_that_are_not_numbers_are_refused(tmp_path, pool):
    path = tmp_path / "a_0000.nii.gz"
    data = np.zeros((6, 5, 4), dtype=np.float32)
    data[1, 2, 3] = np.nan
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)
    with pytest.raises(InputFileError, match=r"a_0000\.nii\.gz: holds voxels that are NaN"):
        read_channels([path], reader="NibabelIOWithReorient", pool=pool)


@pytest.mark.parametrize("other", [{"shape": (24, 22, 15)}, {"affine": np.diag([1, 1, 2.0, 1])}])
def test_channels_of_two_grids_are_refused(make_case, pool, other):
    first, second = make_case("a", channels=1)[0], make_case("b", channels=1, **other)[0]
    with pytest.raises(InputFileError, match=r"b_0000\.nii\.gz: has .* but a_0000\.nii\.gz has 14 x 22 x 24"):
        read_channels([first, second], reader="NibabelIOWithReorient", pool=pool)


@pytest.mark.parametrize("reader", ["NibabelIO", "SimpleITKIO"])
def test_channels_of_two_places_are_taken_with_a_warning(make_case, pool, caplog, reader):
    moved = np.eye(4)
    moved[0, 3] = 5
    files = make_case("a", channels=1) + make_case("b", channels=1, affine=moved)
    with caplog.at_level(logging.WARNING):
        read_channels(files, reader=reader, pool=pool)
    assert "b_0000.nii.gz: lies elsewhere" in caplog.text


@pytest.mark.parametrize("name", ["NaturalImage2DIO", "MyIO"])
def test_unknown_reader_is_refused(name):
    with pytest.raises(SGNetError, match=name):
        reader_class(name)
