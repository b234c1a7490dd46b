"""What the gates admit, decided between two stages."""

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.engine.description import Gate
from sgnet_nnunet.engine.windows import dilate, repeat_twice

Mask = NDArray[np.bool_]
"""Shape (z, y, x)."""


def decide(gate: Gate, score: NDArray[np.float32], parent: Mask | None) -> Mask:
    """Return what a gate admits; see `networks.gates.AdmissionGate.forward`."""
    admitted = score > gate.score_threshold
    allowed = on_grid(parent, score.shape) if gate.nested and parent is not None else None
    if allowed is not None:
        admitted &= allowed
    admitted = dilate(admitted, gate.dilation)
    if allowed is not None:
        admitted &= allowed
    return np.ones_like(admitted) if gate.held_open else admitted


def on_grid(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """Return a mask on the grid of a multiple, a power of two, of its resolution."""
    while mask.shape != shape:
        mask = repeat_twice(mask)
    return mask
