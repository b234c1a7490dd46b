"""How the network stage grows: with voxels, and with lesions."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from training_speed.machine import peak_megabytes, reset_peak, seconds

from inference_speed.names import SPARSE
from inference_speed.pasting import take_lesion, with_lesions, without_lesions
from inference_speed.rounds import in_turn, spread
from inference_speed.subject import Subject
from inference_speed.ways import Way, mask_of, open_voxels, our_ways

PIECE = 80
"""Voxels along each axis of the piece that is repeated: half a million in all."""

STEP = 16
"""Voxels between two places that the piece may be taken from."""

REPEATS = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2), (4, 2, 2), (4, 4, 2), (4, 4, 4), (8, 4, 4), (4, 7, 7))
LESIONS = (0, 1, 3, 10, 30)
LEAST = 1_000_000
"""Voxels from which on the time per voxel should not change."""

CPU = torch.device("cpu")


def measure_growth(subject: Subject, *, rounds: int, million_voxels: float) -> dict[str, Any]:
    """Time the sparse engine on images of growing size, and on one with more and more lesions.

    Args:
        subject: The model; the first of its patients is taken.
        rounds: Rounds; each image is taken once a round.
        million_voxels: Larger images are left out.
    """
    predictor = subject.predictor()
    image, reference = subject.preprocessed(predictor, subject.first)
    way = our_ways(predictor, (SPARSE,))[SPARSE]
    background = predictor.network.geometry.background
    logits = way(image)
    opened = open_voxels(logits, background)
    piece = typical_piece(image, opened, size=PIECE)
    images: dict[tuple[int, ...], Callable[[], NDArray[np.float32]]] = {
        repeats: partial(np.tile, piece, (1, *repeats))
        for repeats in REPEATS
        if piece[0].size * int(np.prod(repeats)) <= 1e6 * million_voxels
    }
    sizes = _measure(way, images, background, rounds)
    per_voxel = [row["seconds"] / np.prod(row["shape"]) for row in sizes if np.prod(row["shape"]) >= LEAST]
    lesions = mask_of(logits, background_head=predictor.network.background_head)
    lesions = lesions if reference is None else reference
    return {
        "way": SPARSE,
        "voxels": sizes,
        "time_per_voxel_spread": float(spread(per_voxel)) if per_voxel else 1.0,
        "lesions": _measure_lesions(way, image, lesions, background, rounds),
    }


def _measure(
    way: Way,
    images: Mapping[Any, Callable[[], NDArray[np.float32]]],
    background: tuple[float, ...],
    rounds: int,
) -> list[dict[str, Any]]:
    """Return a row for each image, which is made when its turn comes: together they are too large."""
    found = in_turn(
        {str(name): partial(_run, way, make, background) for name, make in images.items()},
        dict.fromkeys(map(str, images), rounds),
    )
    return [
        {
            "shape": rows[0]["shape"],
            "open_share": rows[0]["open_share"],
            "seconds": statistics.median(row["seconds"] for row in rows),
            "peak_mb": max(row["peak_mb"] for row in rows),
            "rounds": [row["seconds"] for row in rows],
        }
        for rows in found.values()
    ]


def _run(way: Way, make: Callable[[], NDArray[np.float32]], background: tuple[float, ...]) -> dict[str, Any]:
    image = make()
    logits: list[NDArray[np.float32]] = []
    reset_peak(CPU)
    spent = seconds(lambda: logits.append(way(image)))
    peak = peak_megabytes(CPU)
    return {
        "shape": list(image.shape[1:]),
        "open_share": float(open_voxels(logits[0], background).mean()),
        "seconds": spent,
        "peak_mb": peak or 0.0,
    }


def _measure_lesions(
    way: Way,
    image: NDArray[np.float32],
    lesions: NDArray[np.bool_],
    background: tuple[float, ...],
    rounds: int,
) -> list[dict[str, Any]]:
    """Return a row for each number of lesions that there is room for."""
    if not lesions.any():
        return []
    lesion, healthy = take_lesion(image, lesions), without_lesions(image, lesions)
    images, numbers = {}, []
    for number in LESIONS:
        pasted, count = with_lesions(healthy, lesion, number, rng=np.random.default_rng(0))
        if count == number:
            images[number] = partial(np.copy, pasted)
            numbers.append(number)
    rows = _measure(way, images, background, rounds)
    return [{"lesions": number, **row} for number, row in zip(numbers, rows, strict=True)]


def typical_piece(image: NDArray[np.float32], opened: NDArray[np.bool_], *, size: int) -> NDArray[np.float32]:
    """Return the cube of an image that is most like the whole in what is brain and what is open.

    Args:
        image: Shape (channels, z, y, x).
        opened: Where the finest gate is open, shape (z, y, x).
        size: Voxels along each axis; less if the image is smaller.
    """
    masks = ((image != 0).any(axis=0), opened)
    whole = [mask.mean() for mask in masks]
    windows = _windows(opened.shape, size)

    def unlike(window: tuple[slice, ...]) -> float:
        # Relative: little is open, and it takes most of the time.
        return float(
            sum(
                abs(mask[window].mean() - share) / max(share, 1e-6)
                for mask, share in zip(masks, whole, strict=True)
            )
        )

    return np.ascontiguousarray(image[(slice(None), *min(windows, key=unlike))])


def _windows(shape: Sequence[int], size: int) -> list[tuple[slice, ...]]:
    starts = [range(0, max(length - size, 0) + 1, STEP) for length in shape]
    return [
        (slice(z, z + size), slice(y, y + size), slice(x, x + size))
        for z in starts[0]
        for y in starts[1]
        for x in starts[2]
    ]
