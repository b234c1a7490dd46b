"""The block-sparse engine: an SG-Net on a whole image, computed only where its gates are open.

The network's stages run one after the other, each over the whole image:

- `stem`, the encoder's first two levels, on blocks; a block of background alone is computed once.
- `deep`, the encoder's levels below, at once or in chunks along z.
- `up2`, `up1`, `up0`, the decoder's levels by their resolution, on the blocks in which their gate is open.
  `up0` ends in the logits, which are constant where the finest gate is closed.

A gate is nested in the coarser one, so that nothing reads a feature where a gate is closed: such blocks are
left out, and the logits are to the bit those of running every block. With `skip=False` every block is run,
which needs no gates.

A block is cut out as a window with a halo, zero outside the image as the padding of the network's own
convolutions is. Arrays have their channels last, so that the rows which a window is copied by are long.
A `Runtime` computes the stages: PyTorch (`inference.torch_engines`) or OpenVINO (`inference.runtimes`).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from itertools import product
from threading import local
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.inference.engines import BYTES, MemoryNeed
from sgnet_nnunet.networks.geometry import GateGeometry, NetworkGeometry

Size = tuple[int, int, int]  # z, y, x in voxels
Mask = NDArray[np.bool_]  # shape (z, y, x)
Feature = NDArray[np.float32]  # shape (z, y, x, channels)
Image = NDArray[np.float32]  # shape (channels, z, y, x)
Arrays = Sequence[NDArray[np.float32]]

_Job = TypeVar("_Job")


class Stage(Protocol):
    """One stage of a network; may be called by several threads at once."""

    def __call__(self, *inputs: NDArray[np.float32]) -> Arrays:
        """Return results, shape (blocks, z, y, x, channels), valid until the thread's next call."""
        ...


class Runtime(Protocol):
    """A library that computes a network's stages, and the threads it has."""

    @property
    def threads(self) -> int:
        """How many threads may call a `block_stage` at once."""
        ...

    def session(self) -> AbstractContextManager[None]:
        """Return the context that stages are called in; it restores what they change of the process."""
        ...

    def block_stage(self, name: str) -> Stage:
        """Return a stage to be called by every thread, with inputs of one fixed shape."""
        ...

    def whole_stage(self, name: str) -> Stage:
        """Return a stage to be called by one thread, which uses all of them, with inputs of any size."""
        ...


class Blocks(NamedTuple):
    """Blocks that a stage works on: `size`, of its result, in even voxels, and `batch`, how many at once."""

    size: Size
    batch: int


# Exports hold these shapes: raise their version with them.
STEM_BLOCKS = Blocks(size=(24, 16, 48), batch=1)  # in voxels of the image; multiples of 4
# Of the decoder's levels, full resolution first; the last for all that are coarser. Smaller blocks follow a
# gate more closely and spend more on their halo.
DECODER_BLOCKS = tuple(Blocks(size=size, batch=8) for size in ((8, 8, 16), (4, 8, 8), (4, 4, 8)))

DEEP_VOXELS = 2**18  # at a quarter of the resolution, of the encoder's deeper levels that are run at once
KEPT_BYTES = 2**29  # kept for the next image at most; a brain takes about a third of it


def stage_names(geometry: NetworkGeometry) -> list[str]:
    """Return the names of a network's stages, in the order that they run in."""
    return ["stem", "deep", *(f"up{level}" for level in reversed(range(len(geometry.gates))))]


def input_shapes(geometry: NetworkGeometry, blocks: Blocks | None = None) -> dict[str, list[list[int]]]:
    """Return the shapes that each stage is called with, (blocks, z, y, x, channels); -1 where any will do.

    `blocks` takes the place of the engine's own blocks, in all stages.
    """

    def shape(of: Blocks, coarser: int, halo: int, channels: int) -> list[int]:
        return [of.batch, *(length // coarser + halo for length in of.size), channels]

    features, stem = geometry.features, blocks or STEM_BLOCKS
    shapes = {
        "stem": [shape(stem, 1, 6, geometry.channels), shape(stem, 2, 2, 1)],
        "deep": [[1, -1, -1, -1, features[1]]],
    }
    for level in range(len(geometry.gates)):
        own = blocks or _decoder_blocks(level)
        fine = shape(own, 1, 2, features[level]) if level else shape(own, 1, 4, geometry.channels)
        shapes[f"up{level}"] = [shape(own, 2, 2, features[level + 1]), shape(own, 1, 2, 1), fine]
    return shapes


def _decoder_blocks(level: int) -> Blocks:
    return DECODER_BLOCKS[min(level, len(DECODER_BLOCKS) - 1)]


class BlockSparseEngine:
    """Runs an SG-Net of three or more levels on a whole image.

    With `skip` it leaves out blocks that do not change the logits: decoder blocks behind closed gates, and
    encoder blocks of background alone. That raises a ValueError if the gates do not allow it. `gates` is
    where the last image's gates were open, by `SGNet.gate_names`, on their own grids; `gate_scores` the
    logits they were decided by, NaN where these were not computed.
    """

    def __init__(self, geometry: NetworkGeometry, runtime: Runtime, *, skip: bool) -> None:
        if skip and not geometry.can_skip:
            msg = "only a network with a nested gate at every level of its decoder can be run sparsely"
            raise ValueError(msg)
        self.geometry = geometry
        self.runtime = runtime
        self.skip = skip
        self.channels, self.heads = geometry.channels, geometry.heads
        self.divisor, self.margin = geometry.divisor, geometry.margin
        self.memory = memory_of(geometry)
        self.gates: dict[str, Mask] = {}
        self.gate_scores: dict[str, NDArray[np.float32]] = {}
        self._background: dict[bytes, list[Feature]] = {}
        # Kept from image to image, with what the runtime keeps for each of its threads.
        self._pool = ThreadPoolExecutor(runtime.threads)
        self._buffers = local()
        self._workspace = Workspace()

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of an image, shape (channels, z, y, x), as (heads, z, y, x)."""
        image = np.asarray(image, dtype=np.float32)
        with self.runtime.session():
            half, pooled = self._stem(image)
            deeper, score = self._deep(pooled)
            *skips, feature = half, *deeper
            finest: Mask | None = None
            computed: Mask = np.ones((1, 1, 1), dtype=bool)
            for gate, level in zip(self.geometry.gates, reversed(range(len(skips) + 1)), strict=True):
                if gate is not None and score is not None:
                    finest, name = decide(gate, score[..., 0], finest), f"1/{2 ** (level + 1)}"
                    self.gates[name] = finest
                    self.gate_scores[name] = np.where(computed, score[..., 0], np.float32(np.nan))
                # A level without a gate runs everywhere, below a gated one too.
                mask = np.ones(feature.shape[:3], dtype=bool) if gate is None or finest is None else finest
                if level:
                    feature, score = self._up(level, feature, mask, skips.pop())
                    computed = repeated(mask)
            logits = self._logits(feature, mask, finest, image)
        self._workspace.trim(KEPT_BYTES)
        return logits

    def _stem(self, image: Image) -> tuple[Feature, Feature]:
        """Return the feature at half the resolution, and that pooled to a quarter of it."""
        extent = rounded_up(image.shape[1:], self.divisor)
        features, stage, size = self.geometry.features, self.runtime.block_stage("stem"), STEM_BLOCKS.size
        half = self._workspace.take("half", (*divided(extent, 2), features[1]))
        pooled = self._workspace.take("pooled", (*divided(extent, 4), features[1]))
        within_image = np.broadcast_to(np.float32(1), (*divided(extent, 2), 1))

        def run(start: Size) -> None:
            window = self._buffer("image", STEM_BLOCKS, size, 3, self.channels)
            copy_image_window(image, moved(start, -3), window[0])
            inside = self._buffer("inside", STEM_BLOCKS, divided(size, 2), 1, 1)
            copy_window(within_image, moved(divided(start, 2), -1), inside[0])
            key = inside.tobytes() if self.skip and not window.any() else b""
            results = self._background.get(key) if key else None
            if results is None:
                results = [result[0] for result in stage(window, inside)]
            if key and key not in self._background:
                self._background[key] = [result.copy() for result in results]
            write_block(half, divided(start, 2), results[0])
            write_block(pooled, divided(start, 4), results[1])

        self._run_all(run, block_starts(extent, size))
        return half, pooled

    def _deep(self, pooled: Feature) -> tuple[list[Feature], Feature | None]:
        """Return the deeper features, finest first, and the first gate's score if there is one."""
        stage, levels = self.runtime.whole_stage("deep"), len(self.geometry.features) - 2
        unit = 2 ** (levels - 1)
        margin = 2 * unit
        plane = pooled.shape[1] * pooled.shape[2]
        thickness = max(DEEP_VOXELS // plane // unit, 1) * unit
        results: list[Feature] = []
        for first in range(0, len(pooled), thickness):
            last = min(first + thickness, len(pooled))
            low, high = max(first - margin, 0), min(last + margin, len(pooled))
            chunk = np.ascontiguousarray(pooled[low:high])[None]
            for index, part in enumerate(stage(chunk)):
                step = 2 ** min(index, levels - 1)
                if first == 0:
                    shape = (len(pooled) // step, *part.shape[2:])
                    results.append(self._workspace.take(f"deep{index}", shape))
                kept = part[0, (first - low) // step : (last - low) // step]
                results[index][first // step : last // step] = kept
        return results[:levels], results[levels] if len(results) > levels else None

    def _up(self, level: int, coarse: Feature, mask: Mask, skip: Feature) -> tuple[Feature, Feature | None]:
        """Return a decoder level's feature, and the next gate's score if there is one.

        `mask` is where the level is to be computed, on the grid of `coarse`.
        """
        fine = repeated(mask)
        # Voxels that no block writes are undefined; no open gate reads them.
        feature = self._workspace.take(f"up{level}", (*fine.shape, self.geometry.features[level]))
        scored = self.geometry.gates[-level] is not None
        score = self._workspace.take(f"score{level}", (*fine.shape, 1)) if scored else None

        def write(start: Size, _: NDArray[np.float32], results: Arrays) -> None:
            write_block(feature, start, results[0])
            if score is not None:
                write_block(score, start, results[1])

        self._run_blocks(level, coarse, fine, skip, write)
        return feature, score

    def _logits(self, coarse: Feature, mask: Mask, finest: Mask | None, image: Image) -> NDArray[np.float32]:
        """Return the logits, (heads, z, y, x), the background's wherever the finest gate is closed."""
        background = np.asarray(self.geometry.background, dtype=np.float32)
        logits = np.empty((self.heads, *image.shape[1:]), dtype=np.float32)
        logits[...] = background[:, None, None, None]
        channels_last = np.moveaxis(logits, 0, -1)
        fine = repeated(mask)
        closing = fine if finest is None or finest is mask else repeated(finest, len(fine) // len(finest))

        def write(start: Size, is_open: NDArray[np.float32], results: Arrays) -> None:
            if finest is not mask:
                copy_window(closing[..., None], moved(start, -1), is_open)
            inner = is_open[1:-1, 1:-1, 1:-1] > 0
            write_block(channels_last, start, np.where(inner, results[0], background))

        self._run_blocks(0, coarse, fine, image, write)
        return logits

    def _run_blocks(
        self,
        level: int,
        coarse: Feature,
        fine: Mask,
        skip: Feature | Image,
        write: Callable[[Size, NDArray[np.float32], Arrays], None],
    ) -> None:
        """Run a decoder level's blocks, and have `write` take in the results of each.

        `write` gets a block's start, its mask with a halo of 1, shape (z, y, x, 1), and its results.
        """
        stage, blocks = self.runtime.block_stage(f"up{level}"), _decoder_blocks(level)
        halo, channels = (1, skip.shape[3]) if level else (2, self.channels)
        copy_skip = copy_window if level else copy_image_window

        def run(starts: Sequence[Size]) -> None:
            inputs = (
                self._buffer("coarse", blocks, divided(blocks.size, 2), 1, coarse.shape[3]),
                self._buffer("mask", blocks, blocks.size, 1, 1),
                self._buffer("skip", blocks, blocks.size, halo, channels),
            )
            for slot, start in enumerate(starts):
                copy_window(coarse, moved(divided(start, 2), -1), inputs[0][slot])
                copy_window(fine[..., None], moved(start, -1), inputs[1][slot])
                copy_skip(skip, moved(start, -halo), inputs[2][slot])
            results = stage(*inputs)
            for slot, start in enumerate(starts):
                write(start, inputs[1][slot], [result[slot] for result in results])

        starts = open_block_starts(fine, blocks.size) if self.skip else block_starts(fine.shape, blocks.size)
        self._run_all(run, [starts[i : i + blocks.batch] for i in range(0, len(starts), blocks.batch)])

    def _run_all(self, run: Callable[[_Job], None], jobs: Sequence[_Job]) -> None:
        for future in [self._pool.submit(run, job) for job in jobs]:
            future.result()

    def _buffer(self, name: str, blocks: Blocks, size: Size, halo: int, channels: int) -> NDArray[np.float32]:
        """Return an array of this thread's for the windows of a batch of blocks."""
        shape = (blocks.batch, *moved(size, 2 * halo), channels)
        own: dict[object, NDArray[np.float32]] = self._buffers.__dict__.setdefault("own", {})
        if (name, shape) not in own:
            own[name, shape] = np.zeros(shape, dtype=np.float32)
        return own[name, shape]


def memory_of(geometry: NetworkGeometry) -> MemoryNeed:
    """Return what the block-sparse engine takes at most, with the gates open everywhere.

    At most two neighbouring decoder levels are kept at once, next to the skip features. The encoder's
    deeper levels keep their input and each level's result, once in the runtime and once in its own layout.
    """
    shares = [features / 8**level for level, features in enumerate(geometry.features)]
    floats = sum(shares[1:]) + sum(shares[1:3]) + geometry.features[1] / 64
    masks = 2.5
    deep_floats = geometry.features[1] + 64 * sum(shares[2:])
    fixed = 3 * BYTES * deep_floats * DEEP_VOXELS
    return MemoryNeed(fixed=fixed, per_voxel=BYTES * floats + masks, per_logit=BYTES)


class Workspace:
    """Named scratch buffers, reused between images to avoid page faults."""

    def __init__(self) -> None:
        self._memory: dict[str, NDArray[np.float32]] = {}

    def trim(self, most: int) -> None:
        """Free all buffers if they are more than `most` bytes."""
        if sum(buffer.nbytes for buffer in self._memory.values()) > most:
            self._memory.clear()

    def take(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the buffer of a name as an array of a shape; its values are arbitrary."""
        voxels = int(np.prod(shape))
        buffer = self._memory.get(name)
        if buffer is None or buffer.size < voxels:
            # Freed first, so that both are never allocated at once.
            self._memory.pop(name, None)
            del buffer
            # Pages of zeros take no memory until they are written to.
            buffer = self._memory[name] = np.zeros(voxels, dtype=np.float32)
        return buffer[:voxels].reshape(shape)


def decide(gate: GateGeometry, score: NDArray[np.float32], parent: Mask | None) -> Mask:
    """Return where a gate is open; see `networks.gates.HardSpatialGate.forward`."""
    mask = ~(score <= gate.score_threshold)
    if gate.nested and parent is not None:
        allowed = repeated(parent, len(score) // len(parent))
        mask = dilate(mask & allowed, gate.dilation) & allowed
    else:
        mask = dilate(mask, gate.dilation)
    return np.ones_like(mask) if gate.bypassed else mask


def repeated(mask: Mask, times: int = 2) -> Mask:
    """Return a mask on the grid of so many times its resolution."""
    return mask.repeat(times, axis=0).repeat(times, axis=1).repeat(times, axis=2)


def dilate(mask: Mask, voxels: int) -> Mask:
    """Return a mask grown by a cube of `voxels` to each side."""
    grown = mask
    for axis in range(3):
        before = np.moveaxis(grown, axis, 0)
        grown = grown.copy()
        after = np.moveaxis(grown, axis, 0)
        for step in range(1, voxels + 1):
            after[step:] |= before[:-step]
            after[:-step] |= before[step:]
    return grown


def copy_window(volume: NDArray[np.generic], start: Size, window: NDArray[np.generic]) -> None:
    """Fill `window` with what `volume` holds from `start` on, and with zeros where it has nothing.

    Both have the shape (z, y, x, ...); the start may lie outside the volume.
    """
    inner, outer = [], []
    for first, length, extent in zip(start, window.shape, volume.shape, strict=False):
        low, high = max(first, 0), min(first + length, extent)
        if low >= high:
            window[...] = 0
            return
        outer.append(slice(low, high))
        inner.append(slice(low - first, high - first))
    source = volume[tuple(outer)]
    if source.shape[:3] != window.shape[:3]:
        window[...] = 0
    window[tuple(inner)] = source


def copy_image_window(image: Image, start: Size, window: NDArray[np.float32]) -> None:
    """Fill a window with channels last from an image with channels first; see `copy_window`."""
    # A channel at a time: rows along x are copied faster than pairs of channels.
    for channel, voxels in enumerate(image):
        copy_window(voxels, start, window[..., channel])


def write_block(volume: NDArray[np.float32], start: Size, block: NDArray[np.float32]) -> None:
    """Write a block, shape (z, y, x, channels), into a volume, as far as it reaches."""
    target = volume[
        tuple(slice(first, first + length) for first, length in zip(start, block.shape, strict=False))
    ]
    z, y, x, _ = target.shape
    target[...] = block[:z, :y, :x]


def block_starts(shape: tuple[int, ...], block: Size) -> list[Size]:
    """Return the first voxels of the blocks that cover a volume; the last may reach beyond it."""
    z, y, x = (range(0, length, step) for length, step in zip(shape, block, strict=True))
    return list(product(z, y, x))


def open_block_starts(mask: Mask, block: Size) -> list[Size]:
    """Return the first voxels of the blocks that hold a True voxel of a mask."""
    for axis, step in enumerate(block):
        mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], step), axis=axis)
    return [(z, y, x) for z, y, x in (np.argwhere(mask) * block).tolist()]


def rounded_up(shape: Sequence[int], divisor: int) -> Size:
    """Return a shape, z, y, x, raised to multiples of a divisor."""
    z, y, x = (-(-length // divisor) * divisor for length in shape)
    return z, y, x


def divided(size: Size, divisor: int) -> Size:
    """Return a size or a voxel on a grid of a fraction of the resolution, rounded down."""
    z, y, x = size
    return z // divisor, y // divisor, x // divisor


def moved(start: Size, by: int) -> Size:
    """Return a voxel moved, or a size grown, by so many voxels along each axis."""
    z, y, x = start
    return z + by, y + by, x + by
