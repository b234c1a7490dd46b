import numpy as np
import pytest
from nnunetv2.preprocessing.normalization import default_normalization_schemes

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.planning.normalization import (
    PERCENTILE_SCHEMES,
    PercentileNormalization,
    PercentileTo01Normalization,
    normalise,
    percentiles,
)

STATISTICS = {"mean": 300.0, "std": 50.0, "percentile_00_5": 100.0, "percentile_99_5": 700.0}
NNUNETS = ("ZScoreNormalization", "CTNormalization", "NoNormalization", "RescaleTo01Normalization")
SHAPE = (9, 20, 30)
VALUES = ("integers", "fractions", "few fractions", "wide")
USELESS = ("one NaN", "one infinity", "constant", "nearly constant")

# NumPy 1 rounds the percentiles of single precision otherwise.
ROUNDING = 0 if np.__version__ >= "2" else 1e-6


def values(kind, rng):
    """Return a channel of some kind of values."""
    fractions, place = rng.normal(300, 60, SHAPE), rng.integers(np.prod(SHAPE))
    one = np.arange(fractions.size).reshape(SHAPE) == place
    return {
        "integers": rng.integers(-300, 1500, SHAPE),
        "fractions": fractions,
        "few fractions": rng.integers(0, 2, SHAPE) + 0.5 * (rng.random(SHAPE) > 0.999),
        "wide": rng.integers(0, 1 << 23, SHAPE),
        "constant": np.full(SHAPE, 7),
        "nearly constant": np.where(one, 1000, 7),
        "one NaN": np.where(one, np.nan, fractions),
        "one infinity": np.where(one, rng.choice([-np.inf, np.inf]), fractions),
    }[kind].astype(np.float32)


def by_numpy(channel, inside, *, clip):
    """Return what NumPy gives, in double precision."""
    lower, upper = np.percentile(channel[inside], (0.5, 99.5))
    scaled = ((np.clip(channel, lower, upper) if clip else channel) - lower) / (upper - lower)
    return np.where(inside, scaled, 0).astype(np.float32)


@pytest.mark.parametrize("name", PERCENTILE_SCHEMES)
@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("masked", [False, True])
class TestPercentileSchemes:
    def case(self, name, kind, masked):
        rng = np.random.default_rng(0)
        channel, inside = values(kind, rng), rng.random(SHAPE) > 0.3
        if not masked:
            inside[...] = True
        return channel, inside, by_numpy(channel, inside, clip=name == "PercentileTo01Normalization")

    def test_nnunets_class_equals_numpy_to_the_last_bit(self, name, kind, masked):
        channel, inside, expected = self.case(name, kind, masked)
        before = channel.copy()
        normaliser = PERCENTILE_SCHEMES[name](use_mask_for_norm=masked, intensityproperties={})
        actual = normaliser.run(channel, np.where(inside, 0, -1) if masked else None)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=ROUNDING)
        assert actual.dtype == np.float32
        np.testing.assert_array_equal(channel, before)

    def test_the_torch_free_runtime_equals_it(self, name, kind, masked):
        channel, inside, expected = self.case(name, kind, masked)
        actual = normalise(channel, scheme=name, inside=inside if masked else None, intensities=STATISTICS)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("scheme", NNUNETS)
@pytest.mark.parametrize("masked", [False, True])
def test_nnunets_own_schemes_are_nnunets(scheme, masked):
    rng = np.random.default_rng(0)
    channel, inside = values("fractions", rng), rng.random(SHAPE) > 0.3 if masked else None
    mask = None if inside is None else np.where(inside, np.int8(0), np.int8(-1))
    kind = getattr(default_normalization_schemes, scheme)
    expected = kind(use_mask_for_norm=masked, intensityproperties=STATISTICS).run(channel.copy(), mask)
    actual = normalise(channel, scheme=scheme, inside=inside, intensities=STATISTICS)
    np.testing.assert_array_equal(actual, expected)


def test_an_unknown_scheme_is_refused():
    with pytest.raises(SGNetError, match="MyNormalization"):
        normalise(np.ones(SHAPE, np.float32), scheme="MyNormalization", inside=None, intensities=STATISTICS)


@pytest.mark.parametrize("kind", [*VALUES, "constant", "one NaN"])
def test_percentiles_are_numpys(kind):
    rng = np.random.default_rng(1)
    channel, inside = values(kind, rng), rng.random(SHAPE) > 0.9
    requested = (0.0, 0.5, 33.3, 50.0, 99.5, 100.0)
    for mask in (None, inside):
        expected = np.percentile(channel if mask is None else channel[mask], requested)
        np.testing.assert_allclose(percentiles(channel, mask, requested), expected, rtol=1e-12)


@pytest.mark.parametrize("name", PERCENTILE_SCHEMES)
@pytest.mark.parametrize("kind", USELESS)
@pytest.mark.parametrize("seed", range(3))
def test_a_channel_that_cannot_be_scaled_is_refused(name, kind, seed):
    channel = values(kind, np.random.default_rng(seed))
    normaliser = PERCENTILE_SCHEMES[name](use_mask_for_norm=True, intensityproperties={})
    problem = r"is blank: .* both 7" if "constant" in kind else "has 1 voxels that are NaN or infinite"
    with pytest.raises(SGNetError, match=rf"\(9, 20, 30\) voxels \(z, y, x\) {problem}; correct the scan"):
        normaliser.run(channel, np.zeros(SHAPE, np.int8))


@pytest.mark.parametrize("name", PERCENTILE_SCHEMES)
def test_an_empty_mask_is_refused(name):
    channel, nowhere = values("fractions", np.random.default_rng(0)), np.zeros(SHAPE, dtype=bool)
    with pytest.raises(SGNetError, match="is blank"):
        normalise(channel, scheme=name, inside=nowhere, intensities=STATISTICS)


def test_a_small_bright_lesion_differs_from_the_brain_unless_it_is_clipped():
    image = np.random.default_rng(0).gamma(2.0, 100.0, size=(8, 20, 20)).astype(np.float32)
    brain = image.min(initial=200) + image / 10
    brain[4, :4, :2] = 10 * brain.max()
    lesion = np.zeros(image.shape, dtype=bool)
    lesion[4, :4, :2] = True
    clipped, kept = (
        kind(use_mask_for_norm=False, intensityproperties={}).run(brain, None)
        for kind in (PercentileTo01Normalization, PercentileNormalization)
    )
    assert clipped[lesion].max() == clipped[~lesion].max() == 1
    assert kept[lesion].min() > 5 * kept[~lesion].max()


def test_a_missing_mask_is_an_error():
    with pytest.raises(ValueError, match="mask"):
        PercentileNormalization(use_mask_for_norm=True, intensityproperties={}).run(np.ones(SHAPE), None)
