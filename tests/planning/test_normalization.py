import numpy as np
import pytest

from sgnet_nnunet.planning.normalization import PercentileNormalization, PercentileTo01Normalization

KINDS = (PercentileNormalization, PercentileTo01Normalization)


def normalise(image, seg=None, *, kind=PercentileTo01Normalization, use_mask=False):
    return kind(use_mask_for_norm=use_mask, intensityproperties={}).run(image, seg)


@pytest.fixture
def image():
    return np.random.default_rng(0).gamma(2.0, 100.0, size=(8, 20, 20)).astype(np.float32)


def test_equals_numpy(image):
    lower, upper = np.percentile(image, (0.5, 99.5))
    expected = (np.clip(image, lower, upper) - lower) / (upper - lower)
    np.testing.assert_allclose(normalise(image), expected, rtol=1e-6)


def test_unclipped_is_numpys_line_through_both_percentiles(image):
    lower, upper = np.percentile(image, (0.5, 99.5))
    result = normalise(image, kind=PercentileNormalization)
    np.testing.assert_allclose(result, (image - lower) / (upper - lower), rtol=1e-5, atol=1e-6)
    assert result.min() < 0
    assert result.max() > 1


def test_unclipped_keeps_a_small_bright_lesion_apart_from_the_brain(image):
    brain = image.min(initial=200) + image / 10
    brain[4, :4, :2] = 10 * brain.max()
    lesion = np.zeros(image.shape, dtype=bool)
    lesion[4, :4, :2] = True
    clipped = normalise(brain, kind=PercentileTo01Normalization)
    kept = normalise(brain, kind=PercentileNormalization)
    assert clipped[lesion].max() == clipped[~lesion].max()
    assert kept[lesion].min() > 5 * kept[~lesion].max()


def test_lies_in_zero_to_one_and_reaches_both_ends(image):
    result = normalise(image)
    assert (result.min(), result.max()) == (0.0, 1.0)
    assert result.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_mask_keeps_the_background_out_of_the_percentiles_and_at_zero(image, kind):
    seg = np.zeros(image.shape, dtype=np.int8)
    seg[:, :10] = -1
    inside = seg >= 0
    image[~inside] = -5000
    result = normalise(image, seg, kind=kind, use_mask=True)
    assert (result[~inside] == 0).all()
    alone = normalise(image[:, 10:], kind=kind)
    np.testing.assert_allclose(result[inside], alone.ravel(), rtol=1e-6, atol=1e-7)


def test_input_is_left_alone(image):
    before = image.copy()
    normalise(image)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
def test_constant_image_gives_zeros(value, kind):
    assert (normalise(np.full((2, 3, 4), value, dtype=np.float32), kind=kind) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_empty_mask_gives_zeros(image, kind):
    result = normalise(image, np.full(image.shape, -1), kind=kind, use_mask=True)
    assert (result == 0).all()


def test_missing_mask_is_an_error(image):
    with pytest.raises(ValueError, match="mask"):
        normalise(image, use_mask=True)
