"""Vasogenic oedema: it runs along white matter and spares cortex and fluid."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from sgnet_nnunet.phantom.anatomy import Anatomy
from sgnet_nnunet.phantom.grid import MAJORITY, FloatArray

Box = tuple[slice, ...]
Source = tuple[tuple[int, int, int], float, float]
"""Centre of a lesion (voxel index), its radius and the reach of its oedema (both mm)."""

_SPEED = {"wm": 1.0, "gm": 0.13, "csf": 0.02}
"""How readily oedema spreads through a tissue, relative to white matter."""

_EDGE = 3.5
"""Distance in mm over which oedema fades."""

_STRIDE = 2
"""Spread is computed on every second voxel."""


def spread_oedema(
    rng: np.random.Generator,
    anatomy: Anatomy,
    *,
    core: FloatArray,
    sources: Sequence[Source],
    max_volume: float,
) -> FloatArray:
    """Return the fraction of oedema, 0 to 1, shape of `core`.

    Oedema starts at the surface of each source's core and spreads for its reach along the path of
    least resistance. Where core and oedema together would pass `max_volume` mm3, all oedema recedes
    by the same distance.
    """
    oedema = np.zeros_like(core)
    if not sources:
        return oedema
    box = _box_around(sources, anatomy)
    coarse = _distance_left(rng, anatomy, box, sources)
    shape = tuple(s.stop - s.start for s in box)
    to_coarse = np.eye(3) / _STRIDE
    left = ndimage.affine_transform(coarse, to_coarse, output_shape=shape, order=1, mode="nearest")
    affinity = np.clip(1.25 * anatomy.wm[box] + 0.25 * anatomy.gm[box], 0, 1)
    affinity = ndimage.gaussian_filter(affinity, 0.5)
    outside_box = int((core > MAJORITY).sum()) - int((core[box] > MAJORITY).sum())
    room = int(max_volume / anatomy.grid.voxel_volume) - outside_box
    oedema[box] = _recede(left, affinity, core[box], room) * anatomy.brain[box]
    return oedema


def _box_around(sources: Sequence[Source], anatomy: Anatomy) -> Box:
    """Return the box, starting at even voxels, that holds all oedema of `sources`."""
    centres = np.array([centre for centre, _, _ in sources])
    reaches = np.array([radius + reach + 2 * _EDGE for _, radius, reach in sources])
    voxels = np.ceil(reaches[:, None] / anatomy.grid.spacing).astype(int)
    low = np.maximum((centres - voxels).min(axis=0), 0) // _STRIDE * _STRIDE
    high = np.minimum((centres + voxels).max(axis=0) + 1, anatomy.grid.shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _distance_left(
    rng: np.random.Generator, anatomy: Anatomy, box: Box, sources: Sequence[Source]
) -> FloatArray:
    """Return how much farther oedema could spread from each second voxel of `box`, in mm.

    Negative where it does not come; `-_EDGE` at the lowest.
    """
    every = tuple(slice(s.start, s.stop, _STRIDE) for s in box)
    speed = sum(getattr(anatomy, tissue)[every] * value for tissue, value in _SPEED.items())
    ragged = ndimage.gaussian_filter(rng.standard_normal(speed.shape, dtype=np.float32), 1.5)
    resistance = np.exp(0.5 * ragged / ragged.std()) / np.maximum(speed, _SPEED["csf"])
    step = anatomy.grid.spacing * _STRIDE
    position = np.indices(resistance.shape).reshape(3, -1).T * step
    farthest = max(reach for _, _, reach in sources)
    start = resistance.size
    heads: list[NDArray[np.int64]] = []
    tails: list[NDArray[np.int64]] = []
    costs: list[NDArray[np.float64]] = []
    near = np.zeros(start, dtype=bool)
    for centre, radius, reach in sources:
        offset = (np.array(centre) - [s.start for s in box]) * anatomy.grid.spacing
        away = np.linalg.norm(position - offset, axis=1)
        near |= away < radius + reach + 2 * _EDGE
        body = np.flatnonzero(away <= max(radius, away.min()))
        heads.append(np.full(body.size, start))
        tails.append(body)
        costs.append(np.full(body.size, farthest - reach + 1e-3))
    for head, tail, cost in _edges(resistance, near.reshape(resistance.shape), step):
        heads.append(head)
        tails.append(tail)
        costs.append(cost)
    graph = sparse.csr_matrix(
        (np.concatenate(costs), (np.concatenate(heads), np.concatenate(tails))), shape=(start + 1, start + 1)
    )
    spent = sparse.csgraph.dijkstra(graph, directed=False, indices=start, limit=farthest + _EDGE)
    left: FloatArray = np.maximum(farthest - spent[:start], -_EDGE).astype(np.float32)
    return left.reshape(resistance.shape)


def _edges(
    resistance: FloatArray, near: NDArray[np.bool_], step: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Yield both ends and the cost of the edges in each of the 13 directions between `near` voxels."""
    index = np.arange(resistance.size).reshape(resistance.shape)
    for direction in product((-1, 0, 1), repeat=3):
        if direction <= (0, 0, 0):
            continue
        sides = list(zip(direction, resistance.shape, strict=True))
        here = tuple(slice(max(-d, 0), n - max(d, 0)) for d, n in sides)
        there = tuple(slice(max(d, 0), n - max(-d, 0)) for d, n in sides)
        kept = near[here] & near[there]
        mean = (resistance[here][kept] + resistance[there][kept]).astype(np.float64) / 2
        yield index[here][kept], index[there][kept], mean * np.linalg.norm(direction * step)


def _recede(left: FloatArray, affinity: FloatArray, core: FloatArray, room: int) -> FloatArray:
    """Return the fraction of oedema, drawn back until it and the core take at most `room` voxels."""
    # A voxel counts as oedema where the fraction passes one half: from this distance on.
    threshold = _EDGE * MAJORITY / np.maximum(affinity, 1e-3)
    excess = np.where((core <= MAJORITY) & (affinity > MAJORITY), left - threshold, -np.inf).ravel()
    allowed = max(room - int((core > MAJORITY).sum()), 0)
    back = 0.0
    if int((excess > 0).sum()) > allowed:
        back = float(np.partition(excess, -allowed - 1)[-allowed - 1])
    fraction: FloatArray = (np.clip((left - back) / _EDGE, 0, 1) * affinity).astype(np.float32)
    return fraction
