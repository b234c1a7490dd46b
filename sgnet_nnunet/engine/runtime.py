"""What runs the stages of a network."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Sequence[NDArray[np.float32]]


class Stage(Protocol):
    """One stage of a network; may be called by several threads at once."""

    def __call__(self, *inputs: NDArray[np.float32]) -> Arrays:
        """Return the results, channels last; they hold until the same thread calls the stage again."""
        ...


class Runtime(Protocol):
    """A library that computes, and the threads it has."""

    @property
    def threads(self) -> int:
        """How many threads may call `block_stage` results at once."""
        ...

    def block_stage(self, name: str) -> Stage:
        """Return a stage to be called by every thread, with inputs of one fixed shape."""
        ...

    def whole_stage(self, name: str) -> Stage:
        """Return a stage to be called by one thread, which uses all of them, with inputs of any size."""
        ...
