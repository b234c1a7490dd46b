"""Geometry of an SG-Net: the sizes and gate settings that an engine needs, without PyTorch."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from msgspec import Meta


@dataclass(frozen=True, kw_only=True)
class GateGeometry:
    """A hard spatial gate; see `networks.gates.HardSpatialGate`. The threshold is one on logits."""

    score_threshold: Annotated[float, Meta(ge=-1e3, le=1e3)]
    dilation: Annotated[int, Meta(ge=0, le=64)]
    nested: bool
    bypassed: bool = False


@dataclass(frozen=True, kw_only=True)
class NetworkGeometry:
    """The sizes of an SG-Net, and its gates."""

    channels: Annotated[int, Meta(ge=1, le=4096)]
    heads: Annotated[int, Meta(ge=1, le=65536)]
    features: Annotated[  # channels of each encoder level, full resolution first
        tuple[Annotated[int, Meta(ge=1, le=4096)], ...], Meta(min_length=2, max_length=12)
    ]
    gates: tuple[GateGeometry | None, ...]  # of each decoder level, coarsest first
    background: tuple[Annotated[float, Meta(ge=-1e3, le=1e3)], ...]  # logits outside the finest gate

    def __post_init__(self) -> None:
        """Require a gate, or None, for each level of the decoder, and a logit for each head."""
        if len(self.gates) != len(self.features) - 1 or len(self.background) != self.heads:
            raise ValueError("`gates`, `features`, `background` and `heads` do not fit each other")

    @property
    def divisor(self) -> int:
        """The multiple that the image's size must be along each axis, in voxels."""
        return int(2 ** (len(self.features) - 1))

    @property
    def margin(self) -> int:
        """Voxels around a piece of an image beyond which nothing changes the piece's logits.

        The piece starts and ends at multiples of the divisor, of which the margin is one, too.
        """
        last = reached = self.divisor - 1
        # From the logits down to the bottleneck, and up again to the image: a 3x3x3 convolution reaches
        # one voxel of its level further, a gate as many voxels of its grid as its dilation.
        for gate in reversed(self.gates):
            reached = (reached + 1) // 2 + (gate.dilation if gate is not None else 0)
        for _ in self.gates:
            reached = 2 * (reached + 1) + 1
        return -(-(reached + 1 - last) // self.divisor) * self.divisor

    @property
    def can_skip(self) -> bool:
        """Whether nothing behind a closed gate matters: every level has a gate nested in the one before."""
        return all(gate is not None and (gate.nested or level == 0) for level, gate in enumerate(self.gates))

    def as_dict(self) -> dict[str, Any]:
        """Return the geometry as JSON can hold it."""
        return asdict(self)
