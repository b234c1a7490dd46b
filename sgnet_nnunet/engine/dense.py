"""A network on a whole image in one pass."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd

DIVISOR = 32
"""Images are padded with zeros to multiples of it: enough for networks of up to six levels."""

_DEPEND_ON_THE_TILE = (
    _InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.Linear,
    nn.MultiheadAttention,
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
)


def is_fully_convolutional(network: nn.Module) -> bool:
    """Whether a voxel's logits depend on what surrounds it, and not on how large the image is."""
    modules = list(network.modules())
    norms = [module for module in modules if isinstance(module, _BatchNorm)]
    return not any(isinstance(module, _DEPEND_ON_THE_TILE) for module in modules) and all(
        norm.track_running_stats for norm in norms
    )


class DenseEngine:
    """Runs a network once over the whole image.

    Args:
        run: Takes an image, shape (1, channels, z, y, x), and returns logits, (1, heads, z, y, x).
        channels: Image channels.
        heads: Output heads.
    """

    def __init__(
        self, run: Callable[[NDArray[np.float32]], NDArray[np.float32]], *, channels: int, heads: int
    ) -> None:
        self.run = run
        self.channels = channels
        self.heads = heads

    def logits(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of an image, shape (channels, z, y, x), as (heads, z, y, x)."""
        _, z, y, x = image.shape
        padding = [(0, 0), *((0, -length % DIVISOR) for length in (z, y, x))]
        padded = np.pad(np.asarray(image, dtype=np.float32), padding)
        return self.run(padded[None])[0, :, :z, :y, :x]


def torch_run(
    network: nn.Module, device: torch.device
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return a function that runs a network with PyTorch, in half precision on a GPU as nnU-Net does."""
    network = network.to(device).eval()

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast(device.type, enabled=device.type == "cuda"):
            logits: torch.Tensor = network(torch.from_numpy(image).to(device))
        return logits.float().cpu().numpy()

    return run
