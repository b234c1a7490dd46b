"""The stages run by PyTorch on a CPU."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sgnet_nnunet.engine.cores import usable_cores
from sgnet_nnunet.engine.runtime import Arrays, Stage


class TorchRuntime:
    """Runs a network's stages with PyTorch.

    Args:
        stages: From `stages.stages_of`.
        threads: Threads to compute with; None for the cores that this process may use.
    """

    def __init__(self, stages: Mapping[str, nn.Module], *, threads: int | None = None) -> None:
        self.stages = stages
        self.threads = threads or usable_cores()

    def block_stage(self, name: str) -> Stage:
        """Return a stage that computes with the thread that calls it alone."""
        return self._stage(name, threads=1)

    def whole_stage(self, name: str) -> Stage:
        """Return a stage that computes with all threads."""
        return self._stage(name, threads=self.threads)

    def _stage(self, name: str, *, threads: int) -> Stage:
        module = self.stages[name]

        def run(*inputs: NDArray[np.float32]) -> Arrays:
            # PyTorch keeps the number, and whether gradients are wanted, for each thread.
            torch.set_num_threads(threads)
            with torch.inference_mode():
                results = module(*(torch.from_numpy(array) for array in inputs))
            return [result.numpy() for result in results]

        return run
