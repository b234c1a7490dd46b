"""The staged engine: SG-Net block by block, its decoder only where the gates are open.

The encoder's deeper levels are cheap and run everywhere. Each decoder level then runs in the blocks
where its gate is open anywhere; since a gate looks at nothing outside its parent, what is left out
cannot change anything, and the logits are the same bits as those of a run of every block.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import local
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.engine.description import STEM_BLOCKS, Blocks, Description, blocks_of
from sgnet_nnunet.engine.gating import Mask, decide, on_grid
from sgnet_nnunet.engine.runtime import Arrays, Runtime
from sgnet_nnunet.engine.windows import (
    Size,
    batches,
    block_starts,
    copy_image_window,
    copy_window,
    divided,
    inside_window,
    moved,
    open_block_starts,
    repeat_twice,
    rounded_up,
    write_block,
)
from sgnet_nnunet.engine.workspace import Workspace

Feature = NDArray[np.float32]
"""Shape (z, y, x, channels)."""

Image = NDArray[np.float32]
"""Shape (channels, z, y, x)."""

KEPT_BYTES = 2**29
"""Memory that an engine keeps for its next image at most; a brain takes about a third of it."""

_Job = TypeVar("_Job")

DEEP_VOXELS = 2**18
"""Voxels, at a quarter of the resolution, of the encoder's deeper levels that are run at once."""


class StagedEngine:
    """Runs an SG-Net on a whole image.

    Args:
        description: The network's geometry.
        runtime: What computes its stages.
        skip: Leave out what cannot matter: decoder blocks behind closed gates, and encoder blocks of
            nothing but background.

    Raises:
        ValueError: If something is to be left out that the network's gates do not allow.
    """

    def __init__(self, description: Description, runtime: Runtime, *, skip: bool) -> None:
        if skip and not description.can_skip:
            msg = "only a network with a nested gate at every level of its decoder can be run sparsely"
            raise ValueError(msg)
        self.description = description
        self.runtime = runtime
        self.skip = skip
        self.channels = description.channels
        self.heads = description.heads
        self._background: dict[bytes, list[Feature]] = {}
        # Kept from image to image, with what the runtime keeps for each of its threads.
        self._pool = ThreadPoolExecutor(runtime.threads)
        self._buffers = local()
        self._workspace = Workspace()

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of an image, shape (channels, z, y, x), as (heads, z, y, x)."""
        image = np.asarray(image, dtype=np.float32)
        extent = rounded_up(image.shape[1:], self.description.divisor)
        half, pooled = self._stem(image, extent)
        deeper, score = self._deep(pooled)
        del pooled
        *skips, feature = half, *deeper
        finest: Mask | None = None
        for gate, level in zip(self.description.gates, reversed(range(len(skips) + 1)), strict=True):
            if gate is not None and score is not None:
                finest = decide(gate, score[..., 0], finest)
            admitted = np.ones(feature.shape[:3], dtype=bool) if gate is None or finest is None else finest
            if level:
                feature, score = self._up(level, feature, admitted, skips.pop())
        logits = self._logits(feature, admitted, finest, image)
        self._workspace.trim(KEPT_BYTES)
        return logits

    def _stem(self, image: Image, extent: Size) -> tuple[Feature, Feature]:
        """Return the feature at half the resolution, and that pooled to a quarter of it."""
        features, stage, size = self.description.features, self.runtime.block_stage("stem"), STEM_BLOCKS.size
        half = self._workspace.take("half", (*divided(extent, 2), features[1]))
        pooled = self._workspace.take("pooled", (*divided(extent, 4), features[1]))
        inside_size = moved(divided(size, 2), 2)

        def run(start: Size) -> None:
            window = self._buffer("image", STEM_BLOCKS, size, 3, self.channels)
            copy_image_window(image, moved(start, -3), window[0])
            inside = self._buffer("inside", STEM_BLOCKS, divided(size, 2), 1, 1)
            inside[0, ..., 0] = inside_window(divided(extent, 2), moved(divided(start, 2), -1), inside_size)
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
        """Return the deeper features, finest first, and the first gate's score."""
        stage, levels = self.runtime.whole_stage("deep"), len(self.description.features) - 2
        unit = 2 ** (levels - 1)
        margin = 2 * unit
        plane = pooled.shape[1] * pooled.shape[2]
        thickness = max(DEEP_VOXELS // plane // unit, 1) * unit
        results: list[Feature] = []
        for first in range(0, len(pooled), thickness):
            last = min(first + thickness, len(pooled))
            low, high = max(first - margin, 0), min(last + margin, len(pooled))
            slab = np.ascontiguousarray(pooled[low:high])[None]
            for index, part in enumerate(stage(slab)):
                step = 2 ** min(index, levels - 1)
                if first == 0:
                    shape = (len(pooled) // step, *part.shape[2:])
                    results.append(self._workspace.take(f"deep{index}", shape))
                kept = part[0, (first - low) // step : (last - low) // step]
                results[index][first // step : last // step] = kept
        return results[:levels], results[levels] if len(results) > levels else None

    def _up(
        self, level: int, coarse: Feature, admitted: Mask, skip: Feature
    ) -> tuple[Feature, Feature | None]:
        """Return a decoder level's feature and the next gate's score."""
        fine = repeat_twice(admitted)
        # What no block writes holds anything: the next level and its gate look only where this one is open.
        feature = self._workspace.take(f"up{level}", (*fine.shape, self.description.features[level]))
        scored = self.description.gates[-level] is not None
        score = self._workspace.take(f"score{level}", (*fine.shape, 1)) if scored else None

        def write(start: Size, _: NDArray[np.float32], results: Arrays) -> None:
            write_block(feature, start, results[0])
            if score is not None:
                write_block(score, start, results[1])

        self._run_blocks(level, coarse, fine, skip, write)
        return feature, score

    def _logits(
        self, coarse: Feature, admitted: Mask, finest: Mask | None, image: Image
    ) -> NDArray[np.float32]:
        """Return the logits, (heads, z, y, x), the background's wherever the finest gate is closed."""
        background = np.asarray(self.description.background, dtype=np.float32)
        logits = np.empty((self.heads, *image.shape[1:]), dtype=np.float32)
        logits[...] = background[:, None, None, None]
        channels_last = np.moveaxis(logits, 0, -1)
        fine = repeat_twice(admitted)
        closing = fine if finest is None or finest is admitted else on_grid(finest, fine.shape)

        def write(start: Size, is_open: NDArray[np.float32], results: Arrays) -> None:
            if finest is not admitted:
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
        stage, blocks = self.runtime.block_stage(f"up{level}"), blocks_of(level)
        halo, channels = (1, skip.shape[3]) if level else (2, self.channels)
        copy_skip = copy_window if level else copy_image_window

        def run(starts: Sequence[Size]) -> None:
            inputs = (
                self._buffer("coarse", blocks, divided(blocks.size, 2), 1, coarse.shape[3]),
                self._buffer("admitted", blocks, blocks.size, 1, 1),
                self._buffer("skip", blocks, blocks.size, halo, channels),
            )
            for slot, start in enumerate(starts):
                copy_window(coarse, moved(divided(start, 2), -1), inputs[0][slot])
                copy_window(fine[..., None], moved(start, -1), inputs[1][slot])
                copy_skip(skip, moved(start, -halo), inputs[2][slot])
            results = stage(*inputs)
            for slot, start in enumerate(starts):
                write(start, inputs[1][slot], [result[slot] for result in results])

        starts = (
            open_block_starts(fine, blocks.size)
            if self.skip
            else block_starts(rounded_up(fine.shape, 1), blocks.size)
        )
        self._run_all(run, list(batches(starts, blocks.batch)))

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
