"""What the staged engine has to know of an SG-Net besides its weights."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sgnet_nnunet.engine.windows import Size


@dataclass(frozen=True, kw_only=True)
class Gate:
    """An admission gate; see `networks.gates.AdmissionGate`.

    Attributes:
        score_threshold: A voxel is admitted where its score, a logit, is above it.
        dilation: Voxels of the gate's grid that the admitted region grows by.
        nested: Whether it stays within the coarser gate.
        held_open: Whether it admits everything.
    """

    score_threshold: float
    dilation: int
    nested: bool
    held_open: bool = False


@dataclass(frozen=True, kw_only=True)
class Description:
    """The geometry of an SG-Net that is run in stages.

    Attributes:
        channels: Image channels.
        heads: Output heads.
        features: Channels of each encoder level, full resolution first; three or more.
        gates: The gate of each decoder level, coarsest first; None where there is none.
        background: Logits of the heads outside the finest gate.
    """

    channels: int
    heads: int
    features: tuple[int, ...]
    gates: tuple[Gate | None, ...]
    background: tuple[float, ...]

    @property
    def divisor(self) -> int:
        """The multiple that the network's sizes must have along each axis, in voxels."""
        return int(2 ** (len(self.features) - 1))

    @property
    def margin(self) -> int:
        """Voxels around a piece of an image beyond which nothing changes the piece's logits.

        Each 3x3x3 convolution reaches one voxel of its level further, and so does each voxel of a
        gate's dilation on its grid. Rounded up to the divisor.
        """
        levels = len(self.features)
        reach = 2**levels - 1
        for gate, level in zip(self.gates, reversed(range(levels - 1)), strict=True):
            reach += 2**level + (gate.dilation * 2 ** (level + 1) if gate is not None else 0)
        return -(-reach // self.divisor) * self.divisor

    @property
    def can_skip(self) -> bool:
        """Whether nothing behind a closed gate matters: every level has a gate nested in the one before."""
        return all(gate is not None and (gate.nested or level == 0) for level, gate in enumerate(self.gates))

    def as_dict(self) -> dict[str, Any]:
        """Return the description as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Description":
        """Return a description from what `as_dict` gave."""
        gates = tuple(None if gate is None else Gate(**gate) for gate in values["gates"])
        lists = {name: tuple(values[name]) for name in ("features", "background")}
        return cls(**{**values, **lists, "gates": gates})


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Blocks that a stage works on.

    Attributes:
        size: Voxels of the stage's result along z, y, x; even.
        batch: Blocks that are run at once.
    """

    size: Size
    batch: int


STEM_BLOCKS = Blocks(size=(24, 16, 48), batch=1)
"""In voxels of the image; multiples of 4. Exports hold these shapes: raise their version with them."""

_FULL, _HALF, _COARSER = (
    Blocks(size=(8, 8, 16), batch=8),
    Blocks(size=(4, 8, 8), batch=8),
    Blocks(size=(4, 4, 8), batch=8),
)


def blocks_of(level: int) -> Blocks:
    """Return the blocks of the decoder's level at 1 / 2 ** `level` of the resolution.

    Smaller blocks follow a gate more closely and spend more on their halo.
    """
    return (_FULL, _HALF, _COARSER)[min(level, 2)]


def input_shapes(description: Description) -> dict[str, list[list[int]]]:
    """Return the shapes that each stage is called with, (blocks, z, y, x, channels); -1 where any will do."""

    def shape(blocks: Blocks, coarser: int, halo: int, channels: int) -> list[int]:
        return [blocks.batch, *(length // coarser + halo for length in blocks.size), channels]

    features = description.features
    shapes = {
        "stem": [shape(STEM_BLOCKS, 1, 6, description.channels), shape(STEM_BLOCKS, 2, 2, 1)],
        "deep": [[1, -1, -1, -1, features[1]]],
    }
    for level in range(len(features) - 1):
        blocks = blocks_of(level)
        fine = shape(blocks, 1, 2, features[level]) if level else shape(blocks, 1, 4, description.channels)
        shapes[f"up{level}"] = [shape(blocks, 2, 2, features[level + 1]), shape(blocks, 1, 2, 1), fine]
    return shapes
