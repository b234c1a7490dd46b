import numpy as np
import pytest
from scipy import ndimage

from sgnet_nnunet.phantom.anatomy import load_template


@pytest.mark.slow
def test_tissue_fractions_sum_to_one_in_the_brain_only(anatomy):
    total = anatomy.gm + anatomy.wm + anatomy.csf
    np.testing.assert_allclose(total[anatomy.brain], 1, atol=1e-5)
    assert not total[~anatomy.brain].any()


@pytest.mark.slow
def test_brain_does_not_touch_the_border_of_its_grid(anatomy):
    for axis in range(3):
        for side in (0, -1):
            assert not np.take(anatomy.brain, side, axis).any()


@pytest.mark.slow
def test_brain_is_one_piece(anatomy):
    labels, _ = ndimage.label(anatomy.brain)
    assert np.bincount(labels.ravel())[1:].max() > 0.999 * anatomy.brain.sum()


@pytest.mark.slow
def test_grey_and_white_matter_have_human_proportions(anatomy):
    grey_to_white = anatomy.gm.sum() / anatomy.wm.sum()
    assert 0.9 < grey_to_white < 2.2
    assert 0.05 < anatomy.csf.sum() / anatomy.brain.sum() < 0.35


@pytest.mark.slow
def test_voxels_of_inverts_the_deformation(anatomy):
    voxels = np.argwhere(anatomy.brain)[::5003]
    points = anatomy.mni[(slice(None), *voxels.T)].T.astype(float)
    error = np.linalg.norm((anatomy.voxels_of(points) - voxels) * anatomy.grid.spacing, axis=1)
    assert np.median(error) < 0.5 * max(anatomy.grid.spacing)


@pytest.mark.slow
def test_ventricles_hold_fluid(anatomy):
    assert anatomy.csf[anatomy.ventricles > 0.8].mean() > 0.7


def test_lateral_ventricles_of_the_template_have_their_known_size():
    millilitres = load_template().ventricles.sum() / 1000
    assert 10 < millilitres < 30
