"""Metastases: where they grow, their shape, necrosis and vasogenic oedema."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from sgnet_nnunet.phantom.anatomy import Anatomy
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.fields import MAJORITY, DoubleArray, FloatArray, SmoothField, axes_of

Box = tuple[slice, ...]
Source = tuple[tuple[int, int, int], float, float]
"""Centre of a lesion (voxel index), its radius and the reach of its oedema (both mm)."""

Edges = tuple[NDArray[np.int64], NDArray[np.int64], DoubleArray]
"""Both ends of each edge, and its cost."""

_CALIBRATED = PhantomConfig()

_SPEED = {"wm": 1.0, "gm": 0.13, "csf": 0.02}
"""How readily oedema spreads through a tissue, relative to white matter."""

_STRIDE = 2  # spread is computed on every second voxel
_LARGE = 8.0  # diameter in mm from which rings and oedema are common
_SMALLEST_RING = 5.0  # diameter in mm below which a rim leaves no room for necrosis
_BRAINSTEM = ((-18.0, 18.0), (-48.0, 12.0), (-70.0, 0.0))
"""Box around brainstem and hypothalamus in MNI mm, which hold few metastases for their mixed tissue."""

_BORDER = 0.2  # least fraction of grey and of white matter on their border
_SURFACE = 1.2  # distance from the centre, in radii, that an irregular surface seldom passes
_CLOSE = 4.0  # distance in mm over which the brightness of oedema varies
_PUSHED = 0.6  # share of a large lesion's ball from which tissue is pushed away; it replaces the rest
_SWELLING = 0.12  # share by which oedema enlarges the tissue that it spreads through
_HELD = 12.0  # distance in mm to the surface of the brain, which does not move, over which the shift fades
_STILL = 0.05  # shift in mm that is left out
_SQUEEZED = 2.5  # shift in mm that closes a sulcus
_ATTEMPTS = 200  # places tried for a lesion before it is left out; a brain has far more room than that


@dataclass(frozen=True)
class Lesion:
    """One metastasis."""

    centre: tuple[int, int, int]  # voxel index
    radii: tuple[float, float, float]  # half axes in mm along x, y, z, before its surface is made irregular
    rim: float  # thickness of the enhancing rim in mm; infinite for a solid lesion
    enhancement: float  # strength of its enhancement, 1 being the patient's usual
    reach: float  # how far oedema spreads along white matter, in mm; 0 for none


@dataclass(frozen=True)
class LesionMaps:
    """All lesions of a patient on the T1ce grid; arrays of its shape, fractions 0 to 1.

    The necrosis is part of the core, the oedema is not; `enhancement` and `swelling` are the strengths of the
    contrast of core and of oedema, 1 being usual.
    """

    core: FloatArray
    necrosis: FloatArray
    enhancement: FloatArray
    oedema: FloatArray
    swelling: FloatArray

    @property
    def whole(self) -> FloatArray:
        """Fraction of core and oedema."""
        return np.maximum(self.core, self.oedema)


def draw_lesions(rng: np.random.Generator, anatomy: Anatomy, config: PhantomConfig) -> list[Lesion]:
    """Draw lesions, shrunk so that their ellipsoids stay under `config.max_core_fraction` together."""
    extra = config.extra_lesions_median * np.exp(config.extra_lesions_sigma * rng.standard_normal())
    count = min(1 + int(extra), config.max_lesions)
    diameters = config.diameter_median * np.exp(config.diameter_sigma * rng.standard_normal(count))
    diameters = np.sort(np.clip(diameters, *config.diameter_limits))[::-1]
    room = config.max_core_fraction * anatomy.brain_volume
    diameters = diameters * min(1.0, float(np.cbrt(room / (np.pi / 6 * np.sum(diameters**3)))))
    return [_draw_lesion(rng, *place, config) for place in _place(rng, anatomy, diameters, config)]


def _place(
    rng: np.random.Generator, anatomy: Anatomy, diameters: DoubleArray, config: PhantomConfig
) -> list[tuple[tuple[int, int, int], float]]:
    """Place lesions on the grey-white border, nearer the surface more often, apart from each other.

    Returns the centre (voxel index) and the diameter (mm) of each that found room.
    """
    far = anatomy.near_ventricles < config.ventricle_closeness
    border = np.argwhere((np.minimum(anatomy.gm, anatomy.wm) > _BORDER) & far)
    index = tuple(border.T)
    depth = anatomy.depth[index]
    weight = np.exp(-depth / 18)
    low, high = np.transpose(_BRAINSTEM)
    mni = anatomy.mni[(slice(None), *index)].T
    weight[((low < mni) & (mni < high)).all(axis=1)] *= 0.05
    cumulative = np.cumsum(weight, dtype=np.float64)
    taken: list[tuple[NDArray[np.int64], float]] = []
    for diameter in diameters:
        for _ in range(_ATTEMPTS):
            pick = int(np.searchsorted(cumulative, rng.uniform(0, cumulative[-1])))
            apart = all(
                np.linalg.norm((border[pick] - other) * anatomy.grid.spacing) > (diameter + width) * 0.7
                for other, width in taken
            )
            if apart and depth[pick] > config.least_depth * diameter:
                taken.append((border[pick], float(diameter)))
                break
    return [((int(x), int(y), int(z)), diameter) for (x, y, z), diameter in taken]


def _draw_lesion(
    rng: np.random.Generator, centre: tuple[int, int, int], diameter: float, config: PhantomConfig
) -> Lesion:
    """Draw how a lesion of `diameter` mm looks."""
    stretch = np.exp(rng.normal(0, 0.12, 3))
    x, y, z = diameter / 2 * stretch / np.cbrt(np.prod(stretch))
    ringed = diameter > _SMALLEST_RING and rng.uniform() < config.ring_fraction * min(1, diameter / _LARGE)
    rim = rng.uniform(*config.rim_thickness) + 0.05 * diameter if ringed else np.inf
    faint = rng.uniform() < config.faint_fraction
    strength = rng.uniform(0.45, 0.65) if faint else rng.uniform(0.75, 1.15)
    swollen = rng.uniform() < config.oedema_fraction * (1 if diameter >= _LARGE else 0.5)
    reach = (
        config.oedema_reach * np.sqrt(diameter / 10) * np.exp(rng.normal(0, config.oedema_sigma)) * swollen
    )
    return Lesion(centre, (float(x), float(y), float(z)), float(rim), float(strength), float(reach))


def displace(anatomy: Anatomy, lesions: Sequence[Lesion]) -> Anatomy:
    """Return the anatomy as lesions of `_LARGE` mm and more have pushed it aside; the surface stays.

    Tissue is incompressible near a lesion: what is located at the distance d from its centre came from
    cbrt(d^3 - p), p being the pushed share of its ball and the swelling by its oedema. Farther off the
    shift fades, since fluid gives way: sulci next to the lesion become narrower.
    """
    shift = np.zeros((3, *anatomy.grid.shape), dtype=np.float32)
    for lesion in lesions:
        radius = float(np.cbrt(np.prod(lesion.radii)))
        if 2 * radius < _LARGE:
            continue
        pushed = _PUSHED * radius**3 + _SWELLING * ((radius + lesion.reach) ** 3 - radius**3)
        width = float(np.cbrt(pushed))
        box, offsets = _around(anatomy, lesion.centre, 4 * width)
        distance = np.maximum(np.sqrt(sum(offset**2 for offset in offsets)), width)
        inward = 1 - np.cbrt(1 - (width / distance) ** 3)
        inward *= np.exp(-np.maximum(distance - radius, 0) / (1.5 * width))
        for along, offset in zip(shift, offsets, strict=True):
            along[box] -= inward * offset
    shift *= np.clip(anatomy.depth / _HELD, 0, 1)
    length = np.sqrt(np.sum(shift**2, axis=0))
    length[(length < _STILL) | ~anatomy.brain] = 0
    moved = np.nonzero(length)
    sides = zip(moved, shift, anatomy.grid.spacing, strict=True)
    source = np.stack([index + along[moved] / step for index, along, step in sides]).astype(np.float32)

    def pulled(values: FloatArray) -> FloatArray:
        result = values.copy()
        result[moved] = ndimage.map_coordinates(values, source, order=1, output=np.float32)
        return result

    names = ("wm", "csf", "detail", "ventricles", "near_ventricles", "depth")
    maps: dict[str, Any] = {name: pulled(getattr(anatomy, name)) for name in names}
    maps["csf"] *= 1 - np.clip(length / _SQUEEZED, 0, 1) * np.clip(1 - 2 * maps["near_ventricles"], 0, 1)
    maps["gm"] = np.where(length > 0, np.maximum(1 - maps["wm"] - maps["csf"], 0), anatomy.gm)
    mni = np.stack([pulled(values) for values in anatomy.mni])
    return replace(anatomy, mni=mni, **maps)


def rasterise(
    rng: np.random.Generator, anatomy: Anatomy, lesions: list[Lesion], config: PhantomConfig
) -> LesionMaps:
    """Draw the lesions' irregular surfaces into maps; oedema gives way to keep the tumour small."""
    core, necrosis, enhancement = (np.zeros(anatomy.grid.shape, dtype=np.float32) for _ in range(3))
    tissue = anatomy.brain * (1 - np.clip(2 * anatomy.ventricles, 0, 1))
    for lesion in lesions:
        box, inward, uneven = _surface(rng, anatomy, lesion)
        body = np.clip(0.5 + inward / 1.3, 0, 1) * tissue[box]
        rim = lesion.rim * np.exp(0.45 * uneven)
        hollow = np.clip(0.5 + (inward - rim) / 1.5, 0, 1) * (body > 0)
        grown = body > core[box]
        core[box] = np.maximum(core[box], body)
        necrosis[box] = np.where(grown, hollow, necrosis[box])
        enhancement[box] = np.where(grown, lesion.enhancement * (1 + 0.18 * uneven), enhancement[box])
    sources = [(lesion.centre, max(lesion.radii), lesion.reach) for lesion in lesions if lesion.reach > 0]
    max_volume = config.max_tumour_fraction * anatomy.brain_volume
    oedema = spread_oedema(rng, anatomy, core=core, sources=sources, max_volume=max_volume, config=config)
    # Brightest next to the core, and patchy.
    closeness = ndimage.gaussian_filter(np.maximum(core, oedema), _CLOSE / np.array(anatomy.grid.spacing))
    patches = SmoothField(rng, anatomy.grid.extent, _CLOSE).on(axes_of(anatomy.grid))
    swelling = (0.65 + 0.4 * closeness) * np.exp(np.float32(0.2) * patches)
    return LesionMaps(core, necrosis, enhancement, oedema, swelling)


def _around(
    anatomy: Anatomy, centre: tuple[int, int, int], reach: float
) -> tuple[Box, tuple[FloatArray, ...]]:
    """Return the box within `reach` mm of `centre`, and the offsets from it in mm along x, y and z there."""
    spacing = anatomy.grid.spacing
    voxels = np.ceil(reach / np.array(spacing)).astype(int)
    sides = list(zip(centre, voxels, anatomy.grid.shape, strict=True))
    box = tuple(slice(max(c - r, 0), min(c + r + 1, n)) for c, r, n in sides)
    offsets = (
        ((np.arange(s.start, s.stop) - c) * step).astype(np.float32)
        for s, c, step in zip(box, centre, spacing, strict=True)
    )
    return box, tuple(np.meshgrid(*offsets, indexing="ij", sparse=True))


def _surface(
    rng: np.random.Generator, anatomy: Anatomy, lesion: Lesion
) -> tuple[Box, FloatArray, FloatArray]:
    """Return a box around `lesion`, the depth in mm under its surface there, and texture of unit variance."""
    spacing = np.array(anatomy.grid.spacing)
    radius = float(np.mean(lesion.radii))
    box, offsets = _around(anatomy, lesion.centre, 1.6 * max(lesion.radii) + 2)
    distance = np.sqrt(sum((offset / half) ** 2 for offset, half in zip(offsets, lesion.radii, strict=True)))
    noise = rng.standard_normal((3, *distance.shape), dtype=np.float32)
    widths = (0.4 * radius, max(0.15 * radius, 1.0), max(0.25 * radius, 0.8))
    coarse, fine, uneven = (
        ndimage.gaussian_filter(each, width / spacing) for each, width in zip(noise, widths, strict=True)
    )
    # Large lesions are lobed.
    lobed = np.clip(radius / _LARGE - 0.5, 0, 1)
    rough = radius * (0.16 * coarse / coarse.std() + 0.12 * lobed * fine / fine.std())
    # Centred where the surface runs, so that roughness keeps the lesion's volume.
    rough -= rough[distance < _SURFACE].mean()
    return box, ((1 - distance) * radius + rough).astype(np.float32), uneven / uneven.std()


def spread_oedema(
    rng: np.random.Generator,
    anatomy: Anatomy,
    *,
    core: FloatArray,
    sources: Sequence[Source],
    max_volume: float,
    config: PhantomConfig = _CALIBRATED,
) -> FloatArray:
    """Return the fraction of vasogenic oedema, 0 to 1, shape of `core`.

    It starts at the surface of each source's core and spreads for its reach along the path of least
    resistance: along white matter, sparing cortex and fluid. Where core and oedema together would
    exceed `max_volume` mm3, all oedema is drawn back by the same distance.
    """
    oedema = np.zeros_like(core)
    if not sources:
        return oedema
    edge = config.oedema_edge
    box = _box_around(sources, anatomy, edge)
    coarse = _distance_left(rng, anatomy, box, sources, config)
    shape = core[box].shape
    left = ndimage.affine_transform(coarse, np.eye(3) / _STRIDE, output_shape=shape, order=1, mode="nearest")
    affinity = np.clip(1.25 * anatomy.wm[box] + 0.25 * anatomy.gm[box], 0, 1)
    affinity = ndimage.gaussian_filter(affinity, 0.5)
    outside_box = int((core > MAJORITY).sum()) - int((core[box] > MAJORITY).sum())
    room = int(max_volume / anatomy.grid.voxel_mm3) - outside_box
    oedema[box] = _recede(left, affinity, core[box], room, edge) * anatomy.brain[box]
    return oedema


def _box_around(sources: Sequence[Source], anatomy: Anatomy, edge: float) -> Box:
    """Return the box, starting at even voxels, that holds all oedema of `sources`."""
    centres = np.array([centre for centre, _, _ in sources])
    reaches = np.array([radius + reach + 2 * edge for _, radius, reach in sources])
    voxels = np.ceil(reaches[:, None] / anatomy.grid.spacing).astype(int)
    low = np.maximum((centres - voxels).min(axis=0), 0) // _STRIDE * _STRIDE
    high = np.minimum((centres + voxels).max(axis=0) + 1, anatomy.grid.shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def _distance_left(
    rng: np.random.Generator, anatomy: Anatomy, box: Box, sources: Sequence[Source], config: PhantomConfig
) -> FloatArray:
    """Return how much farther oedema could spread from each second voxel of `box`, in mm.

    Negative where it does not come; minus `config.oedema_edge` at the lowest.
    """
    edge = config.oedema_edge
    every = tuple(slice(s.start, s.stop, _STRIDE) for s in box)
    speed = sum(getattr(anatomy, tissue)[every] * value for tissue, value in _SPEED.items())
    ragged = ndimage.gaussian_filter(rng.standard_normal(speed.shape, dtype=np.float32), 1.5)
    resistance = np.exp(config.oedema_ragged * ragged / ragged.std()) / np.maximum(speed, _SPEED["csf"])
    step = np.array(anatomy.grid.spacing) * _STRIDE
    position = np.indices(resistance.shape).reshape(3, -1).T * step
    farthest = max(reach for _, _, reach in sources)
    start = resistance.size
    edges: list[Edges] = []
    near = np.zeros(start, dtype=bool)
    for centre, radius, reach in sources:
        offset = (np.array(centre) - [s.start for s in box]) * anatomy.grid.spacing
        away = np.linalg.norm(position - offset, axis=1)
        near |= away < radius + reach + 2 * edge
        body = np.flatnonzero(away <= max(radius, away.min()))
        edges.append((np.full(body.size, start), body, np.full(body.size, farthest - reach + 1e-3)))
    edges += _edges(resistance, near.reshape(resistance.shape), step)
    heads, tails, costs = (np.concatenate(parts) for parts in zip(*edges, strict=True))
    graph = sparse.csr_matrix((costs, (heads, tails)), shape=(start + 1, start + 1))
    spent = sparse.csgraph.dijkstra(graph, directed=False, indices=start, limit=farthest + edge)
    left: FloatArray = np.maximum(farthest - spent[:start], -edge).astype(np.float32)
    return left.reshape(resistance.shape)


def _edges(resistance: FloatArray, near: NDArray[np.bool_], step: DoubleArray) -> Iterator[Edges]:
    """Yield the edges in each of the 13 directions between `near` voxels."""
    index = np.arange(resistance.size).reshape(resistance.shape)
    for direction in list(product((-1, 0, 1), repeat=3))[14:]:
        sides = list(zip(direction, resistance.shape, strict=True))
        here = tuple(slice(max(-d, 0), n - max(d, 0)) for d, n in sides)
        there = tuple(slice(max(d, 0), n - max(-d, 0)) for d, n in sides)
        kept = near[here] & near[there]
        mean = (resistance[here][kept] + resistance[there][kept]).astype(np.float64) / 2
        yield index[here][kept], index[there][kept], mean * np.linalg.norm(direction * step)


def _recede(left: FloatArray, affinity: FloatArray, core: FloatArray, room: int, edge: float) -> FloatArray:
    """Return the fraction of oedema, drawn back until it and the core take at most `room` voxels."""
    # A voxel counts as oedema where the fraction passes one half: from this distance on.
    threshold = edge * MAJORITY / np.maximum(affinity, 1e-3)
    excess = np.where((core <= MAJORITY) & (affinity > MAJORITY), left - threshold, -np.inf).ravel()
    allowed = max(room - int((core > MAJORITY).sum()), 0)
    too_many = int((excess > 0).sum()) > allowed
    # A little farther, since rounding must not lift the first voxel that is left out over one half.
    back = float(np.partition(excess, -allowed - 1)[-allowed - 1]) + 1e-4 if too_many else 0.0
    fraction: FloatArray = (np.clip((left - back) / edge, 0, 1) * affinity).astype(np.float32)
    return fraction
