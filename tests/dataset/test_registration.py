"""Rigid registration recovers a known motion."""

import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy import ndimage
from scipy.spatial.transform import Rotation

from sgnet_nnunet.dataset import registration
from sgnet_nnunet.dataset.registration import register_rigid
from sgnet_nnunet.dataset.resampling import resample_image
from sgnet_nnunet.nifti import Grid, Volume, read_image

SIZE = 72
POINTS = np.array([[-25, 0, 0, 1], [25, 10, -10, 1], [0, -25, 20, 1], [0, 0, 0, 1]], float).T


def head(contrast: str) -> Volume:
    """A skull-stripped head of three tissues, 2 mm voxels, whose grey values depend on the contrast."""
    rng = np.random.default_rng(5)
    x, y, z = (np.indices((SIZE, SIZE, SIZE)) - SIZE / 2) * 2.0
    inside = (x / 60) ** 2 + (y / 52) ** 2 + (z / 45) ** 2 < 1
    tissue = ndimage.gaussian_filter(rng.normal(size=inside.shape), 3)
    classes = np.digitize(tissue, np.quantile(tissue, [0.3, 0.7]))
    values = np.array({"t1ce": [300, 700, 1000], "flair": [900, 600, 400]}[contrast])[classes]
    noise = rng.normal(0, 15, inside.shape)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -SIZE
    return Volume(np.where(inside, values + noise, 0).astype(np.float32), affine)


def motion(shift: tuple[float, float, float], angles: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


def error_mm(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(((found - true) @ POINTS)[:3], axis=0).max())


TURNED = motion((-6.0, 2.0, 3.0), (4.0, -3.0, 6.0))


def register_turned() -> registration.RigidTransform:
    flair = head("flair")
    return register_rigid(head("t1ce"), Volume(flair.data, TURNED @ flair.affine))


@pytest.fixture(scope="module")
def turned() -> registration.RigidTransform:
    return register_turned()


@pytest.mark.slow
def test_motion_is_recovered_within_half_a_millimetre(turned: registration.RigidTransform):
    assert error_mm(turned.world_map, TURNED) < 0.5
    assert turned.after > turned.before + 0.1
    assert turned.note == ""


@pytest.mark.slow
def test_registration_repeats_bit_for_bit(turned: registration.RigidTransform):
    again = register_turned()
    np.testing.assert_array_equal(again.world_map, turned.world_map)
    assert (again.before, again.after) == (turned.before, turned.after)


@pytest.mark.slow
def test_sheared_grid_is_registered_all_the_same():
    true = motion((4.0, -3.0, 2.0), (0.0, 0.0, 3.0))
    t1ce, flair = head("t1ce"), head("flair")
    shear = np.eye(4)
    shear[0, 2] = 0.3
    grid = Grid((SIZE, SIZE, SIZE), t1ce.affine @ shear)
    sheared = Volume(resample_image(t1ce, grid), grid.affine)
    found = register_rigid(sheared, Volume(flair.data, true @ flair.affine))
    assert error_mm(found.world_map, true) < 0.5


@pytest.mark.slow
def test_aligned_images_stay_where_they_are():
    found = register_rigid(head("t1ce"), head("flair"))
    np.testing.assert_array_equal(found.world_map, np.eye(4))
    assert found.before == found.after
    assert found.note == "not registered: the affines' alignment could not be improved"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shift", "problem"),
    [
        ((31.0, 0, 0), "the optimiser moved the centre by 31 mm"),
        ((17.0, 17.0, 17.0), "the optimiser left ..% of the common field of view"),
    ],
)
def test_implausible_motion_is_not_applied(
    monkeypatch: pytest.MonkeyPatch, shift: tuple[float, float, float], problem: str
):
    def optimise(_, start: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
        start.SetTranslation(shift)
        return start

    monkeypatch.setattr(registration, "_optimise", optimise)
    found = register_rigid(head("t1ce"), head("flair"))
    np.testing.assert_array_equal(found.world_map, np.eye(4))
    assert re.match(f"not registered: {problem}", found.note)


def test_images_without_common_voxels_are_left_alone_with_a_note():
    t1ce, flair = head("t1ce"), head("flair")
    found = register_rigid(t1ce, Volume(flair.data, motion((4.0 * SIZE, 0, 0), (0, 0, 0)) @ flair.affine))
    np.testing.assert_array_equal(found.world_map, np.eye(4))
    assert found.before is None
    assert found.note.startswith("not registered: ")


@pytest.mark.slow
def test_real_scans_with_a_large_motion_come_together(real_data: Path):
    folder = real_data / "real_native_grids"
    t1ce, flair = (read_image(folder / f"TCGA-FG-6692_{name}.nii.gz") for name in ("t1ce", "flair"))
    found = register_rigid(t1ce, flair)
    assert found.after > 1.5 * found.before
