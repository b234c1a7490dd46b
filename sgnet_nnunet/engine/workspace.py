"""Memory that is used again from image to image."""

import numpy as np
from numpy.typing import NDArray


class Workspace:
    """Hands out arrays by name; the system gives a fresh page out slowly, one used before at once."""

    def __init__(self) -> None:
        self._memory: dict[str, NDArray[np.float32]] = {}

    def trim(self, most: int) -> None:
        """Give everything back if it is more than `most` bytes."""
        if sum(held.nbytes for held in self._memory.values()) > most:
            self._memory.clear()

    def take(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return an array of a shape, with anything in it; the one of that name before is given up."""
        voxels = int(np.prod(shape))
        held = self._memory.get(name)
        if held is None or held.size < voxels:
            # Given up first, so that both are never there at once.
            self._memory.pop(name, None)
            del held
            # Zeros are handed out untouched: what nothing is written to takes no memory.
            held = self._memory[name] = np.zeros(voxels, dtype=np.float32)
        return held[:voxels].reshape(shape)
