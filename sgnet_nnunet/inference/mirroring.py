"""Test-time augmentation by mirroring, around any engine."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.engine.engine import Engine


class Mirrored:
    """An engine that also sees an image's mirror images, and averages the logits as nnU-Net does.

    nnU-Net mirrors each tile, this the whole image: with n axes the engine runs 2^n times.

    Args:
        engine: The engine.
        axes: Spatial axes to mirror along, 0 for z.
    """

    def __init__(self, engine: Engine, axes: Sequence[int]) -> None:
        self.engine = engine
        self.channels, self.heads = engine.channels, engine.heads
        # The first axis of images and of logits is not spatial.
        spatial = [axis + 1 for axis in axes]
        self._flips = [flip for n in range(len(spatial) + 1) for flip in combinations(spatial, n)]

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean of the logits over all mirror images, shape (heads, z, y, x)."""
        first, *others = self._flips
        total = self._flipped(image, first)
        for flip in others:
            total += self._flipped(image, flip)
        total /= len(self._flips)
        return total

    def _flipped(self, image: NDArray[np.float32], flip: tuple[int, ...]) -> NDArray[np.float32]:
        return np.flip(self.engine.logits(np.ascontiguousarray(np.flip(image, flip))), flip)
