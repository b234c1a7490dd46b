"""A patient with more or fewer lesions: copies of one of the patient's own."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sgnet_nnunet.evaluation.lesion_metrics import CONNECTIVITY

RIM = 4
"""Voxels round a lesion that go with it: its blurred edge."""

ATTEMPTS = 2000

Image = NDArray[np.float32]
"""Shape (channels, z, y, x), 0 outside the brain."""


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion and its rim.

    Attributes:
        values: Shape (channels, z, y, x).
        inside: What of it is lesion or rim, shape (z, y, x).
    """

    values: Image
    inside: NDArray[np.bool_]


def take_lesion(image: Image, lesions: NDArray[np.bool_]) -> Lesion:
    """Return the lesion of median size.

    Args:
        image: The patient.
        lesions: The lesions, shape (z, y, x); not empty.
    """
    labels, _ = ndimage.label(lesions, CONNECTIVITY)
    sizes = np.bincount(labels.ravel())[1:]
    label = 1 + int(np.argsort(sizes)[len(sizes) // 2])
    grown = ndimage.binary_dilation(labels == label, CONNECTIVITY, iterations=RIM)
    (box,) = ndimage.find_objects(grown.astype(np.uint8))
    return Lesion(image[(slice(None), *box)].copy(), grown[box])


def without_lesions(image: Image, lesions: NDArray[np.bool_]) -> Image:
    """Return a patient whose lesions and their rims show what is on the other side of the head."""
    grown = ndimage.binary_dilation(lesions, CONNECTIVITY, iterations=RIM)
    healthy = grown & (_brain(image) & ~grown)[..., ::-1]
    return np.where(healthy, image[..., ::-1], image)


def with_lesions(image: Image, lesion: Lesion, number: int, *, rng: np.random.Generator) -> tuple[Image, int]:
    """Return a patient with copies of a lesion, apart from each other within the brain, and how many.

    Args:
        image: The patient, shape (channels, z, y, x).
        lesion: What is copied.
        number: How many copies; fewer if there is no room.
        rng: Draws their places.
    """
    pasted, free = image.copy(), _brain(image)
    room = [length - part for length, part in zip(free.shape, lesion.inside.shape, strict=True)]
    done = 0
    for _ in range(ATTEMPTS if min(room) >= 0 else 0):
        if done == number:
            break
        start = [int(rng.integers(0, most + 1)) for most in room]
        box = tuple(
            slice(first, first + length) for first, length in zip(start, lesion.inside.shape, strict=True)
        )
        if free[box][lesion.inside].all():
            pasted[(slice(None), *box)] = np.where(lesion.inside, lesion.values, pasted[(slice(None), *box)])
            free[box] &= ~lesion.inside
            done += 1
    return pasted, done


def _brain(image: Image) -> NDArray[np.bool_]:
    # The darkest voxels of a brain may be 0 as well.
    return np.asarray(ndimage.binary_fill_holes((image != 0).any(axis=0)))
