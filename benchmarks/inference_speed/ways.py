"""The ways to run a network on one preprocessed patient: ours, and nnU-Net's."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from inference_speed.names import SPARSE, SPARSE_BF16
from inference_speed.subject import Subject
from sgnet_nnunet.inference.runtimes import supports_bf16
from sgnet_nnunet.inference.torch_engines import DenseEngine, activation_memory, build_engine, torch_run

Logits = NDArray[np.float32]
Way = Callable[[NDArray[np.float32]], Logits]
"""Takes an image, shape (channels, z, y, x), and returns logits, shape (heads, z, y, x)."""

WHOLE = "whole, OpenVINO f32"
SPARSE_TORCH = "sparse, torch f32"
WHOLE_TORCH = "whole, torch f32"
DENSE = "one dense pass, torch f32"
DEFAULT_NETWORK = "nnU-Net's default network and plan, untrained, step 0.75, no mirroring"

_ENGINES: dict[str, dict[str, Any]] = {
    SPARSE: {"requested": "sparse", "runtime": "openvino"},
    SPARSE_BF16: {"requested": "sparse", "runtime": "openvino", "precision": "bf16"},
    WHOLE: {"requested": "whole", "runtime": "openvino"},
    SPARSE_TORCH: {"requested": "sparse", "runtime": "torch"},
    WHOLE_TORCH: {"requested": "whole", "runtime": "torch"},
}


def our_ways(predictor: Any, names: tuple[str, ...]) -> dict[str, Way]:  # noqa: ANN401
    """Return engines of a predictor's network; bf16 is left out where the CPU has none.

    Args:
        predictor: nnU-Net's predictor of the model.
        names: Names of engines, or `DENSE`.
    """
    network, cpu = predictor.network, torch.device("cpu")
    ways: dict[str, Way] = {}
    for name in names:
        if name == DENSE:
            memory = activation_memory(network, cpu)
            ways[name] = DenseEngine(torch_run(network, cpu), network, memory).logits
        elif name != SPARSE_BF16 or supports_bf16():
            engine = build_engine(network, predictor.list_of_parameters, device=cpu, **_ENGINES[name])
            assert engine is not None  # noqa: S101 - only `tiled` is none
            ways[name] = engine.logits
    return ways


def stock_way(subject: Subject, **options: Any) -> Way:  # noqa: ANN401
    """Return nnU-Net's sliding window on the model.

    Args:
        subject: The model.
        options: Arguments of `nnUNetPredictor`; its defaults are those of `nnUNetv2_predict`.
    """
    return sliding_window(subject.predictor(**options))


def sliding_window(predictor: Any) -> Way:  # noqa: ANN401
    """Return the sliding window of one of nnU-Net's predictors."""

    def run(image: NDArray[np.float32]) -> Logits:
        logits = predictor.predict_logits_from_preprocessed_data(torch.from_numpy(image))
        return np.asarray(logits.numpy(), dtype=np.float32)

    return run


def mask_of(logits: Logits, *, background_head: bool) -> NDArray[np.bool_]:
    """Return where the tumour is, shape (z, y, x): any label but background, or any region."""
    foreground = logits[1:].max(axis=0) > logits[0] if background_head else logits.max(axis=0) > 0
    return np.asarray(foreground)


def open_voxels(logits: Logits, background: tuple[float, ...]) -> NDArray[np.bool_]:
    """Return where the finest gate is open, shape (z, y, x): behind it logits are the background's."""
    return np.asarray((logits != np.asarray(background, dtype=np.float32)[:, None, None, None]).any(axis=0))
