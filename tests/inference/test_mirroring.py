from itertools import product

import numpy as np
import pytest

from sgnet_nnunet.inference.engines import Mirrored


class Shifted:
    """A network that is anything but symmetric."""

    channels, heads = 2, 2

    def __init__(self):
        self.calls = 0

    def logits(self, image):
        assert image.flags.c_contiguous
        self.calls += 1
        ramp = np.arange(image[0].size, dtype=np.float32).reshape(image.shape[1:])
        return np.stack([image[0] * ramp, np.roll(image[1], 1, axis=0) + ramp])


@pytest.fixture
def image():
    return np.random.default_rng(0).random((2, 3, 4, 5), dtype=np.float32)


def test_logits_are_the_mean_over_all_flips(image):
    flips = [
        [axis for axis, wanted in zip((1, 2, 3), choice, strict=True) if wanted]
        for choice in product((False, True), repeat=3)
    ]
    expected = np.mean([np.flip(Shifted().logits(np.flip(image, f).copy()), f) for f in flips], axis=0)
    engine = Shifted()
    np.testing.assert_allclose(Mirrored(engine, (0, 1, 2)).logits(image), expected, rtol=1e-5)
    assert engine.calls == 8


def test_only_the_allowed_axes_are_mirrored(image):
    engine = Shifted()
    flipped = engine.logits(image[:, :, ::-1].copy())[:, :, ::-1]
    np.testing.assert_allclose(
        Mirrored(engine, (1,)).logits(image), (engine.logits(image) + flipped) / 2, rtol=1e-6
    )


def test_image_and_the_engines_channels_stay(image):
    before = image.copy()
    mirrored = Mirrored(Shifted(), (0,))
    mirrored.logits(image)
    np.testing.assert_array_equal(image, before)
    assert (mirrored.channels, mirrored.heads) == (2, 2)
