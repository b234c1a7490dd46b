"""Normalisation against the classes that training uses."""

import numpy as np
import pytest
from nnunetv2.preprocessing.normalization import default_normalization_schemes

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.planning.normalization import (
    PercentileNormalization,
    PercentileTo01Normalization,
    normalise,
    percentiles,
)

STATISTICS = {"mean": 300.0, "std": 50.0, "percentile_00_5": 100.0, "percentile_99_5": 700.0}
SCHEMES = (
    "PercentileNormalization",
    "PercentileTo01Normalization",
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
)
SHAPE = (9, 20, 30)


def values(kind, rng):
    """Return a channel of some kind of values."""
    return {
        "integers": rng.integers(-300, 1500, SHAPE),
        "fractions": rng.normal(300, 60, SHAPE),
        "few fractions": rng.integers(0, 2, SHAPE) + 0.5 * (rng.random(SHAPE) > 0.999),
        "wide": rng.integers(0, 1 << 23, SHAPE),
        "constant": np.full(SHAPE, 7),
    }[kind].astype(np.float32)


KINDS = ("integers", "fractions", "few fractions", "wide", "constant")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_agrees_with_the_class(scheme, kind, masked):
    rng = np.random.default_rng(0)
    channel, inside = values(kind, rng), rng.random(SHAPE) > 0.3 if masked else None
    mask = None if inside is None else np.where(inside, np.int8(0), np.int8(-1))
    kinds = {
        **vars(default_normalization_schemes),
        "PercentileNormalization": PercentileNormalization,
        "PercentileTo01Normalization": PercentileTo01Normalization,
    }
    expected = kinds[scheme](use_mask_for_norm=masked, intensityproperties=STATISTICS).run(
        channel.copy(), mask
    )
    actual = normalise(channel, scheme=scheme, inside=inside, intensities=STATISTICS)
    np.testing.assert_array_equal(actual, expected)
    assert actual.dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
def test_percentiles_are_numpys(kind):
    rng = np.random.default_rng(1)
    channel, inside = values(kind, rng), rng.random(SHAPE) > 0.9
    wanted = (0.0, 0.5, 33.3, 50.0, 99.5, 100.0)
    np.testing.assert_allclose(percentiles(channel, None, wanted), np.percentile(channel, wanted), rtol=1e-12)
    np.testing.assert_allclose(
        percentiles(channel, inside, wanted), np.percentile(channel[inside], wanted), rtol=1e-12
    )


def test_nothing_inside_gives_zeros():
    channel, inside = np.ones(SHAPE, dtype=np.float32), np.zeros(SHAPE, dtype=bool)
    assert not normalise(
        channel, scheme="PercentileTo01Normalization", inside=inside, intensities=STATISTICS
    ).any()


def test_unknown_scheme_is_refused():
    with pytest.raises(SGNetError, match="MyNormalization"):
        normalise(np.ones(SHAPE, np.float32), scheme="MyNormalization", inside=None, intensities=STATISTICS)
