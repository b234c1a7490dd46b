import numpy as np
import pytest
from scipy import ndimage

from sgnet_nnunet.phantom.tumours import spread_oedema


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
    allowed = max(max_volume, core.sum() * anatomy.grid.voxel_volume)
    assert whole.sum() * anatomy.grid.voxel_volume <= allowed * 1.001
