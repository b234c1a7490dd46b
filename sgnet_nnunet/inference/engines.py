"""What every engine is, and engines made of others: an ensemble, mirrored images, chunks along z."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError

logger = logging.getLogger(__name__)


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
GB = 10**9


@dataclass(frozen=True)
class MemoryNeed:
    """The memory that an engine takes for an image, in bytes.

    Attributes:
        fixed: Whatever the image's size.
        per_voxel: For each voxel of the image, or of the chunk of it that is run.
        per_logit: For each logit kept: of the whole image, and of the chunk.
    """

    fixed: float
    per_voxel: float
    per_logit: float


class ChunkableEngine(Engine, Protocol):
    """An engine that can be run on chunks of an image.

    Attributes:
        divisor: Multiple, in voxels, that it pads images to.
        margin: Voxels around a chunk beyond which nothing changes the chunk's logits; a multiple of
            the divisor.
        memory: What it takes.
    """

    divisor: int
    margin: int
    memory: MemoryNeed


def free_host_memory(max_memory: int | None) -> float:
    """Return the bytes that this process may still take.

    Args:
        max_memory: Bytes that it may take in all; None for what is free.
    """
    available = psutil.virtual_memory().available
    if max_memory is None:
        return float(available)
    return float(min(max_memory - psutil.Process().memory_info().rss, available))


class ChunkedEngine:
    """Runs an engine on chunks along z where a whole image does not fit into memory.

    Each chunk has the margin beyond which nothing changes its logits. Where memory runs out all the
    same, the chunks are halved.

    Args:
        engine: The engine.
        max_memory: Bytes that may be taken in all; None for what is free when it is called.
        free_memory: Returns the bytes that are left of `max_memory`.
    """

    def __init__(
        self,
        engine: ChunkableEngine,
        *,
        max_memory: int | None = None,
        free_memory: Callable[[int | None], float] = free_host_memory,
    ) -> None:
        self.engine = engine
        self.max_memory = max_memory
        self.free_memory = free_memory
        self.channels = engine.channels
        self.heads = engine.heads

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of an image, shape (channels, z, y, x), as (heads, z, y, x).

        Raises:
            SGNetError: If not even the thinnest chunk fits into the memory.
        """
        thickness = self._thickness(image.shape)
        while True:
            try:
                return self._chunked(image, thickness)
            except MemoryError as error:
                if thickness <= self.engine.divisor:
                    raise SGNetError(f"{_size(image.shape)}: {error or 'out of memory'}; {_REMEDY}") from None
            planes = min(thickness, image.shape[1])
            thickness = max(planes // 2 // self.engine.divisor, 1) * self.engine.divisor
            logger.warning("out of memory; continuing with chunks of %d voxels along z", thickness)

    def _chunked(self, image: NDArray[np.float32], thickness: int) -> NDArray[np.float32]:
        _, z, y, x = image.shape
        if thickness >= z:
            return self.engine.logits(image)
        logits = np.empty((self.heads, z, y, x), dtype=np.float32)
        for first in range(0, z, thickness):
            last = min(first + thickness, z)
            low, high = max(first - self.engine.margin, 0), min(last + self.engine.margin, z)
            chunk = self.engine.logits(image[:, low:high])
            logits[:, first:last] = chunk[:, first - low : last - low]
        return logits

    def _thickness(self, shape: tuple[int, ...]) -> int:
        """Return how many voxels along z of an image can be run at once, without the margins."""
        _, z, y, x = shape
        need, divisor = self.engine.memory, self.engine.divisor
        planes, rows, columns = (-(-length // divisor) * divisor for length in (z, y, x))
        plane = need.per_voxel * rows * columns
        logits_plane = need.per_logit * self.heads * y * x
        free = self.free_memory(self.max_memory) - need.fixed - logits_plane * z
        if free >= plane * planes:
            return z
        # A chunk's logits are kept next to those of the whole image.
        plane += logits_plane
        thickness = int(free // plane) - 2 * self.engine.margin
        if thickness < divisor:
            short = (divisor - thickness) * plane / GB
            raise SGNetError(f"{_size(shape)} needs {short:.1f} GB more than the budget leaves; {_REMEDY}")
        return thickness // divisor * divisor


_REMEDY = "raise --max-memory, close other programs, or use -device cpu or --engine tiled"


def _size(shape: tuple[int, ...]) -> str:
    return f"an image of {shape[1]} x {shape[2]} x {shape[3]} voxels"
