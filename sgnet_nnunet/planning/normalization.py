"""Intensity normalisation by percentiles."""

import numpy as np
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ImageNormalization
from numpy.typing import NDArray

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
