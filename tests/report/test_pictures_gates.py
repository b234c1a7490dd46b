import matplotlib.image
import numpy as np
import pytest

from sgnet_nnunet.inference.gate_maps import GatedCase
from sgnet_nnunet.report.slices import draw_gates


def box(*ends, shape=(8, 24, 20)):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*end) for end in ends)] = True
    return mask


def case(**changes):
    values = {
        "name": "case",
        "image": np.random.default_rng(0).random((2, 8, 24, 20)).astype(np.float32),
        "spacing": (1.0, 1.0, 1.0),
        "gates": {f"1/{2**level}": box((2, 6), (4, 16), (4, 16)) for level in (3, 2, 1)},
        "prediction": box((3, 5), (6, 12), (6, 12)),
        "reference": box((3, 5), (6, 12), (6, 12)),
    }
    return GatedCase(**values | changes)


def picture_of(tmp_path, **changes):
    draw_gates(case(**changes), tmp_path / "gates.png")
    return matplotlib.image.imread(tmp_path / "gates.png")[..., :3]


def reddish(picture):
    red, green, blue = np.moveaxis(picture, -1, 0)
    return (red > 0.8) & (green < 0.6) & (blue < 0.6)


def greenish(picture):
    red, green, blue = np.moveaxis(picture, -1, 0)
    return (green > 0.7) & (red < 0.5) & (blue < 0.6)


def test_prediction_is_red_and_truth_green(tmp_path):
    picture = picture_of(tmp_path)
    assert reddish(picture).any()
    assert greenish(picture).any()


def test_nothing_predicted_and_no_reference_draws_no_outline(tmp_path):
    picture = picture_of(tmp_path, reference=None, prediction=box((0, 0), (0, 0), (0, 0)))
    assert not reddish(picture).any()
    assert not greenish(picture).any()


def test_closed_gate_is_darker_than_an_open_one(tmp_path):
    shut = picture_of(tmp_path, gates={"1/2": box((0, 0), (0, 0), (0, 0))}).mean()
    opened = picture_of(tmp_path, gates={"1/2": box((0, 8), (0, 24), (0, 20))}).mean()
    assert shut < opened


@pytest.mark.parametrize("channels", [1, 3])
def test_any_number_of_channels_can_be_drawn(tmp_path, channels):
    image = np.random.default_rng(0).random((channels, 8, 24, 20)).astype(np.float32)
    assert picture_of(tmp_path, image=image).size
