import numpy as np
import pytest

from sgnet_nnunet.planning.normalization import PercentileTo01Normalization


def normalise(image, seg=None, *, use_mask=False):
    return PercentileTo01Normalization(use_mask_for_norm=use_mask, intensityproperties={}).run(image, seg)


@pytest.fixture
def image():
    return np.random.default_rng(0).gamma(2.0, 100.0, size=(8, 20, 20)).astype(np.float32)


def test_equals_numpy(image):
    lower, upper = np.percentile(image, (0.5, 99.5))
    expected = (np.clip(image, lower, upper) - lower) / (upper - lower)
    np.testing.assert_allclose(normalise(image), expected, rtol=1e-6)


def test_lies_in_zero_to_one_and_reaches_both_ends(image):
    result = normalise(image)
    assert (result.min(), result.max()) == (0.0, 1.0)
    assert result.dtype == np.float32


def test_mask_keeps_the_background_out_of_the_percentiles_and_at_zero(image):
    seg = np.zeros(image.shape, dtype=np.int8)
    seg[:, :10] = -1
    inside = seg >= 0
    image[~inside] = -5000
    result = normalise(image, seg, use_mask=True)
    assert (result[~inside] == 0).all()
    np.testing.assert_allclose(result[inside], normalise(image[:, 10:]).ravel(), rtol=1e-6)


def test_input_is_left_alone(image):
    before = image.copy()
    normalise(image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_constant_image_gives_zeros(value):
    assert (normalise(np.full((2, 3, 4), value, dtype=np.float32)) == 0).all()


def test_empty_mask_gives_zeros(image):
    result = normalise(image, np.full(image.shape, -1), use_mask=True)
    assert (result == 0).all()


def test_missing_mask_is_an_error(image):
    with pytest.raises(ValueError, match="mask"):
        normalise(image, use_mask=True)
