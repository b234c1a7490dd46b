"""Resampling through affines, against SimpleITK and nibabel."""

import nibabel as nib
import nibabel.processing
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sgnet_nnunet.dataset.resampling import field_of_view, resample_image, resample_mask
from sgnet_nnunet.nifti import Grid, Volume


def affine(spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), angles=(0.0, 0.0, 0.0)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * spacing
    matrix[:3, 3] = origin
    return matrix


def to_sitk(data: np.ndarray, matrix: np.ndarray) -> sitk.Image:
    """Both worlds may be called LPS here: only the relation of two grids matters."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((matrix[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())
    return image


def on_the_rim(index_map: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Whether a voxel of GRID is so near the end of the field of view that rounding decides."""
    index = (
        np.einsum("ij,jxyz->ixyz", index_map[:3, :3], np.indices(GRID.shape))
        + index_map[:3, 3, None, None, None]
    )
    length = np.array(shape)[:, None, None, None]
    near = np.minimum(np.abs(index + 0.5), np.abs(index - (length - 0.5))) < 2e-3
    return near.any(axis=0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)


OBLIQUE = affine((0.9, 1.1, 5.0), (-9.3, -8.1, -20.2), (12, -7, 20))
GRID = Grid((24, 22, 20), affine((1.0, 0.95, 1.9), (-11.0, -10.0, -18.0), (-5, 3, 8)))


def test_oblique_image_agrees_with_simpleitk(rng: np.random.Generator):
    data = rng.normal(size=(20, 18, 8)).astype(np.float32)
    reference = to_sitk(np.zeros(GRID.shape, np.float32), GRID.affine)
    expected = sitk.GetArrayFromImage(sitk.Resample(to_sitk(data, OBLIQUE), reference)).T
    result = resample_image(Volume(data, OBLIQUE), GRID)
    assert (expected == 0).mean() > 0.05  # the grids overlap in part only
    rim = on_the_rim(np.linalg.inv(OBLIQUE) @ GRID.affine, data.shape)
    np.testing.assert_allclose(result[~rim], expected[~rim], atol=2e-5)


def test_world_map_agrees_with_simpleitk_transform(rng: np.random.Generator):
    data = rng.normal(size=(20, 18, 8)).astype(np.float32)
    world_map = affine(origin=(1.5, -2.1, 3.0), angles=(4, 5, -6))
    transform = sitk.Euler3DTransform()
    transform.SetMatrix(world_map[:3, :3].ravel().tolist())
    transform.SetTranslation(world_map[:3, 3].tolist())
    reference = to_sitk(np.zeros(GRID.shape, np.float32), GRID.affine)
    expected = sitk.GetArrayFromImage(sitk.Resample(to_sitk(data, OBLIQUE), reference, transform)).T
    result = resample_image(Volume(data, OBLIQUE), GRID, world_map=world_map)
    rim = on_the_rim(np.linalg.inv(OBLIQUE) @ world_map @ GRID.affine, data.shape)
    np.testing.assert_allclose(result[~rim], expected[~rim], atol=2e-5)


def test_sheared_image_agrees_with_nibabel_inside(rng: np.random.Generator):
    sheared = OBLIQUE.copy()
    sheared[:3, 2] += 0.5 * sheared[:3, 0]
    data = rng.normal(size=(40, 40, 12)).astype(np.float32)
    source = nib.Nifti1Image(data, sheared)
    expected = nibabel.processing.resample_from_to(source, (GRID.shape, GRID.affine), order=1, cval=np.nan)
    expected_data = expected.get_fdata()
    inside = np.isfinite(expected_data)
    assert inside.mean() > 0.2
    result = resample_image(Volume(data, sheared), GRID)
    np.testing.assert_allclose(result[inside], expected_data[inside], atol=2e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_equal_grids_copy_bit_for_bit(rng: np.random.Generator, dtype: type):
    data = rng.integers(0, 200, (9, 8, 7)).astype(dtype)
    grid = Grid((9, 8, 7), OBLIQUE)
    rounded = OBLIQUE + rng.uniform(-1e-5, 1e-5, OBLIQUE.shape) * (np.arange(4) < 3)[:, None]
    for matrix in (OBLIQUE, rounded, OBLIQUE.astype(np.float32).astype(float)):
        result = resample_image(Volume(data, matrix), grid)
        assert result.tobytes() == data.tobytes()
        assert result.dtype == dtype
        np.testing.assert_array_equal(resample_mask(Volume(data > 99, matrix), grid), data > 99)


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations([0, 1, 2]),
    flips=st.lists(st.booleans(), min_size=3, max_size=3),
    spacing=st.tuples(*[st.floats(0.4, 6.0)] * 3),
)
def test_any_orientation_of_a_file_gives_the_same_voxels(order: list[int], flips: list[bool], spacing):
    data = np.random.default_rng(2).integers(0, 1000, (6, 5, 4)).astype(np.float32)
    matrix = affine(spacing, (3.3, -70.1, 12.7), (10, 20, 30))
    codes = np.array([[axis, -1 if flip else 1] for axis, flip in zip(order, flips, strict=True)])
    turned = nib.Nifti1Image(data, matrix).as_reoriented(codes)
    source = Volume(np.asanyarray(turned.dataobj), turned.affine)
    np.testing.assert_array_equal(resample_image(source, Grid((6, 5, 4), matrix)), data)
    np.testing.assert_array_equal(
        resample_mask(Volume(source.data > 500, turned.affine), Grid((6, 5, 4), matrix)), data > 500
    )


def test_flair_in_lps_and_in_ras_lands_on_the_same_place(rng: np.random.Generator):
    data = rng.integers(1, 1000, (12, 10, 6)).astype(np.int16)
    ras = nib.Nifti1Image(data, affine((0.9, 0.9, 5.0), (-5, -4, -12)))
    lps = ras.as_reoriented(nib.orientations.axcodes2ornt(("L", "P", "S")))
    grid = Grid((14, 12, 20), affine((0.8, 0.8, 1.5), (-5.2, -4.1, -12.3), (2, 3, 4)))
    volumes = [Volume(np.asanyarray(image.dataobj), image.affine) for image in (ras, lps)]
    first, second = (resample_image(volume, grid).astype(int) for volume in volumes)
    assert first.any()
    assert np.abs(first - second).max() <= 1  # a rounding tie may fall either way


def test_integer_image_keeps_its_type_and_a_background_of_exactly_zero():
    data = np.zeros((20, 20, 8), np.int16)
    data[6:14, 6:14, 2:6] = 1000
    source = Volume(data, OBLIQUE)
    result = resample_image(source, GRID)
    support = resample_image(Volume((data > 0).astype(np.float32), OBLIQUE), GRID) > 0
    assert result.dtype == np.int16
    assert result.max() == 1000
    assert not result[~support].any()


def test_float_background_is_exactly_zero_next_to_tissue_when_slices_coincide():
    data = np.zeros((8, 8, 6), np.float32)
    data[:, :, 2] = 1.0
    source = Volume(data, affine((0.9, 0.9, 0.3), (0.1, 0.2, 0.7)))
    grid = Grid((10, 10, 6), affine((0.7, 0.7, 0.3), (0.1, 0.2, 0.7 + 1e-7)))
    result = resample_image(source, grid)
    assert not result[:, :, [0, 1, 3, 4, 5]].any()
    assert result[:, :, 2].max() == 1.0


def test_field_of_view_reaches_half_a_voxel_beyond_the_outer_centres():
    source = Volume(np.full((4, 4, 2), 5.0, np.float32), affine((1, 1, 6)))
    grid = Grid((1, 1, 12), affine((1, 1, 1), (1, 1, -3.5)))  # z from -3.5 to 7.5; slices fill -3 to 9
    np.testing.assert_array_equal(resample_image(source, grid).ravel(), [0.0] + [5.0] * 11)
    np.testing.assert_array_equal(field_of_view(source, grid).ravel(), [False] + [True] * 11)


def test_thick_slices_of_a_mask_become_a_lesion_of_the_same_volume():
    centre = np.indices((30, 30, 9)) - np.array([15, 15, 4])[:, None, None, None]
    spacing = np.array([1.0, 1.0, 5.0])
    ball = np.linalg.norm(centre * spacing[:, None, None, None], axis=0) < 11
    source = Volume(ball, affine(tuple(spacing)))
    grid = Grid((40, 40, 50), affine((0.8, 0.8, 0.9), (-0.3, -0.1, -2.3)))
    volume = resample_mask(source, grid).sum() * np.prod((0.8, 0.8, 0.9))
    assert volume == pytest.approx(ball.sum() * 5.0, rel=0.03)


def test_mask_halfway_between_lesion_and_background_belongs_to_the_lesion():
    source = Volume(np.array([1, 1, 0, 0], bool).reshape(4, 1, 1), affine())
    grid = Grid((7, 1, 1), affine((0.5, 1, 1)))
    np.testing.assert_array_equal(resample_mask(source, grid).ravel(), [1, 1, 1, 1, 0, 0, 0])


def test_boxes_overlap_only_when_they_share_space():
    grid = Grid((4, 4, 4), affine())
    np.testing.assert_allclose(grid.bounds(), [[-0.5] * 3, [3.5] * 3])
    assert grid.overlaps(Grid((4, 4, 4), affine(origin=(3.9, 0, 0))))
    assert not grid.overlaps(Grid((4, 4, 4), affine(origin=(4.0, 0, 0))))
    assert not grid.overlaps(Grid((4, 4, 4), affine(origin=(0, 0, 90))))
