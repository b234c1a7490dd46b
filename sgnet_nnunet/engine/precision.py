"""Half the precision where it changes nothing that matters."""

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.engine.engine import Engine
from sgnet_nnunet.engine.openvino_runtime import Precision, supports_bf16
from sgnet_nnunet.errors import SGNetError

logger = logging.getLogger(__name__)

ALLOWED_DICE = 0.998
"""Overlap with the mask of single precision from which on bfloat16 is trusted."""


def at_precision(wanted: str, build: Callable[[Precision], Engine], *, background_head: bool) -> Engine:
    """Return an engine of OpenVINO at the precision that is wanted.

    Args:
        wanted: `f32`, `bf16`, or `auto` for bf16 if the CPU has it and the first image's mask allows it.
        build: Returns the engine at a precision.
        background_head: Whether head 0 is the background.

    Raises:
        SGNetError: If bf16 is wanted and this CPU has no instructions for it.
    """
    if wanted == "f32":
        return build("f32")
    if not supports_bf16():
        if wanted == "bf16":
            raise SGNetError(
                "--precision bf16: this CPU has no bf16 instructions; use --precision f32 or auto"
            )
        return build("f32")
    if wanted == "bf16":
        return build("bf16")
    return AutoPrecision(build("f32"), build("bf16"), background_head=background_head)


class AutoPrecision:
    """Runs the first image in both precisions, and the others in bfloat16 if their masks agree.

    Args:
        exact: The engine in single precision.
        fast: The same in bfloat16.
        background_head: Whether head 0 is the background.
    """

    def __init__(self, exact: Engine, fast: Engine, *, background_head: bool) -> None:
        self.exact = exact
        self.fast = fast
        self.background_head = background_head
        self.channels = exact.channels
        self.heads = exact.heads
        self._chosen: Engine | None = None

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of an image, shape (channels, z, y, x), as (heads, z, y, x)."""
        if self._chosen is not None:
            return self._chosen.logits(image)
        logits = self.exact.logits(image)
        dice = _dice(self._mask(logits), self._mask(self.fast.logits(image)))
        enough = dice >= ALLOWED_DICE
        logger.info(
            "precision: %s (bf16 gives the first image's mask with Dice %.4f; %g is asked for)",
            "bf16" if enough else "f32",
            dice,
            ALLOWED_DICE,
        )
        self._chosen = self.fast if enough else self.exact
        return logits

    def _mask(self, logits: NDArray[np.float32]) -> NDArray[np.bool_]:
        foreground = logits[1:].max(axis=0) > logits[0] if self.background_head else logits.max(axis=0) > 0
        return np.asarray(foreground)


def _dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    both = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / both if both else 1.0
