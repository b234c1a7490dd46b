"""Structures that are bright but no tumour: vessels, sinuses, choroid plexus, meninges, white-matter lesions.

Courses are points in MNI mm, read off the ICBM152 average, where they follow the fluid. Paired ones are
given for the right side.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from sgnet_nnunet.phantom.anatomy import Anatomy
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.fields import DoubleArray, FloatArray, SmoothField, axes_of, densify, stamp

Polyline = tuple[tuple[float, float, float], ...]

SUPERIOR_SAGITTAL_SINUS: Polyline = (
    (0, 62, 33), (0, 52, 46), (0, 32, 60), (0, 2, 73), (0, -20, 77), (0, -40, 76), (0, -60, 67),
    (0, -80, 49), (0, -90, 33), (0, -98, 10), (0, -97, 0), (0, -94, -12),
)  # fmt: skip
TRANSVERSE_SINUS: Polyline = (
    (0, -94, -12), (16, -92, -17), (34, -84, -22), (48, -70, -27), (56, -56, -30), (54, -46, -38),
)  # fmt: skip
STRAIGHT_SINUS: Polyline = ((0, -42, 6), (0, -54, 8), (0, -70, -2), (0, -84, -10), (0, -94, -12))
INTERNAL_CEREBRAL_VEIN: Polyline = ((2, 0, 12), (2.5, -14, 14), (2.5, -28, 12), (1.5, -38, 8), (0, -42, 6))
BASILAR_ARTERY: Polyline = ((0, -21, -49), (1, -15, -40), (0, -13, -32), (0, -12, -27), (0, -14, -19))
POSTERIOR_CEREBRAL: Polyline = ((0, -14, -19), (8, -17, -18), (20, -28, -12), (22, -38, -6), (16, -52, 0))
MIDDLE_CEREBRAL: Polyline = (
    (9, 4, -16), (20, 6, -17), (32, 6, -18), (42, 2, -10), (46, -12, 2), (48, -26, 12), (52, -38, 20),
)  # fmt: skip
ANTERIOR_CEREBRAL: Polyline = (
    (9, 4, -16), (2, 8, -14), (1.5, 24, -10), (1.5, 38, 4), (1.5, 34, 20), (1.5, 18, 30), (1.5, -4, 36),
)  # fmt: skip
CHOROID_PLEXUS: Polyline = (
    (4, 0, 12), (8, -12, 19), (14, -26, 19), (20, -36, 14), (24, -42, 8), (28, -34, -4),
)  # fmt: skip


_STEP = 0.6  # distance between the balls of a tube in mm
_SULCUS = 0.25  # fraction of fluid from which a place counts as sulcus
_PURE = 0.9  # fraction of white matter from which a voxel is away from cortex
_DEEP = 8.0  # distance in mm to the surface from which white matter is deep
_FALX = {"above": 20.0, "behind": -60.0, "before": 45.0}
"""Where the midline holds the falx in MNI mm: above the corpus callosum or at either end of it."""


@dataclass(frozen=True)
class Distractors:
    """Structures that are not tumour; arrays of the T1ce grid's shape, fractions 0 to 1.

    `sinuses` has the great deep veins too, `meninges` are the enhancing falx and remains of dura at the
    surface, `white_matter` are hyperintensities that do not enhance, `cavities` hold fluid, see
    `add_pathology`.
    """

    vessels: FloatArray
    sinuses: FloatArray
    plexus: FloatArray
    meninges: FloatArray
    white_matter: FloatArray
    cavities: FloatArray


def draw_distractors(rng: np.random.Generator, anatomy: Anatomy, config: PhantomConfig) -> Distractors:
    """Draw a patient's distractors."""
    vessels = _arteries(rng, anatomy)
    _add_cortical_vessels(rng, anatomy, vessels, count=config.vessels)
    return Distractors(
        vessels=vessels,
        sinuses=_sinuses(rng, anatomy),
        plexus=_plexus(rng, anatomy),
        meninges=_meninges(rng, anatomy),
        white_matter=_white_matter_lesions(rng, anatomy, mean=config.white_matter_lesions),
        cavities=np.zeros(anatomy.grid.shape, dtype=np.float32),
    )


def _course(
    rng: np.random.Generator, anatomy: Anatomy, polyline: Polyline, *, side: int, wander: float
) -> DoubleArray:
    """Return voxel indices, shape (n, 3), along a course, mirrored by `side`, that wanders by `wander` mm."""
    points = densify(np.array(polyline, dtype=np.float64) * (side, 1, 1), step=4.0)
    return anatomy.voxels_of(densify(points + rng.normal(0, wander, points.shape), step=_STEP))


def _arteries(rng: np.random.Generator, anatomy: Anatomy) -> FloatArray:
    """Draw the basilar artery and the three cerebral arteries of both sides."""
    vessels = np.zeros(anatomy.grid.shape, dtype=np.float32)
    pairs = ((POSTERIOR_CEREBRAL, 0.9), (MIDDLE_CEREBRAL, 1.2), (ANTERIOR_CEREBRAL, 0.9))
    branches = [(polyline, side, radius) for side in (-1, 1) for polyline, radius in pairs]
    for polyline, side, radius in [(BASILAR_ARTERY, 1, 1.5), *branches]:
        points = _course(rng, anatomy, polyline, side=side, wander=0.7)
        taper = np.linspace(1.0, 0.55, len(points)) * radius * rng.uniform(0.85, 1.15)
        stamp(vessels, points, taper, spacing=anatomy.grid.spacing)
    vessels *= anatomy.brain * np.clip(0.35 + 2 * anatomy.csf, 0, 1)
    return vessels


def _sinuses(rng: np.random.Generator, anatomy: Anatomy) -> FloatArray:
    """Draw the dural sinuses and the deep veins; one transverse sinus is often the wider."""
    sinuses = np.zeros(anatomy.grid.shape, dtype=np.float32)
    left, right = rng.permutation((1.0, rng.uniform(0.55, 1.0)))
    for polyline, side, narrow, wide in (
        (SUPERIOR_SAGITTAL_SINUS, 1, 1.4, 3.2),
        (TRANSVERSE_SINUS, -1, 2.8 * left, 3.0 * left),
        (TRANSVERSE_SINUS, 1, 2.8 * right, 3.0 * right),
        (STRAIGHT_SINUS, 1, 1.5, 2.2),
        (INTERNAL_CEREBRAL_VEIN, -1, 0.8, 1.1),
        (INTERNAL_CEREBRAL_VEIN, 1, 0.8, 1.1),
    ):
        points = _course(rng, anatomy, polyline, side=side, wander=0.4)
        radii = np.linspace(narrow, wide, len(points)) * rng.uniform(0.85, 1.15)
        stamp(sinuses, points, radii, spacing=anatomy.grid.spacing)
    sinuses *= anatomy.brain * np.clip(0.15 + 2.5 * anatomy.csf, 0, 1)
    return sinuses


def _add_cortical_vessels(
    rng: np.random.Generator, anatomy: Anatomy, vessels: FloatArray, *, count: int
) -> None:
    """Draw vessels from random places in sulci that follow the fluid and become thinner."""
    spacing = anatomy.grid.spacing
    fluid = ndimage.gaussian_filter(anatomy.csf - 2.0 * anatomy.ventricles, 0.8)
    candidates = np.argwhere((fluid > _SULCUS)[::2, ::2, ::2]) * 2
    if not (count and len(candidates)):
        return
    position = candidates[rng.integers(len(candidates), size=count)].astype(np.float64)
    heading = rng.standard_normal(position.shape)
    heading /= np.linalg.norm(heading, axis=1, keepdims=True)
    radius = 0.4 + rng.gamma(2.0, 0.13, count)
    steps = rng.integers(15, 90, count)
    shape = np.array(anatomy.grid.shape)
    points, radii = [], []
    probes = rng.standard_normal((12, 3))
    for age in range(int(steps.max())):
        alive = age < steps
        points.append(position[alive])
        radii.append((radius * (1 - 0.5 * age / steps))[alive])
        # Try a few turns and take the one with the most fluid ahead.
        options = heading[None] + 0.45 * probes[:, None] + 0.15 * rng.standard_normal((12, count, 3))
        options /= np.linalg.norm(options, axis=-1, keepdims=True)
        ahead = np.clip(np.rint(position + options * 1.8 / spacing).astype(int), 0, shape - 1)
        best = fluid[tuple(np.moveaxis(ahead, -1, 0))].argmax(axis=0)
        heading = options[best, np.arange(count)]
        position = np.clip(position + heading * _STEP / spacing, 0, shape - 1)
    drawn = np.zeros_like(vessels)
    stamp(drawn, np.concatenate(points), np.concatenate(radii), spacing=spacing)
    drawn *= anatomy.brain * np.clip(0.4 + 2 * anatomy.csf, 0, 1)
    np.maximum(vessels, drawn, out=vessels)


def _plexus(rng: np.random.Generator, anatomy: Anatomy) -> FloatArray:
    """Draw choroid plexus as ragged tissue along the floor of the lateral ventricles."""
    plexus = np.zeros(anatomy.grid.shape, dtype=np.float32)
    for side in (-1, 1):
        points = _course(rng, anatomy, CHOROID_PLEXUS, side=side, wander=1.0)
        # The glomus, in the atrium, is the thickest part.
        along = np.linspace(0, 1, len(points))
        radii = 0.9 + 2.6 * np.exp(-(((along - 0.75) / 0.14) ** 2)) * rng.uniform(0.6, 1.2)
        radii = radii * rng.uniform(0.6, 1.15, len(points))
        stamp(plexus, points, radii, spacing=anatomy.grid.spacing)
    box = ndimage.find_objects((plexus > 0).astype(np.uint8))[0]
    ragged = ndimage.gaussian_filter(rng.standard_normal(plexus[box].shape, dtype=np.float32), 0.7)
    plexus[box] *= np.clip(0.75 + 0.25 * ragged / ragged.std(), 0.2, 1)
    plexus *= np.clip(1.6 * anatomy.ventricles + 0.2 * anatomy.near_ventricles, 0, 1)
    return plexus


def _meninges(rng: np.random.Generator, anatomy: Anatomy) -> FloatArray:
    """Draw the falx and, in patches, dura and pial vessels that skull stripping left at the surface."""
    wide, narrow = (SmoothField(rng, anatomy.grid.extent, mm).on(axes_of(anatomy.grid)) for mm in (7.0, 2.5))
    surface = np.clip(1.6 - np.abs(anatomy.depth - 1.8) / 1.1, 0, 1)
    surface *= np.clip(wide + 0.8 * narrow - 0.9, 0, 1)
    x, y, z = anatomy.mni
    falx = np.clip(1.3 - np.abs(x), 0, 1) * (
        (z > _FALX["above"]) | (y < _FALX["behind"]) | (y > _FALX["before"])
    )
    falx *= np.clip(2.5 * anatomy.csf, 0, 1) * rng.uniform(0.2, 0.6)
    return (np.maximum(surface * rng.uniform(0.8, 1.0), falx) * anatomy.brain).astype(np.float32)


def _white_matter_lesions(rng: np.random.Generator, anatomy: Anatomy, *, mean: float) -> FloatArray:
    """Draw caps around the ventricles and punctate lesions of deep white matter."""
    load = 0.7 + 0.25 * rng.uniform(0.0, 1.0) ** 1.5
    lesions = np.clip((anatomy.near_ventricles - 0.3 + 0.22 * load) * (2 + 3 * load), 0, 1) * anatomy.wm
    lesions *= np.clip(1 - anatomy.ventricles, 0, 1)
    deep = np.argwhere((anatomy.wm > _PURE) & (anatomy.depth > _DEEP))
    count = rng.poisson(mean * 2 * load)
    if count and len(deep):
        centres = deep[rng.integers(len(deep), size=count)]
        radii = np.clip(np.exp(rng.normal(np.log(1.4), 0.4, count)), 0.7, 3.5)
        spots = np.zeros_like(lesions)
        # A chain of balls is less round than one.
        jitter = rng.normal(0, 0.6, (count, 3, 3)) * radii[:, None, None] / anatomy.grid.spacing
        points = (centres[:, None] + jitter).reshape(-1, 3)
        stamp(spots, points, np.repeat(radii, 3), spacing=anatomy.grid.spacing)
        lesions = np.maximum(lesions, spots * np.clip(1.2 * anatomy.wm, 0, 1))
    return lesions.astype(np.float32)
