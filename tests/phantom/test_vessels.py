from dataclasses import fields

import numpy as np
import pytest

from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.vessels import draw_distractors


@pytest.fixture(scope="module")
def distractors(anatomy):
    return draw_distractors(np.random.default_rng(4), anatomy, PhantomConfig(vessels=100))


def test_every_kind_but_cavities_is_present_as_fractions_within_the_brain(anatomy, distractors):
    for field in fields(distractors):
        fraction = getattr(distractors, field.name)
        assert fraction.dtype == np.float32
        assert (fraction.max() > 0.3) == (field.name != "cavities"), field.name
        assert fraction.min() >= 0
        assert fraction.max() <= 1
        assert not fraction[~anatomy.brain].any()


def test_vessels_run_in_fluid(anatomy, distractors):
    inside = distractors.vessels > 0.5
    assert anatomy.csf[inside].mean() > 2 * anatomy.csf[anatomy.brain].mean()


def test_superior_sagittal_sinus_runs_along_the_midline_at_the_back(anatomy, distractors):
    x, y, z = anatomy.mni
    back = (np.abs(x) < 6) & (y < -85) & (z > 10) & anatomy.brain
    assert (distractors.sinuses[back] > 0.5).sum() > 50


def test_choroid_plexus_lies_in_the_lateral_ventricles_on_both_sides(anatomy, distractors):
    plexus = distractors.plexus > 0.3
    assert anatomy.near_ventricles[plexus].min() > 0.1
    x = anatomy.mni[0][plexus]
    assert (x > 5).sum() > 30
    assert (x < -5).sum() > 30


def test_white_matter_lesions_lie_in_white_matter(anatomy, distractors):
    assert anatomy.wm[distractors.white_matter > 0.5].mean() > 0.7


def test_vessels_can_be_turned_off_but_for_the_arteries(anatomy, distractors):
    bare = draw_distractors(np.random.default_rng(4), anatomy, PhantomConfig(vessels=0))
    assert 0 < bare.vessels.sum() < distractors.vessels.sum() / 2
