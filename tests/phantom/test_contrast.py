from dataclasses import replace

import numpy as np
import pytest

from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.scanner import draw_flair_contrast, draw_t1ce_contrast, render
from sgnet_nnunet.phantom.tumours import Lesion, rasterise
from sgnet_nnunet.phantom.vessels import draw_distractors


@pytest.fixture(scope="module")
def scene(anatomy):
    rng = np.random.default_rng(4)
    found = np.argwhere((np.minimum(anatomy.gm, anatomy.wm) > 0.3) & (anatomy.depth > 14))
    x, y, z = found[len(found) // 2]
    lesion = Lesion(
        centre=(int(x), int(y), int(z)), radii=(10.0, 10.0, 10.0), rim=2.5, enhancement=1.0, reach=12.0
    )
    lesions = rasterise(rng, anatomy, [lesion], PhantomConfig())
    return anatomy, lesions, draw_distractors(rng, anatomy, PhantomConfig())


def median(signal, fraction, scene, threshold=0.9):
    _, lesions, distractors = scene
    undisturbed = (lesions.whole < 0.01) & (distractors.white_matter < 0.01)
    return float(np.median(signal[(fraction > threshold) & undisturbed]))


@pytest.fixture(scope="module")
def t1ce(scene):
    rng = np.random.default_rng(1)
    return render(rng, draw_t1ce_contrast(rng), *scene)


@pytest.fixture(scope="module")
def flair(scene):
    rng = np.random.default_rng(1)
    return render(rng, draw_flair_contrast(rng), *scene)


def test_white_matter_is_brightest_on_t1ce_and_grey_on_flair(scene, t1ce, flair):
    anatomy = scene[0]
    tissues = (anatomy.csf, anatomy.gm, anatomy.wm)
    fluid, grey, white = (median(t1ce, fraction, scene) for fraction in tissues)
    assert fluid < grey < white
    fluid, grey, white = (median(flair, fraction, scene) for fraction in tissues)
    assert fluid < white < grey


def test_rim_is_bright_and_necrosis_dark_on_t1ce(scene, t1ce):
    anatomy, lesions, _ = scene
    white = median(t1ce, anatomy.wm, scene)
    assert np.median(t1ce[(lesions.core > 0.9) & (lesions.necrosis < 0.1)]) > 1.25 * white
    assert np.median(t1ce[lesions.necrosis > 0.9]) < 0.75 * white


def test_oedema_is_bright_on_flair_and_dark_on_t1ce(scene, t1ce, flair):
    anatomy, lesions, _ = scene
    oedema = (lesions.oedema > 0.8) & (lesions.core < 0.01)
    assert np.median(flair[oedema]) > 1.35 * median(flair, anatomy.wm, scene)
    assert np.median(t1ce[oedema]) < 0.95 * median(t1ce, anatomy.wm, scene)


def test_white_matter_lesions_are_bright_on_flair_and_do_not_enhance(scene, t1ce, flair):
    anatomy, lesions, distractors = scene
    spots = (distractors.white_matter > 0.8) & (lesions.whole < 0.01)
    assert np.median(flair[spots]) > 1.2 * median(flair, anatomy.wm, scene)
    assert np.median(t1ce[spots]) < median(t1ce, anatomy.wm, scene)


def test_vessels_enhance_on_t1ce_and_are_flow_voids_on_flair(scene, t1ce, flair):
    anatomy, _, distractors = scene
    blood = distractors.sinuses > 0.9
    assert np.median(t1ce[blood]) > 1.3 * median(t1ce, anatomy.wm, scene)
    assert np.median(flair[blood]) < 0.8 * median(flair, anatomy.wm, scene)


def test_a_faint_lesion_enhances_less(scene, t1ce):
    anatomy, lesions, distractors = scene
    faint = replace(lesions, enhancement=lesions.enhancement * 0.4)
    rng = np.random.default_rng(1)
    rim = (lesions.core > 0.9) & (lesions.necrosis < 0.1)
    signal = render(rng, draw_t1ce_contrast(rng), anatomy, faint, distractors)
    assert np.median(signal[rim]) < np.median(t1ce[rim])
