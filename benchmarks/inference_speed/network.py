"""The network stage alone, on one preprocessed patient."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from training_speed.machine import seconds

from inference_speed.default_network import default_predictor
from inference_speed.names import SPARSE, SPARSE_BF16, STOCK, STOCK_FAST
from inference_speed.rounds import in_turn, ratio
from inference_speed.subject import Subject
from inference_speed.ways import (
    DEFAULT_NETWORK,
    DENSE,
    SPARSE_TORCH,
    WHOLE,
    Way,
    open_voxels,
    our_ways,
    sliding_window,
    stock_way,
)


def measure_network(subject: Subject, *, rounds: int, stock_rounds: int) -> dict[str, Any]:
    """Time every way, each once a round; ours have a round more, to warm up.

    Args:
        subject: The model; the first of its patients is taken.
        rounds: Rounds of our ways.
        stock_rounds: Rounds of nnU-Net's.
    """
    predictor = subject.predictor()
    image, _ = subject.preprocessed(predictor, subject.first)
    ours = our_ways(predictor, (SPARSE, SPARSE_BF16, WHOLE, SPARSE_TORCH, DENSE))
    opened = open_voxels(ours[SPARSE](image), predictor.network.geometry.background)
    stock: dict[str, tuple[Way, NDArray[np.float32]]] = {
        STOCK: (stock_way(subject), image),
        STOCK_FAST: (stock_way(subject, tile_step_size=0.75, use_mirroring=False), image),
    }
    other = default_predictor(subject)
    if other is not None:
        stock[DEFAULT_NETWORK] = (sliding_window(other), subject.preprocessed(other, subject.first)[0])
    for way in ours.values():
        way(image)
    ways: dict[str, Callable[[], float]] = {name: _timed(way, image) for name, way in ours.items()}
    ways |= {name: _timed(way, its_image) for name, (way, its_image) in stock.items()}
    found = in_turn(ways, dict.fromkeys(ours, rounds) | dict.fromkeys(stock, stock_rounds))
    shapes = {name: its_image.shape for name, (_, its_image) in stock.items()}
    return {
        "case": subject.first,
        "shape": list(image.shape),
        "brain_share": float((image != 0).any(axis=0).mean()),
        "open_share": float(opened.mean()),
        "default_patch_size": None if other is None else _patch_size(other),
        "rows": [
            {
                "name": name,
                "shape": list(shapes.get(name, image.shape)),
                "seconds": statistics.median(times),
                "rounds": times,
            }
            for name, times in found.items()
        ],
        "times_faster": {
            name: {reference: ratio(found[reference], found[name]) for reference in stock} for name in ours
        },
    }


def _timed(way: Way, image: NDArray[np.float32]) -> Callable[[], float]:
    return partial(seconds, partial(way, image))


def _patch_size(predictor: Any) -> list[int]:  # noqa: ANN401
    return [int(length) for length in predictor.configuration_manager.patch_size]
