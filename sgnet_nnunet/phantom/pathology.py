"""Damage that is no tumour: old strokes, resection cavities, white-matter disease, bright cortex."""

from dataclasses import replace

import numpy as np
from scipy import ndimage

from sgnet_nnunet.phantom.anatomy import Anatomy
from sgnet_nnunet.phantom.config import Pathology
from sgnet_nnunet.phantom.fields import MAJORITY, FloatArray, SmoothField, axes_of
from sgnet_nnunet.phantom.vessels import Distractors

_LIMBIC = (
    ((39.0, 5.0, 0.0), (8.0, 16.0, 12.0)),  # insula
    ((4.0, 10.0, 34.0), (8.0, 30.0, 12.0)),  # cingulate gyrus
    ((27.0, -18.0, -18.0), (9.0, 16.0, 9.0)),  # hippocampus and amygdala
)
"""Centres and widths in MNI mm of cortex that FLAIR shows brighter than other cortex; right side."""

_NEAR_SURFACE = 25.0  # depth in mm to which cavities are centred
_FADE = 2.5  # distance in mm over which confluent disease fades


def add_pathology(
    rng: np.random.Generator,
    anatomy: Anatomy,
    distractors: Distractors,
    tumour: FloatArray,
    config: Pathology,
) -> Distractors:
    """Return the distractors with cavities, their gliosis and confluent white-matter disease added.

    All spare the `tumour`, fractions 0 to 1 of the shape of the T1ce grid.
    """
    bright, cavities = distractors.white_matter, distractors.cavities
    if config.confluent:
        bright = np.maximum(bright, _confluent(rng, anatomy, config.confluent) * (1 - tumour))
    for _ in range(config.cavities):
        fluid, rim = _cavity(rng, anatomy, tumour, config)
        cavities, bright = np.maximum(cavities, fluid), np.maximum(bright, rim)
    return replace(distractors, white_matter=bright, cavities=cavities)


def _confluent(rng: np.random.Generator, anatomy: Anatomy, reach: float) -> FloatArray:
    """Draw white-matter disease around the lateral ventricles that reaches about `reach` mm."""
    spacing = anatomy.grid.spacing
    distance = ndimage.distance_transform_edt(anatomy.ventricles <= MAJORITY, sampling=spacing)
    uneven = SmoothField(rng, anatomy.grid.extent, 8.0).on(axes_of(anatomy.grid))
    inside = np.clip((reach * (1 + 0.4 * uneven) - distance) / _FADE, 0, 1)
    return (inside * np.clip(1.2 * anatomy.wm, 0, 1)).astype(np.float32)


def _cavity(
    rng: np.random.Generator, anatomy: Anatomy, tumour: FloatArray, config: Pathology
) -> tuple[FloatArray, FloatArray]:
    """Draw a cavity and the gliosis around it."""
    room = (anatomy.gm > MAJORITY) & (anatomy.depth < _NEAR_SURFACE) & (tumour < MAJORITY)
    places = np.argwhere(room[::3, ::3, ::3]) * 3
    centre = places[rng.integers(len(places))]
    radius = rng.uniform(*config.cavity_radius)
    axes = axes_of(anatomy.grid)
    stretch = np.exp(rng.normal(0, 0.3, 3))
    offsets = (
        ((axis - axis[place]) * by).astype(np.float32)
        for axis, place, by in zip(axes, centre, stretch, strict=True)
    )
    distance = np.sqrt(sum(offset**2 for offset in np.meshgrid(*offsets, indexing="ij", sparse=True)))
    rough = SmoothField(rng, anatomy.grid.extent, max(0.8 * radius, 3.0)).on(axes)
    depth = radius * (1 + 0.3 * rough) - distance
    allowed = (1 - tumour) * anatomy.brain
    fluid = np.clip(0.5 + depth / 1.3, 0, 1) * allowed
    rim = np.clip(0.5 + (depth + config.gliosis) / 1.5, 0, 1) * allowed * np.clip(1 - 1.5 * anatomy.csf, 0, 1)
    return fluid.astype(np.float32), rim.astype(np.float32)


def limbic_cortex(anatomy: Anatomy) -> FloatArray:
    """Return where the cortex that FLAIR shows bright is located, 0 to 1."""
    side, *others = anatomy.mni
    place = (np.abs(side), *others)
    limbic = np.zeros(anatomy.grid.shape, dtype=np.float32)
    for centre, widths in _LIMBIC:
        squares = (((at - c) / w) ** 2 for at, c, w in zip(place, centre, widths, strict=True))
        np.maximum(limbic, np.exp(-0.5 * sum(squares)), out=limbic)
    return limbic
