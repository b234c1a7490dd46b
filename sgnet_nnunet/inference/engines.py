"""The interface of engines, and composed engines: an ensemble, mirrored images, chunks along z."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError

logger = logging.getLogger(__name__)


class Engine(Protocol):
    """A network that takes a whole image; its `heads` are labels with background, or regions."""

    channels: int
    heads: int

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits, (heads, z, y, x), of a preprocessed image of any size, (channels, z, y, x).

        Raises:
            SGNetError: If the image does not fit into the memory budget.
        """
        ...


def finite_logits(engine: Engine, image: NDArray[np.float32], *, path: Path) -> NDArray[np.float32]:
    """Return an engine's logits of a file's case; an InputFileError if they or the image are not finite."""
    logits = engine.logits(image)
    for what, values in (("preprocessed image", image), ("logits", logits)):
        # Minimum and maximum are NaN if any value is; computing them allocates no array.
        if not np.isfinite([values.min(), values.max()]).all():
            remedy = "check the image and its normalisation; predict on the CPU in f32, or train again"
            raise InputFileError(path, f"{what}: not finite", remedy)
    return logits


def gates_of_last(engine: Engine, *, scores: bool = False) -> dict[str, NDArray[np.float32]]:
    """Return the share of an engine's networks that enabled each gate in the last image.

    The arrays have the shape (z, y, x) of the gate's grid, and the names of `SGNet.gate_names`. There are
    none for engines that do not tell, and for an image that was run in chunks or mirrored. With `scores`
    they are the means of the networks' logits, NaN where one was not computed.
    """
    if isinstance(engine, ChunkedEngine):
        return gates_of_last(engine.engine, scores=scores) if engine.was_whole else {}
    if isinstance(engine, Ensemble):
        each = [gates_of_last(one, scores=scores) for one in engine.engines]
        shared = [name for name in each[0] if all(name in gates for gates in each)]
        return {name: np.mean([gates[name] for gates in each], axis=0) for name in shared}
    own: dict[str, NDArray[np.generic]] = getattr(engine, "gate_scores" if scores else "gates", {})
    return {name: values.astype(np.float32) for name, values in own.items()}


def average_of(engines: Sequence[Engine]) -> Engine:
    """Return one engine for engines that are alike in channels and heads, as nnU-Net averages folds."""
    return engines[0] if len(engines) == 1 else Ensemble(engines)


class Ensemble:
    """Engines whose logits are averaged; see `average_of`."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(engines)
        self.channels, self.heads = engines[0].channels, engines[0].heads

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean of the engines' logits, shape (heads, z, y, x)."""
        return _mean(engine.logits(image) for engine in self.engines)


class Mirrored:
    """An engine that also sees an image's mirror images, and averages the logits as nnU-Net does.

    nnU-Net mirrors each tile, this the whole image: with n spatial axes, 0 for z, the engine runs 2^n times.
    """

    def __init__(self, engine: Engine, axes: Sequence[int]) -> None:
        self.engine = engine
        self.channels, self.heads = engine.channels, engine.heads
        # The first axis of images and of logits is not spatial.
        spatial = [axis + 1 for axis in axes]
        self._flips = [flip for n in range(len(spatial) + 1) for flip in combinations(spatial, n)]

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean of the logits over all mirror images, shape (heads, z, y, x)."""
        return _mean(self._flipped(image, flip) for flip in self._flips)

    def _flipped(self, image: NDArray[np.float32], flip: tuple[int, ...]) -> NDArray[np.float32]:
        return np.flip(self.engine.logits(np.ascontiguousarray(np.flip(image, flip))), flip)


def _mean(logits: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the mean of arrays that are made one by one; the first is overwritten."""
    remaining = iter(logits)
    total, count = next(remaining), 1
    for one in remaining:
        total += one
        count += 1
        del one  # before the next is made
    total /= count
    return total


BYTES = np.dtype(np.float32).itemsize
GB = 10**9


@dataclass(frozen=True)
class MemoryNeed:
    """The memory that an engine takes, in bytes.

    Attributes:
        fixed: Whatever the image's size.
        per_voxel: For each voxel of the image, or of the chunk of it that is run.
        per_logit: For each logit kept: of the whole image, and of the chunk.
    """

    fixed: float
    per_voxel: float
    per_logit: float


class ChunkableEngine(Engine, Protocol):
    """An engine that can be run on chunks of an image; for its sizes see `networks.whole_image`."""

    divisor: int
    margin: int
    memory: MemoryNeed


def free_host_memory(max_memory: int | None) -> float:
    """Return the bytes that this process may still take of `max_memory`; None for all that are free."""
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
        self.channels, self.heads = engine.channels, engine.heads
        self.was_whole = False

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits; an SGNetError if not even the thinnest chunk fits into the memory."""
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
        self.was_whole = thickness >= z
        if self.was_whole:
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


NOT_SPARSE = "has no nested hard spatial gate at every level of its decoder; use --engine auto"
_REMEDY = "raise --max-memory, close other programs, or use -device cpu or --engine tiled"


def _size(shape: tuple[int, ...]) -> str:
    return f"an image of {shape[1]} x {shape[2]} x {shape[3]} voxels"
