"""What an engine has to know of an SG-Net besides its stages: numbers alone, readable without PyTorch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sgnet_nnunet import former_names


@dataclass(frozen=True, kw_only=True)
class GateGeometry:
    """A hard spatial gate; see `networks.gates.HardSpatialGate`. The threshold is one on logits."""

    score_threshold: float
    dilation: int
    nested: bool
    bypassed: bool = False


@dataclass(frozen=True, kw_only=True)
class NetworkGeometry:
    """The sizes of an SG-Net, and its gates."""

    channels: int
    heads: int
    features: tuple[int, ...]  # channels of each encoder level, full resolution first
    gates: tuple[GateGeometry | None, ...]  # of each decoder level, coarsest first
    background: tuple[float, ...]  # logits of the heads outside the finest gate

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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NetworkGeometry":
        """Return the geometry from what `as_dict` gave, of version 0.1.0 too."""

        def gate_of(gate: Mapping[str, Any]) -> GateGeometry:
            return GateGeometry(**{former_names.GEOMETRY.get(key, key): value for key, value in gate.items()})

        gates = tuple(None if gate is None else gate_of(gate) for gate in values["gates"])
        lists = {name: tuple(values[name]) for name in ("features", "background")}
        return cls(**{**values, **lists, "gates": gates})
