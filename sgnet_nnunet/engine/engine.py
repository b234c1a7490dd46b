"""What every engine is, and how several of them make one."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """A network that takes a whole image.

    Attributes:
        channels: Image channels it takes.
        heads: Output heads: labels with background, or regions.
    """

    channels: int
    heads: int

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of an image.

        Args:
            image: Preprocessed as the plan says, shape (channels, z, y, x), of any size.

        Returns:
            Shape (heads, z, y, x).

        Raises:
            SGNetError: If the image does not fit into the memory budget.
        """
        ...


class Ensemble:
    """Engines whose logits are averaged, as nnU-Net does with the folds of a model.

    Args:
        engines: One or more, alike in channels and heads.
    """

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(engines)
        self.channels = self.engines[0].channels
        self.heads = self.engines[0].heads

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean of the engines' logits, shape (heads, z, y, x)."""
        first, *others = self.engines
        total = first.logits(image)
        for engine in others:
            total += engine.logits(image)
        if others:
            total /= len(self.engines)
        return total
