"""What every engine is, and how several of them make one."""

from collections.abc import Sequence
from itertools import combinations
from typing import Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.inference.sparse import DEEP_VOXELS, Description, StagedEngine, rounded_up


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


BYTES = np.dtype(np.float32).itemsize
GIB = 2**30


class SlabEngine:
    """Runs a staged engine on slabs, each with the margin beyond which nothing changes its logits.

    Args:
        engine: The engine.
        max_memory: Bytes that this process may take in all; None for what is free when it is called.
    """

    def __init__(self, engine: StagedEngine, *, max_memory: int | None = None) -> None:
        self.engine = engine
        self.max_memory = max_memory
        self.channels = engine.channels
        self.heads = engine.heads

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of an image, shape (channels, z, y, x), as (heads, z, y, x).

        Raises:
            SGNetError: If not even the thinnest slab fits into the budget.
        """
        _, z, y, x = image.shape
        description = self.engine.description
        thickness = self._thickness(image.shape)
        if thickness >= z:
            return self.engine.logits(image)
        logits = np.empty((self.heads, z, y, x), dtype=np.float32)
        for first in range(0, z, thickness):
            last = min(first + thickness, z)
            low, high = max(first - description.margin, 0), min(last + description.margin, z)
            slab = self.engine.logits(image[:, low:high])
            logits[:, first:last] = slab[:, first - low : last - low]
        return logits

    def _thickness(self, shape: tuple[int, ...]) -> int:
        """Return how many voxels along z of an image can be done at once, without the margins."""
        _, z, y, x = shape
        description, divisor = self.engine.description, self.engine.description.divisor
        planes, rows, columns = rounded_up((z, y, x), divisor)
        plane = bytes_per_voxel(description) * rows * columns
        fixed = bytes_of_deep(description)
        free = self._free()
        if free >= fixed + plane * planes + BYTES * self.heads * z * y * x:
            return z
        # The logits of the whole image, and those of a slab.
        free -= fixed + BYTES * self.heads * z * y * x
        plane += BYTES * self.heads * y * x
        thickness = int(free // plane) - 2 * description.margin
        if thickness < divisor:
            short = (divisor - thickness) * plane / GIB
            raise SGNetError(
                f"an image of {z} x {y} x {x} voxels needs {short:.1f} GB more than the budget leaves; "
                "raise --max-memory, or close other programs"
            )
        return thickness // divisor * divisor

    def _free(self) -> float:
        available = psutil.virtual_memory().available
        if self.max_memory is None:
            return float(available)
        return float(min(self.max_memory - psutil.Process().memory_info().rss, available))


def bytes_per_voxel(description: Description) -> float:
    """Return what the staged engine keeps for each voxel of an image, its gates wide open.

    At most two neighbouring decoder levels are kept at once, next to the skip features.
    """
    shares = [features / 8**level for level, features in enumerate(description.features)]
    floats = sum(shares[1:]) + sum(shares[1:3]) + description.features[1] / 64
    masks = 2.5
    return BYTES * floats + masks


def bytes_of_deep(description: Description) -> float:
    """Return what the encoder's deeper levels take at most while they run.

    Their input and each level's result, once in the runtime and once in its own layout.
    """
    floats = description.features[1] + sum(
        features / 8**level for level, features in enumerate(description.features[2:])
    )
    return 3 * BYTES * floats * DEEP_VOXELS
