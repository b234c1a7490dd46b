"""Intensity normalisation by percentiles, for nnU-Net's preprocessing and for the torch-free runtime."""

import numpy as np
from nnunetv2.preprocessing.normalization import default_normalization_schemes
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError

LOWER_PERCENTILE, UPPER_PERCENTILE = 0.5, 99.5
"""The percentiles of the SG-Net README."""

MOST_COUNTS = 1 << 17
"""Integers of up to 16 bits, signed or not, are counted; other values are partly sorted."""


class PercentileNormalization(ImageNormalization):
    """Scale a channel so that its 0.5 and 99.5 percentiles become 0 and 1, without clipping.

    With `use_mask_for_norm`, as SG-Net's planners set it, the percentiles are those of the voxels inside the
    non-zero mask (nnU-Net's: any channel, holes filled), and the voxels outside become 0. Without a zero
    background the mask is the whole image. `docs/normalisation.md` compares it with clipping.
    """

    CLIPS = False
    """Whether values beyond the percentiles are clipped to them."""

    leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true = True

    def run(self, image: NDArray[np.floating], seg: NDArray[np.number] | None = None) -> NDArray[np.floating]:
        """Return the normalised channel, shape (z, y, x), as values of `target_dtype`.

        Where `use_mask_for_norm` is set, the label map `seg` has to be negative outside the non-zero mask.

        Raises:
            ValueError: If `use_mask_for_norm` is set and `seg` is missing.
            SGNetError: If the channel cannot be scaled, see `scale_by_percentiles`.
        """
        if self.use_mask_for_norm and seg is None:
            msg = "use_mask_for_norm is set, but no mask came with the image; pass nnU-Net's seg (-1 outside)"
            raise ValueError(msg)
        inside = seg >= 0 if self.use_mask_for_norm and seg is not None else None
        scaled = scale_by_percentiles(image.astype(np.float32), inside, clip=self.CLIPS)
        return scaled.astype(self.target_dtype, copy=False)


class PercentileTo01Normalization(PercentileNormalization):
    """Clip a channel to its 0.5 and 99.5 percentiles and scale it to [0, 1], as in the SG-Net README."""

    CLIPS = True


PERCENTILE_SCHEMES = {kind.__name__: kind for kind in (PercentileNormalization, PercentileTo01Normalization)}
"""SG-Net's normalisations by the names that plans have for them."""


def normalise(
    channel: NDArray[np.float32],
    *,
    scheme: str,
    inside: NDArray[np.bool_] | None,
    intensities: dict[str, float],
) -> NDArray[np.float32]:
    """Return a channel normalised as a plan requires; it may overwrite the one given.

    Args:
        channel: Cropped, shape (z, y, x).
        scheme: Name of the plan's normalisation.
        inside: Non-zero voxels without holes, if the plan normalises within them; None if it does not.
        intensities: Statistics of the training images.

    Raises:
        SGNetError: If the normalisation is neither nnU-Net's own nor SG-Net's, or the channel cannot be
            scaled, see `scale_by_percentiles`.
    """
    if percentile_scheme := PERCENTILE_SCHEMES.get(scheme):
        return scale_by_percentiles(channel, inside, clip=percentile_scheme.CLIPS)
    kind = getattr(default_normalization_schemes, scheme, None)
    if kind is None:
        raise SGNetError(
            f"normalization_schemes {scheme}: is neither nnU-Net's own nor SG-Net's; predict the trained "
            "model's own folder instead, with PyTorch"
        )
    mask = None if inside is None else np.where(inside, np.int8(0), np.int8(-1))
    normaliser = kind(use_mask_for_norm=inside is not None, intensityproperties=intensities)
    return np.asarray(normaliser.run(channel, mask), dtype=np.float32)


def scale_by_percentiles(
    channel: NDArray[np.float32], inside: NDArray[np.bool_] | None, *, clip: bool
) -> NDArray[np.float32]:
    """Scale a channel, shape (z, y, x), in place, and return it; see `PercentileNormalization`.

    The percentiles are those of the voxels `inside`, the others becoming 0; None for all voxels.

    Raises:
        SGNetError: If a voxel is NaN or infinite, or both percentiles are the same, as in a blank channel.
    """
    finite = np.isfinite([channel.min(), channel.max()]).all()
    requested = (LOWER_PERCENTILE, UPPER_PERCENTILE)
    lower, upper = percentiles(channel, inside, requested) if finite else (np.nan, np.nan)
    if not upper > lower:
        blank = f"is blank: its {LOWER_PERCENTILE} and {UPPER_PERCENTILE} percentiles are both {lower:g}"
        bad = f"has {np.count_nonzero(~np.isfinite(channel))} voxels that are NaN or infinite"
        raise SGNetError(
            f"a channel of {channel.shape} voxels (z, y, x) {blank if finite else bad}; correct the scan or "
            "remove its case (`sgnet convert` names such scans)"
        )
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
    channel: NDArray[np.float32], inside: NDArray[np.bool_] | None, requested: tuple[float, ...]
) -> NDArray[np.float64]:
    """Return `np.percentile` of a channel, or of its voxels inside a mask, several times as fast.

    The percentiles requested are from 0 to 100. All are 0 if there are no voxels, NaN if one is NaN.
    """
    voxels = channel.size if inside is None else int(np.count_nonzero(inside))
    if not voxels:
        return np.zeros(len(requested))
    position = np.asarray(requested) / 100 * (voxels - 1)
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
    # The last one, too: NaN is sorted behind all other values.
    voxels.partition(np.unique([*ranks.ravel(), voxels.size - 1]))
    return np.asarray(np.full(ranks.shape, np.nan) if np.isnan(voxels[-1]) else voxels[ranks], np.float32)


def _count(
    channel: NDArray[np.float32], inside: NDArray[np.bool_] | None
) -> tuple[int, NDArray[np.intp]] | None:
    """Return the lowest value and the count of each integer from it upwards; None if not all are integers."""
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
