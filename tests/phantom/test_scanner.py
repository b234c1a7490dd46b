"""Contrasts and the acquisition of a scan."""

from dataclasses import fields, replace

import numpy as np
import pytest

from sgnet_nnunet.nifti import Grid
from sgnet_nnunet.phantom.config import Artefacts, PhantomConfig
from sgnet_nnunet.phantom.fields import centred_grid
from sgnet_nnunet.phantom.scanner import (
    acquire,
    add_stripping_errors,
    displaced,
    distort,
    draw_background,
    draw_flair_grid,
    render,
    slice_thick,
)
from sgnet_nnunet.phantom.tumours import Lesion, rasterise
from sgnet_nnunet.phantom.vessels import Distractors, draw_distractors


@pytest.fixture(scope="module")
def scene(anatomy):
    rng = np.random.default_rng(4)
    found = np.argwhere((np.minimum(anatomy.gm, anatomy.wm) > 0.3) & (anatomy.depth > 14))
    x, y, z = found[len(found) // 2]
    lesion = Lesion(
        centre=(int(x), int(y), int(z)), radii=(10.0, 10.0, 10.0), rim=2.5, enhancement=1.0, reach=12.0
    )
    lesions = rasterise(rng, anatomy, [lesion], PhantomConfig())
    return anatomy, lesions, draw_distractors(rng, anatomy, PhantomConfig(vessels=60))


def median(signal, fraction, scene, threshold=0.9):
    _, lesions, distractors = scene
    undisturbed = (lesions.whole < 0.01) & (distractors.white_matter < 0.01)
    return float(np.median(signal[(fraction > threshold) & undisturbed]))


@pytest.fixture(scope="module")
def t1ce(scene):
    rng = np.random.default_rng(1)
    return render(rng, "t1ce", *scene)


@pytest.fixture(scope="module")
def flair(scene):
    rng = np.random.default_rng(1)
    return render(rng, "flair", *scene)


@pytest.mark.slow
def test_white_matter_is_brightest_on_t1ce_and_grey_on_flair(scene, t1ce, flair):
    anatomy = scene[0]
    tissues = (anatomy.csf, anatomy.gm, anatomy.wm)
    fluid, grey, white = (median(t1ce, fraction, scene) for fraction in tissues)
    assert fluid < grey < white
    fluid, grey, white = (median(flair, fraction, scene) for fraction in tissues)
    assert fluid < white < grey


@pytest.mark.slow
def test_rim_is_bright_and_necrosis_dark_on_t1ce(scene, t1ce):
    anatomy, lesions, _ = scene
    white = median(t1ce, anatomy.wm, scene)
    assert np.median(t1ce[(lesions.core > 0.9) & (lesions.necrosis < 0.1)]) > 1.25 * white
    assert np.median(t1ce[lesions.necrosis > 0.9]) < 0.75 * white


@pytest.mark.slow
def test_oedema_is_bright_on_flair_and_dark_on_t1ce(scene, t1ce, flair):
    anatomy, lesions, _ = scene
    oedema = (lesions.oedema > 0.8) & (lesions.core < 0.01)
    assert np.median(flair[oedema]) > 1.35 * median(flair, anatomy.wm, scene)
    assert np.median(t1ce[oedema]) < 0.95 * median(t1ce, anatomy.wm, scene)


@pytest.mark.slow
def test_white_matter_lesions_are_bright_on_flair_and_do_not_enhance(scene, t1ce, flair):
    anatomy, lesions, distractors = scene
    spots = (distractors.white_matter > 0.8) & (lesions.whole < 0.01)
    assert np.median(flair[spots]) > 1.2 * median(flair, anatomy.wm, scene)
    assert np.median(t1ce[spots]) < median(t1ce, anatomy.wm, scene)


@pytest.mark.slow
def test_vessels_enhance_on_t1ce_and_are_flow_voids_on_flair(scene, t1ce, flair):
    anatomy, _, distractors = scene
    blood = distractors.sinuses > 0.9
    assert np.median(t1ce[blood]) > 1.3 * median(t1ce, anatomy.wm, scene)
    assert np.median(flair[blood]) < 0.8 * median(flair, anatomy.wm, scene)


@pytest.mark.slow
def test_a_faint_lesion_enhances_less(scene, t1ce):
    anatomy, lesions, distractors = scene
    faint = replace(lesions, enhancement=lesions.enhancement * 0.4)
    rng = np.random.default_rng(1)
    rim = (lesions.core > 0.9) & (lesions.necrosis < 0.1)
    signal = render(rng, "t1ce", anatomy, faint, distractors)
    assert np.median(signal[rim]) < np.median(t1ce[rim])


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
    # Whether a thin sheet meets a slice or the gap next to it depends on where it is.
    totals = []
    for z in range(28, 33):
        sheet[...] = 0
        sheet[:, :, z] = 1
        thick = slice_thick(sheet, source, target)
        assert thick.max() < 0.3
        totals.append(thick[10, 10].sum() * 5)
    assert np.mean(totals) == pytest.approx(1, rel=0.02)
    assert max(totals) < 1.25
    constant = slice_thick(np.ones_like(sheet), source, target)
    np.testing.assert_allclose(constant[5:15, 5:15, 4:8], 1, atol=1e-4)


def test_flair_grid_covers_the_t1ce_grid_and_is_turned():
    t1ce = plain_grid((150, 180, 150), (1, 1, 1))
    flair = draw_flair_grid(np.random.default_rng(0), t1ce, PhantomConfig())
    assert (flair.extent >= t1ce.extent).all()
    turn = (flair.affine[:3, :3] / flair.spacing) - np.eye(3)
    assert 0.01 < np.abs(turn).max() < 0.5


@pytest.mark.parametrize("seed", range(5))
def test_the_brains_box_takes_its_share_of_a_field_of_view_that_is_square_in_plane(seed):
    grid = plain_grid((150, 180, 36), (1.0, 1.0, 4.0))
    brain = np.zeros(grid.shape, dtype=bool)
    brain[5:145, 4:176, 1:34] = True
    pads = draw_background(np.random.default_rng(seed), brain, grid, PhantomConfig(box_share=(0.3, 0.4)))
    assert pads.min() >= 0
    sides = (np.array(grid.shape) + pads.sum(axis=1)) * grid.spacing
    assert sides[0] == pytest.approx(sides[1], abs=1.0)
    assert 0.29 < 140 * 172 * 33 * 4 / np.prod(sides) < 0.41


def test_a_brain_that_fills_its_grid_is_never_cut():
    grid = plain_grid((100, 200, 20), (1.0, 1.0, 4.0))
    full = np.ones(grid.shape, dtype=bool)
    pads = draw_background(np.random.default_rng(0), full, grid, PhantomConfig(box_share=(0.9, 0.9)))
    assert (pads >= 0).all()


@pytest.mark.slow
def test_oedema_is_uneven_on_flair(scene, flair):
    _, lesions, _ = scene
    oedema = (lesions.oedema > 0.9) & (lesions.core < 0.01)
    assert flair[oedema].std() / flair[oedema].mean() > 0.05
    swelling = lesions.swelling[oedema]
    near = lesions.swelling[(lesions.whole > 0.9) & (lesions.core > 0.4) & (lesions.core < 0.6)]
    assert near.mean() > np.percentile(swelling, 30)


GRID = Grid((24, 20, 16), np.diag((1.0, 1.0, 1.0, 1.0)))
NONE = {"blur": 0.2, "thickness": 1.5, "ghosts": 0.0, "spikes": 0.0, "motion": 0.0}
"""Strengths with which every fault is (nearly) without effect."""


@pytest.fixture
def signal():
    rng = np.random.default_rng(1)
    return rng.uniform(0, 2, GRID.shape).astype(np.float32)


def smooth(seed=2):
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in GRID.shape), indexing="ij")
    return np.exp(-3 * (x**2 + y**2 + z**2) + np.random.default_rng(seed).uniform()).astype(np.float32)


def test_without_faults_the_signal_is_unchanged(signal):
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(distort(rng, signal, GRID, Artefacts()), signal)


@pytest.mark.parametrize("seed", range(5))
def test_an_intensity_curve_keeps_the_order_and_white_matter(seed, signal):
    signal.flat[0] = 1
    curved = distort(np.random.default_rng(seed), signal, GRID, Artefacts(curve=0.5))
    order = np.argsort(signal, axis=None)
    assert (np.diff(curved.ravel()[order]) >= 0).all()
    assert curved.flat[0] == pytest.approx(1)
    assert not np.allclose(curved, signal, atol=0.02)


def test_spikes_are_waves():
    rng, config = np.random.default_rng(0), Artefacts(chance=1.0, **NONE | {"spikes": 0.1})
    calm = np.ones(GRID.shape, dtype=np.float32)
    spectrum = np.abs(np.fft.fftn(distort(rng, calm, GRID, config) - 1))
    strongest = np.sort(spectrum, axis=None)[::-1]
    assert strongest[200] < 0.1 * strongest[0]


@pytest.mark.parametrize("fault", ["blur", "ghosts", "motion", "thickness"])
def test_each_fault_changes_the_scan_but_keeps_its_mean(fault):
    rng, strong = np.random.default_rng(3), {"blur": 2.0, "ghosts": 0.2, "motion": 3.0, "thickness": 6.0}
    scan = smooth()
    config = Artefacts(chance=1.0, **NONE | {fault: strong[fault]})
    faulty = distort(rng, scan, GRID, config)
    assert faulty.shape == scan.shape
    assert np.isfinite(faulty).all()
    assert faulty.mean() == pytest.approx(scan.mean(), rel=0.15)
    assert np.abs(faulty - scan).max() > 0.02


def test_a_displaced_grid_has_another_origin_alone():
    moved = displaced(np.random.default_rng(0), GRID, 1.0)
    assert moved.shape == GRID.shape
    shift = moved.affine - GRID.affine
    assert 0.1 < np.abs(shift[:3, 3]).max() < 5
    assert not shift[:3, :3].any()


@pytest.fixture(scope="module")
def stripped(anatomy):
    nothing = np.zeros(anatomy.grid.shape, dtype=np.float32)
    tumour = nothing.copy()
    tumour[: tumour.shape[0] // 2] = 1
    distractors = Distractors(*(nothing for _ in fields(Distractors)))
    config = Artefacts(missing=6.0, dura=4.0)
    return tumour, *add_stripping_errors(np.random.default_rng(0), anatomy, distractors, tumour, config)


def test_cortex_is_missing_but_no_tumour_is(anatomy, stripped):
    tumour, faulty, _ = stripped
    missing = anatomy.brain & ~faulty.brain
    assert 0.01 < missing.sum() / anatomy.brain.sum() < 0.3
    assert anatomy.depth[missing].max() < 13
    assert not (missing & (tumour > 0)).any()


def test_dura_is_left_outside_the_brain(anatomy, stripped):
    _, faulty, distractors = stripped
    dura = faulty.brain & ~anatomy.brain
    assert dura.any()
    assert (distractors.meninges[dura] == 1).all()


def test_stripping_without_faults_is_unchanged(anatomy):
    nothing = np.zeros(anatomy.grid.shape, dtype=np.float32)
    distractors = Distractors(*(nothing for _ in fields(Distractors)))
    same = add_stripping_errors(np.random.default_rng(0), anatomy, distractors, nothing, Artefacts())
    assert same[0].brain is anatomy.brain
    assert same[1].meninges is nothing
