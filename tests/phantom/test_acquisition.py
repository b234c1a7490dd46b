import numpy as np
import pytest

from sgnet_nnunet.nifti import Grid
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.geometry import centred_grid
from sgnet_nnunet.phantom.scanner import acquire, draw_flair_grid, slice_thick


def plain_grid(shape, spacing):
    return centred_grid(
        centre=np.zeros(3),
        extent=np.array(shape) * spacing,
        spacing=np.array(spacing, dtype=float),
        turn=np.eye(3),
    )


@pytest.fixture
def cube() -> tuple[np.ndarray, np.ndarray, Grid]:
    grid = plain_grid((40, 40, 40), (1, 1, 1))
    brain = np.zeros(grid.shape, dtype=bool)
    brain[5:35, 5:35, 5:35] = True
    return brain.astype(np.float32), brain, grid


def test_background_is_zero_and_the_brain_is_not(cube):
    signal, brain, grid = cube
    scan = acquire(np.random.default_rng(0), signal * 0.001, brain, grid, noise=0.0001, bias=0.05)
    assert scan.dtype == np.int16
    assert not scan[~brain].any()
    assert scan[brain].min() >= 1


def test_noise_is_rician(cube):
    signal, brain, grid = cube
    scan = acquire(np.random.default_rng(0), signal, brain, grid, noise=0.05, bias=0.0)
    nothing = acquire(np.random.default_rng(0), signal * 0, brain, grid, noise=0.05, bias=0.0)
    scale = scan[brain].mean()
    assert scan[brain].std() / scale == pytest.approx(0.05, rel=0.05)
    # Without signal a Rician variable is a Rayleigh one, of mean sigma * sqrt(pi / 2).
    assert nothing[brain].mean() / scale == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.05)


def test_bias_is_smooth(cube):
    signal, brain, grid = cube
    scan = acquire(np.random.default_rng(0), signal, brain, grid, noise=0.0, bias=0.3).astype(float)
    inner = scan[5:35, 5:35, 5:35] / scan[brain].mean()
    assert inner.std() > 0.005
    assert np.abs(np.diff(inner, axis=0)).max() < 0.05


def test_thick_slices_average_thin_ones():
    source = plain_grid((20, 20, 60), (1, 1, 1))
    target = plain_grid((20, 20, 12), (1, 1, 5))
    sheet = np.zeros(source.shape, dtype=np.float32)
    sheet[:, :, 30] = 1
    thick = slice_thick(sheet, source, target)
    assert thick.max() < 0.3
    assert thick[10, 10].sum() * 5 == pytest.approx(1, rel=0.1)
    constant = slice_thick(np.ones_like(sheet), source, target)
    np.testing.assert_allclose(constant[5:15, 5:15, 4:8], 1, atol=1e-4)


def test_flair_grid_covers_the_t1ce_grid_and_is_turned():
    t1ce = plain_grid((150, 180, 150), (1, 1, 1))
    flair = draw_flair_grid(np.random.default_rng(0), t1ce, PhantomConfig())
    assert (flair.extent >= t1ce.extent).all()
    turn = (flair.affine[:3, :3] / flair.spacing) - np.eye(3)
    assert 0.01 < np.abs(turn).max() < 0.5
