"""Hard spatial gates: modules that admit or shut out each voxel of a skip connection.

A gate is chosen by its name in `GATES`, which is what nnU-Net's plans carry.
"""

import torch
from torch import Tensor, nn


class StraightThroughGate(nn.Module):
    """Gate channel groups by a thresholded score, with a straight-through gradient.

    The channels are split into groups; a linear score of a group's own channels, squashed by a
    sigmoid, is compared with `threshold` at each voxel, and the group passes there or is zeroed.
    The backward pass takes the sigmoid's gradient for the step's (Bengio et al. 2013,
    arXiv:1308.3432).

    Args:
        channels: Channels of the skip feature.
        groups: Number of groups; must divide `channels`.
        threshold: Admission threshold on the sigmoid score, between 0 and 1.

    Raises:
        ValueError: If `groups` does not divide `channels` or `threshold` is not inside (0, 1).
    """

    OPEN_BIAS = 1.0
    """Initial score: the gate starts open, since what it shuts out early learns nothing."""

    def __init__(self, channels: int, *, groups: int = 4, threshold: float = 0.5) -> None:
        super().__init__()
        if groups < 1 or channels % groups:
            msg = f"groups must divide the gated channels; got groups={groups} for {channels} channels"
            raise ValueError(msg)
        if not 0 < threshold < 1:
            msg = f"threshold must lie between 0 and 1; got {threshold}"
            raise ValueError(msg)
        self.groups = groups
        self.threshold = threshold
        self.score = nn.Conv3d(channels, groups, kernel_size=1, groups=groups)
        nn.init.constant_(self.score.bias, self.OPEN_BIAS)  # type: ignore[arg-type]

    def admit(self, skip: Tensor) -> Tensor:
        """Return which voxels pass: exactly 0 or 1, shape (batch, groups, z, y, x)."""
        probability = torch.sigmoid(self.score(skip))
        admitted = (probability > self.threshold).to(probability.dtype)
        # The bracket is an exact zero, so that the gate stays 0 or 1 in half precision too.
        return admitted + (probability - probability.detach())

    def forward(self, skip: Tensor) -> Tensor:
        """Return `skip`, shape (batch, channels, z, y, x), zeroed where the gate is closed."""
        grouped = torch.unflatten(skip, 1, (self.groups, -1))
        return (grouped * self.admit(skip).unsqueeze(2)).flatten(1, 2)


class OpenGate(nn.Identity):
    """Admit everything: the network without a gate.

    Args:
        channels: Channels of the skip feature; taken so that all gates are built alike.
    """

    def __init__(self, channels: int) -> None:  # noqa: ARG002
        super().__init__()


GATES: dict[str, type[nn.Module]] = {"none": OpenGate, "straight_through": StraightThroughGate}


def build_gate(name: str, channels: int, **kwargs: object) -> nn.Module:
    """Build the gate called `name` for a skip feature of `channels` channels.

    Raises:
        ValueError: If no gate has this name.
    """
    if name not in GATES:
        msg = f"no gate is called {name!r}; choose one of {', '.join(sorted(GATES))}"
        raise ValueError(msg)
    return GATES[name](channels, **kwargs)
