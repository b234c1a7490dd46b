"""Fixtures of the evaluation's tests: masks from voxels, boxes and pairs of them."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.pair import MaskPair

SHAPE = (20, 20, 20)


@pytest.fixture
def boxes() -> Callable[..., NDArray[np.bool_]]:
    """Return a function that draws boxes, each given by its first voxel and its size."""

    def draw(*corners_and_sizes, shape=SHAPE):
        mask = np.zeros(shape, dtype=bool)
        for corner, size in corners_and_sizes:
            mask[tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))] = True
        return mask

    return draw


@pytest.fixture
def make_pair(boxes) -> Callable[..., MaskPair]:
    """Return a function that pairs predicted boxes with those of the reference."""

    def pair(*, predicted=(), reference=(), spacing=(1.0, 1.0, 1.0), shape=SHAPE):
        masks = boxes(*predicted, shape=shape), boxes(*reference, shape=shape)
        return MaskPair(*masks, affine=np.diag([*spacing, 1.0]))

    return pair
