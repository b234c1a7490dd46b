"""Damage that is no tumour."""

from dataclasses import fields

import numpy as np
import pytest

from sgnet_nnunet.phantom.config import Pathology
from sgnet_nnunet.phantom.pathology import add_pathology, limbic_cortex
from sgnet_nnunet.phantom.vessels import Distractors


@pytest.fixture(scope="module")
def nothing(anatomy):
    return np.zeros(anatomy.grid.shape, dtype=np.float32)


def add(anatomy, nothing, config, tumour=None):
    distractors = Distractors(*(nothing for _ in fields(Distractors)))
    tumour = nothing if tumour is None else tumour
    return add_pathology(np.random.default_rng(2), anatomy, distractors, tumour, config)


def test_by_default_there_is_none(anatomy, nothing):
    distractors = add(anatomy, nothing, Pathology())
    assert distractors.cavities is nothing
    assert distractors.white_matter is nothing


@pytest.mark.slow
def test_cavities_have_a_bright_rim_and_spare_the_tumour(anatomy, nothing):
    tumour = nothing.copy()
    tumour[: tumour.shape[0] // 2] = 1
    found = add(anatomy, nothing, Pathology(cavities=3, cavity_radius=(6.0, 9.0), gliosis=3.0), tumour)
    fluid, rim = found.cavities > 0.5, (found.white_matter > 0.5) & (found.cavities < 0.5)
    assert 200 < fluid.sum() * anatomy.grid.voxel_mm3 < 15000
    assert rim.any()
    assert not (fluid | rim)[tumour > 0].any()
    assert not (fluid | rim)[~anatomy.brain].any()


@pytest.mark.slow
def test_confluent_disease_reaches_farther_around_the_ventricles_the_more_there_is(anatomy, nothing):
    sizes = []
    for reach in (3.0, 9.0):
        bright = add(anatomy, nothing, Pathology(confluent=reach)).white_matter > 0.5
        assert anatomy.wm[bright].min() > 0.3
        assert np.median(np.abs(anatomy.mni[0][bright])) < 40
        sizes.append(bright.sum())
    assert 0 < sizes[0] < sizes[1]


def test_bright_cortex_is_on_both_sides(anatomy):
    limbic = limbic_cortex(anatomy)
    x = anatomy.mni[0]
    assert 0.8 < limbic.max() <= 1
    right, left = ((limbic > 0.7) & (side * x > 25) for side in (1, -1))
    assert 0.4 < right.sum() / left.sum() < 2.5
