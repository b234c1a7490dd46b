"""Intensity normalisation by percentiles."""

import numpy as np
from nnunetv2.preprocessing.normalization import default_normalization_schemes
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError

LOWER_PERCENTILE, UPPER_PERCENTILE = 0.5, 99.5
"""The percentiles of the SG-Net README."""

MASKED_BELOW = 3 / 4
"""Share of an image left by cropping to its non-zero voxels, below which nnU-Net takes the rest for
background and normalises within a mask."""


class PercentileNormalization(ImageNormalization):
    """Scale a channel so that its 0.5 and 99.5 percentiles become 0 and 1, and clip nothing.

    Half a percent of a cropped head is about what a few metastases fill. Where they are the brightest
    there is, the clip of `PercentileTo01Normalization` lies within them (`docs/normalisation.md`).

    Where nnU-Net found a zero background (`use_mask_for_norm`), the percentiles are those of the
    voxels inside the non-zero mask, and the voxels outside are 0. A constant or empty channel
    becomes 0 everywhere.
    """

    CLIPS = False
    """Whether what lies beyond the percentiles is clipped to them."""

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = True

    def run(self, image: NDArray[np.floating], seg: NDArray[np.number] | None = None) -> NDArray[np.floating]:
        """Return the normalised channel.

        Args:
            image: One channel, shape (z, y, x).
            seg: Label map of the same shape, negative outside the non-zero mask; needed where
                `use_mask_for_norm` is set.

        Returns:
            Values of `target_dtype`, shape (z, y, x).

        Raises:
            ValueError: If the mask is to be used and `seg` is missing.
        """
        if not self.use_mask_for_norm:
            seg = np.zeros(image.shape, dtype=np.int8)
        elif seg is None:
            msg = "use_mask_for_norm is set, but no mask came with the image; pass nnU-Net's seg (-1 outside)"
            raise ValueError(msg)
        image = image.astype(self.target_dtype)
        inside = seg >= 0
        voxels = image[inside]
        if voxels.size == 0:
            return np.zeros_like(image)
        lower, upper = np.percentile(voxels, (LOWER_PERCENTILE, UPPER_PERCENTILE))
        if not upper > lower:
            return np.zeros_like(image)
        kept = np.clip(image, lower, upper) if self.CLIPS else image
        scaled = (kept - lower) / (upper - lower)
        return np.where(inside, scaled, 0).astype(self.target_dtype, copy=False)


class PercentileTo01Normalization(PercentileNormalization):
    """Clip a channel to its 0.5 and 99.5 percentiles and scale it to [0, 1]: the SG-Net README's."""

    CLIPS = True


PERCENTILE_SCHEMES = {kind.__name__: kind for kind in (PercentileNormalization, PercentileTo01Normalization)}
"""SG-Net's normalisations by the names that plans have for them."""

MOST_COUNTS = 1 << 17
"""Integers of up to 16 bits, signed or not, are counted; other values are sorted in part."""


def normalise(
    channel: NDArray[np.float32],
    *,
    scheme: str,
    inside: NDArray[np.bool_] | None,
    intensities: dict[str, float],
) -> NDArray[np.float32]:
    """Return a normalised channel, which may overwrite the one given.

    Args:
        channel: Cropped, shape (z, y, x).
        scheme: Name of the plan's normalisation.
        inside: Non-zero voxels without holes, where the normalisation looks at these alone.
        intensities: Statistics of the training images.

    Raises:
        SGNetError: If the normalisation is neither nnU-Net's own nor SG-Net's.
    """
    if percentile_scheme := PERCENTILE_SCHEMES.get(scheme):
        return _scale_by_percentiles(channel, inside, clip=percentile_scheme.CLIPS)
    kind = getattr(default_normalization_schemes, scheme, None)
    if kind is None:
        raise SGNetError(
            f"normalization_schemes {scheme}: is neither nnU-Net's own nor SG-Net's; predict the trained "
            "model's own folder instead, with PyTorch"
        )
    mask = None if inside is None else np.where(inside, np.int8(0), np.int8(-1))
    normaliser = kind(use_mask_for_norm=inside is not None, intensityproperties=intensities)
    return np.asarray(normaliser.run(channel, mask), dtype=np.float32)


def _scale_by_percentiles(
    channel: NDArray[np.float32], inside: NDArray[np.bool_] | None, *, clip: bool
) -> NDArray[np.float32]:
    """Do what the classes of `PERCENTILE_SCHEMES` do, to the last bit."""
    lower, upper = percentiles(channel, inside, (LOWER_PERCENTILE, UPPER_PERCENTILE))
    if not upper > lower:
        channel[...] = 0
        return channel
    # A plane at a time, so that the double precision stays in the processor's cache.
    for index, plane in enumerate(channel):
        scaled = plane.astype(np.float64)
        if clip:
            np.clip(scaled, lower, upper, out=scaled)
        scaled -= lower
        scaled /= upper - lower
        if inside is not None:
            scaled[~inside[index]] = 0
        plane[...] = scaled
    return channel


def percentiles(
    channel: NDArray[np.float32], inside: NDArray[np.bool_] | None, wanted: tuple[float, ...]
) -> NDArray[np.float64]:
    """Return `np.percentile` of a channel, or of its voxels inside a mask; 0 if there are none.

    Args:
        channel: Finite values, shape (z, y, x).
        inside: Shape (z, y, x), or None.
        wanted: Percentiles, 0 to 100, shape (n,).

    Returns:
        Shape (n,).
    """
    voxels = channel.size if inside is None else int(np.count_nonzero(inside))
    if not voxels:
        return np.zeros(len(wanted))
    position = np.asarray(wanted) / 100 * (voxels - 1)
    rank = np.floor(position).astype(np.intp)
    below, above = _order_statistics(channel, inside, np.stack([rank, np.minimum(rank + 1, voxels - 1)]))
    fraction, step = position - rank, above - below
    # From the nearer end, as NumPy interpolates.
    return np.where(fraction < 0.5, below + step * fraction, above - step * (1 - fraction))  # noqa: PLR2004


def _order_statistics(
    channel: NDArray[np.float32], inside: NDArray[np.bool_] | None, ranks: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Return the values that have these ranks, from 0, once sorted; of the shape of `ranks`."""
    counted = _count(channel, inside)
    if counted is not None:
        lowest, counts = counted
        found = np.searchsorted(np.cumsum(counts), ranks, side="right")
        return np.asarray(found + lowest, dtype=np.float32)
    voxels = channel.flatten() if inside is None else channel[inside]
    voxels.partition(np.unique(ranks))
    return np.asarray(voxels[ranks])


def _count(
    channel: NDArray[np.float32], inside: NDArray[np.bool_] | None
) -> tuple[int, NDArray[np.intp]] | None:
    """Return the lowest value, and how often it and each integer above occurs; None if not integers."""
    lowest, highest = float(channel.min()), float(channel.max())
    if not highest - lowest < MOST_COUNTS or lowest != np.floor(lowest):
        return None
    length = int(highest - lowest) + 1
    counts = np.zeros(length, dtype=np.intp)
    for index, plane in enumerate(channel):
        values = plane if inside is None else plane[inside[index]]
        integers = values.astype(np.intp)
        if not np.array_equal(integers, values):
            return None
        counts += np.bincount((integers - int(lowest)).ravel(), minlength=length)
    return int(lowest), counts
