"""The component rejector: features of lesions, trees, and that prediction applies them."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import write_json
from sgnet_nnunet.inference.component_rejector import Rejector, Scene, Tree, component_features, rejected
from sgnet_nnunet.inference.operating_point import (
    FORMAT,
    VERSION_OF_REJECTOR,
    OperatingPoint,
    Provenance,
    lesions_at,
    read_operating_point,
)
from sgnet_nnunet.inference.preprocessing import Prepared
from sgnet_nnunet.lesions import find_lesions

SPACING = (2.0, 1.0, 1.0)
SHAPE = (24, 40, 44)


def stump(feature, threshold, *, names=None):
    """A rejector of one split, which removes values up to the threshold, and NaN."""
    tree = Tree(
        feature=(feature, -1, -1),
        threshold=(threshold, 0, 0),
        nan_left=(True, False, False),
        left=(1, -1, -1),
        right=(2, -1, -1),
        value=(0, -1, 1),
    )
    return Rejector(features=names or ("volume_mm3",), baseline=0.0, trees=(tree,), min_score=0.0)


@pytest.fixture(scope="module")
def head():
    """A ball of 10 mm, bright in the second channel, and a bar, in a brain; probabilities and the scene."""
    z, y, x = (axis - middle for axis, middle in zip(np.indices(SHAPE), (12, 20, 22), strict=True))
    inside = (2 * z) ** 2 + y**2 + x**2 < 19**2
    ball = (2 * z) ** 2 + (y - 5) ** 2 + x**2 <= 5**2
    bar = (z == 0) & (y == -8) & (abs(x + 4) <= 4)
    image = np.where(inside, np.float32(0.5), np.float32(0)) + np.zeros((2, 1, 1, 1), dtype=np.float32)
    image[1][ball] += 0.25
    foreground = np.where(ball, 0.9, np.where(bar, 0.6, 0.01)).astype(np.float32)
    known = {
        "spacing": SPACING,
        "shape_after_cropping_and_before_resampling": SHAPE,
        "bbox_used_for_cropping": [(0, length) for length in SHAPE],
    }
    return foreground, Scene.of(Prepared(image, known), (0, 1, 2), {"1/2": np.full((12, 20, 22), 3.0)})


def features_of(foreground, scene):
    return component_features(find_lesions(foreground > 0.5, spacing=SPACING), foreground, scene, SPACING)


def test_features_of_a_ball_and_a_bar_are_those_of_their_geometry(head):
    found = features_of(*head)
    ball, bar = (dict(zip(found, values, strict=True)) for values in zip(*found.values(), strict=True))
    assert ball["volume_mm3"] == pytest.approx(4 / 3 * np.pi * 125, rel=0.06)
    assert ball["length_mm"] == pytest.approx(10, rel=0.08)
    assert ball["elongation"] == pytest.approx(1, abs=0.15)
    assert ball["compactness"] == pytest.approx(1, abs=0.05)
    assert bar["elongation"] > 4
    assert ball["mean_probability"] == ball["max_probability"] == pytest.approx(0.9)
    assert bar["rim_entropy"] == pytest.approx(-0.6 * np.log(0.6) - 0.4 * np.log(0.4), rel=1e-5)
    assert (ball["contrast_0"], ball["contrast_1"]) == (pytest.approx(0, abs=1e-6), pytest.approx(0.25))
    assert ball["intensity_1"] == pytest.approx(0.75)
    assert ball["surface_mm"] == pytest.approx(14, abs=3)
    assert (ball["middle_mm"], bar["middle_mm"]) == (pytest.approx(0.5), pytest.approx(3.5))
    assert ball["gate_score_1/2"] == 3


def test_features_in_a_part_of_the_image_are_those_in_the_whole(head):
    foreground, scene = head
    whole, start = features_of(foreground, scene), (8, 12, 14)
    part = features_of(foreground[8:17, 12:32, 14:28], scene.of_crop(start))
    for name, values in whole.items():
        np.testing.assert_allclose(part[name], values, rtol=1e-6, atol=1e-9, err_msg=name)


def test_axes_of_the_reader_do_not_change_what_is_measured(head):
    foreground, scene = head
    turned = replace(scene, axes=(1, 2, 0))
    found = component_features(
        find_lesions(foreground.transpose(2, 0, 1) > 0.5, spacing=(1, 2, 1)),
        foreground.transpose(2, 0, 1),
        turned,
        (1.0, 2.0, 1.0),
    )
    for name, values in features_of(foreground, scene).items():
        np.testing.assert_allclose(np.sort(found[name]), np.sort(values), rtol=1e-5, atol=1e-9, err_msg=name)


def test_ring_without_brain_has_no_contrast(head):
    foreground, scene = head
    image = np.where(foreground > 0.5, scene.image, 0)
    found = features_of(foreground, replace(scene, image=image))
    assert np.isnan(found["contrast_0"]).all()


def test_image_without_background_is_all_brain(head):
    _, scene = head
    rng = np.random.default_rng(3)
    image = rng.uniform(size=scene.image.shape).astype(np.float32)
    assert replace(scene, image=image).brain.all()


def test_lesions_of_a_low_score_are_removed(head):
    foreground, scene = head
    point = OperatingPoint(threshold=0.5, rejector=stump(0, 100.0))
    assert lesions_at(foreground, point, SPACING, scene=scene)[1].tolist() == [True, False]
    assert lesions_at(foreground, replace(point, rejector=None), SPACING)[1].all()
    assert lesions_at(foreground * 0, point, SPACING, scene=scene)[1].size == 0
    with pytest.raises(ValueError, match="needs the scene"):
        lesions_at(foreground, point, SPACING)


def test_feature_that_the_engine_does_not_give_is_an_error(head):
    foreground, scene = head
    lesions = find_lesions(foreground > 0.5, spacing=SPACING)
    with pytest.raises(SGNetError, match=r"needs gate_score_1/8, .*--engine sparse"):
        rejected(stump(0, 0.0, names=("gate_score_1/8",)), lesions, foreground, scene, SPACING)


PROVENANCE = Provenance(model="D/M", engine="sparse", folds=("0",), weights_sha256="abc")


def write(path, rejector):
    point = OperatingPoint(threshold=0.3, rejector=stump(0, 1.0)).as_json() | {"rejector": rejector}
    header = {"format": FORMAT, "version": VERSION_OF_REJECTOR, "tuned_for": asdict(PROVENANCE)}
    write_json(path, header | {"point": point})
    return path


def test_rejector_comes_back_from_the_file(tmp_path):
    rejector = stump(0, 12.5)
    assert read_operating_point(write(tmp_path / "p.json", asdict(rejector))).point.rejector == rejector


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"left": (0, -1, -1)}, "make no tree"),
        ({"right": (3, -1, -1)}, "make no tree"),
        ({"value": (0, 1)}, "make no tree"),
        ({"feature": (1, -1, -1)}, "ask for more than the `?features"),
        ({"threshold": (1e40, 0, 0)}, "threshold"),
        ({"feature": ("a", -1, -1)}, "feature"),
    ],
)
def test_trees_that_are_none_are_refused_in_one_line(tmp_path, tree, message):
    content = asdict(stump(0, 1.0))
    content["trees"][0].update(tree)
    with pytest.raises(InputFileError, match=message):
        read_operating_point(write(tmp_path / "p.json", content))


def test_records_have_a_checksum_in_place_of_the_trees():
    points = [OperatingPoint(threshold=0.5, rejector=stump(0, volume)) for volume in (1.0, 2.0)]
    first, second = (point.as_json(whole=False)["rejector"] for point in points)
    assert first["sha256"] != second["sha256"]
    assert "trees" not in first
    assert "rejector" not in OperatingPoint(threshold=0.5).as_json()
