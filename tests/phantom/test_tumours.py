"""Lesions and their oedema."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.tumours import Lesion, displace, draw_lesions, rasterise, spread_oedema

pytestmark = pytest.mark.slow


def diameter(lesion):
    return 2 * float(np.cbrt(np.prod(lesion.radii)))


@pytest.fixture(scope="module")
def population(anatomy):
    return [draw_lesions(np.random.default_rng(seed), anatomy, PhantomConfig()) for seed in range(40)]


@pytest.fixture(scope="module")
def border_voxel(anatomy):
    found = np.argwhere((np.minimum(anatomy.gm, anatomy.wm) > 0.3) & (anatomy.depth > 12))
    x, y, z = found[len(found) // 2]
    return int(x), int(y), int(z)


def test_every_patient_has_a_lesion_and_few_have_many(population):
    counts = np.array([len(lesions) for lesions in population])
    assert counts.min() >= 1
    assert 2 <= np.median(counts) <= 4
    assert counts.max() >= 8
    assert counts.max() <= PhantomConfig().max_lesions


def test_diameters_are_those_of_metastases(population):
    diameters = np.array([diameter(lesion) for lesions in population for lesion in lesions])
    assert 5 < np.median(diameters) < 12
    assert diameters.max() < 33


def test_rings_oedema_and_faint_lesions_occur(population):
    lesions = [lesion for lesions in population for lesion in lesions]
    assert 0.1 < np.mean([np.isfinite(lesion.rim) for lesion in lesions]) < 0.8
    assert 0.2 < np.mean([lesion.reach > 0 for lesion in lesions]) < 0.9
    assert 0.03 < np.mean([lesion.enhancement < 0.7 for lesion in lesions]) < 0.3


def test_lesions_sit_on_the_grey_white_border(anatomy, population):
    for lesions in population:
        for lesion in lesions:
            assert min(anatomy.gm[lesion.centre], anatomy.wm[lesion.centre]) > 0.2


def test_cores_shrink_to_the_room_they_have(anatomy):
    config = PhantomConfig(diameter_median=30, extra_lesions_median=12, max_core_fraction=0.004)
    lesions = draw_lesions(np.random.default_rng(0), anatomy, config)
    volume = sum(np.pi / 6 * diameter(lesion) ** 3 for lesion in lesions)
    assert volume <= 0.0041 * anatomy.brain_volume


def test_a_ring_encloses_necrosis_and_a_solid_lesion_none(anatomy, border_voxel):
    ring = Lesion(centre=border_voxel, radii=(9.0, 9.0, 9.0), rim=2.0, enhancement=1.0, reach=0.0)
    maps = rasterise(np.random.default_rng(0), anatomy, [ring], PhantomConfig())
    assert maps.necrosis[border_voxel] > 0.5
    assert 0.1 < maps.necrosis.sum() / maps.core.sum() < 0.9
    solid = rasterise(np.random.default_rng(0), anatomy, [replace(ring, rim=np.inf)], PhantomConfig())
    assert not solid.necrosis.any()
    np.testing.assert_array_equal(solid.core, maps.core)


def test_a_lesion_has_about_its_volume_but_is_no_sphere(anatomy, border_voxel):
    lesion = Lesion(centre=border_voxel, radii=(8.0, 8.0, 8.0), rim=np.inf, enhancement=1.0, reach=0.0)
    core = rasterise(np.random.default_rng(0), anatomy, [lesion], PhantomConfig()).core > 0.5
    volume = core.sum() * anatomy.grid.voxel_mm3
    assert volume == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.3)
    distance = np.linalg.norm((np.argwhere(core) - border_voxel) * anatomy.grid.spacing, axis=1)
    assert distance.max() > 9


def roughness(anatomy, centre, radius):
    """Return the area of a lesion's surface for its volume, without a unit."""
    lesion = Lesion(centre=centre, radii=(radius,) * 3, rim=np.inf, enhancement=1.0, reach=0.0)
    core = rasterise(np.random.default_rng(3), anatomy, [lesion], PhantomConfig()).core > 0.5
    faces = sum(int(np.diff(core.astype(np.int8), axis=axis).astype(bool).sum()) for axis in range(3))
    return faces / np.cbrt(core.sum()) ** 2


def test_large_lesions_have_rougher_outlines_than_small_ones(anatomy, border_voxel):
    assert roughness(anatomy, border_voxel, 14.0) > 1.03 * roughness(anatomy, border_voxel, 4.0)


@pytest.fixture(scope="module")
def large(border_voxel):
    return Lesion(centre=border_voxel, radii=(13.0, 13.0, 13.0), rim=2.5, enhancement=1.0, reach=14.0)


@pytest.fixture(scope="module")
def pushed(anatomy, large):
    return displace(anatomy, [large])


def test_small_lesions_displace_nothing(anatomy, large):
    small = displace(anatomy, [replace(large, radii=(3.5, 3.5, 3.5))])
    for name in ("mni", "gm", "wm", "csf", "ventricles"):
        np.testing.assert_array_equal(getattr(small, name), getattr(anatomy, name))


def test_a_large_lesion_pushes_tissue_away_and_leaves_the_surface(anatomy, pushed, large):
    offset = (np.argwhere(anatomy.brain) - large.centre) * np.array(anatomy.grid.spacing)
    away = np.linalg.norm(offset, axis=1)
    # What is found at a voxel came from nearer the lesion.
    origin = pushed.mni[:, anatomy.brain].T.astype(float)
    came_from = (anatomy.voxels_of(origin[::997]) - large.centre) * anatomy.grid.spacing
    nearer = away[::997] - np.linalg.norm(came_from, axis=1)
    deep = (anatomy.depth[anatomy.brain] > 12)[::997]
    ring = deep & (away[::997] > 14) & (away[::997] < 18)
    assert np.median(nearer[ring]) > 1.5
    assert abs(np.median(nearer[away[::997] > 60])) < 0.3
    shallow = anatomy.brain & (anatomy.depth < 0.1)
    assert shallow.any()
    np.testing.assert_allclose(pushed.mni[:, shallow], anatomy.mni[:, shallow], atol=0.2)
    np.testing.assert_array_equal(pushed.brain, anatomy.brain)


def test_displaced_tissue_never_folds(anatomy, pushed, large):
    box = tuple(slice(max(c - 30, 0), c + 31) for c in large.centre)
    inside = anatomy.brain[box]
    columns = [np.stack(np.gradient(mni[box], *anatomy.grid.spacing)) for mni in pushed.mni]
    jacobian = np.linalg.det(np.moveaxis(np.stack(columns), (0, 1), (-2, -1)))
    outside_core = (
        np.linalg.norm(
            (np.indices(inside.shape).T.reshape(-1, 3) + [s.start for s in box] - large.centre)
            * anatomy.grid.spacing,
            axis=1,
        )
        .reshape(inside.shape[::-1])
        .T
        > 13
    )
    assert (jacobian[inside & outside_core] > 0).mean() > 0.999


def test_displaced_fractions_sum_to_one_and_sulci_close(anatomy, pushed, large):
    total = pushed.gm + pushed.wm + pushed.csf
    np.testing.assert_allclose(total[pushed.brain], 1, atol=1e-4)
    assert not total[~pushed.brain].any()
    box = tuple(slice(max(c - 25, 0), c + 26) for c in large.centre)
    sulci = (anatomy.near_ventricles[box] < 0.1) & anatomy.brain[box]
    assert pushed.csf[box][sulci].sum() < 0.9 * anatomy.csf[box][sulci].sum()


def test_oedema_follows_the_displaced_white_matter(anatomy, pushed, large):
    maps = rasterise(np.random.default_rng(0), pushed, [large], PhantomConfig(max_tumour_fraction=0.05))
    swollen = (maps.oedema > 0.5) & (maps.core < 0.01)
    assert pushed.wm[swollen].mean() > anatomy.wm[swollen].mean()
    assert pushed.csf[swollen].mean() < 0.05


def test_core_stays_in_the_brain(anatomy):
    config, rng = PhantomConfig(), np.random.default_rng(0)
    maps = rasterise(rng, anatomy, draw_lesions(rng, anatomy, config), config)
    assert not maps.whole[~anatomy.brain].any()


@pytest.fixture(scope="module")
def centre(anatomy):
    found = np.argwhere((np.minimum(anatomy.gm, anatomy.wm) > 0.3) & (anatomy.depth > 10))
    x, y, z = found[len(found) // 3]
    return int(x), int(y), int(z)


@pytest.fixture(scope="module")
def core(anatomy, centre):
    seed = np.ones(anatomy.grid.shape, dtype=bool)
    seed[centre] = False
    box = tuple(slice(max(c - 12, 0), c + 13) for c in centre)
    ball = np.zeros(anatomy.grid.shape, dtype=np.float32)
    ball[box] = ndimage.distance_transform_edt(seed[box], sampling=anatomy.grid.spacing) <= 5
    return ball


def spread(anatomy, core, sources, max_volume=1e6):
    return spread_oedema(np.random.default_rng(0), anatomy, core=core, sources=sources, max_volume=max_volume)


def test_without_sources_there_is_none(anatomy, core):
    assert not spread(anatomy, core, []).any()


def test_oedema_prefers_white_matter(anatomy, core, centre):
    swollen = (spread(anatomy, core, [(centre, 5.0, 15.0)]) > 0.5) & (core == 0)
    assert swollen.sum() > 500
    assert anatomy.wm[swollen].mean() > 2 * anatomy.gm[swollen].mean()
    assert anatomy.csf[swollen].mean() < 0.1


def test_a_longer_reach_swells_more(anatomy, core, centre):
    volumes = [(spread(anatomy, core, [(centre, 5.0, reach)]) > 0.5).sum() for reach in (6.0, 12.0, 20.0)]
    assert volumes[0] < volumes[1] < volumes[2]


def test_oedema_touches_its_lesion(anatomy, core, centre):
    whole = (spread(anatomy, core, [(centre, 5.0, 12.0)]) > 0.5) | (core > 0)
    labels, _ = ndimage.label(whole, structure=np.ones((3, 3, 3)))
    assert (labels == labels[centre]).sum() > 0.95 * whole.sum()


@pytest.mark.parametrize("max_volume", [8000.0, 3000.0, 0.0])
def test_oedema_recedes_to_the_volume_it_may_have(anatomy, core, centre, max_volume):
    oedema = spread(anatomy, core, [(centre, 5.0, 25.0)], max_volume=max_volume)
    whole = np.maximum(core, oedema) > 0.5
    allowed = max(max_volume, core.sum() * anatomy.grid.voxel_mm3)
    assert whole.sum() * anatomy.grid.voxel_mm3 <= allowed * 1.001
