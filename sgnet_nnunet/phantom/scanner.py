"""The scans of an anatomy: tissue contrast, slice profile, bias field and noise of T1ce and FLAIR."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sgnet_nnunet.nifti import Grid
from sgnet_nnunet.phantom.anatomy import Anatomy
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.fields import FloatArray, SmoothField, axes_of, centred_grid, rotation
from sgnet_nnunet.phantom.tumours import LesionMaps
from sgnet_nnunet.phantom.vessels import Distractors

Sequence = Literal["t1ce", "flair"]

_LEVELS: Mapping[str, Mapping[Sequence, tuple[float, float]]] = {
    "gm": {"t1ce": (0.74, 0.81), "flair": (1.32, 1.46)},
    "csf": {"t1ce": (0.22, 0.36), "flair": (0.12, 0.3)},
    "detail": {"t1ce": (0.7, 1.0), "flair": (-0.1, 0.1)},
    "texture": {"t1ce": (0.014, 0.024), "flair": (0.025, 0.05)},
    "cortex": {"t1ce": (0.01, 0.03), "flair": (0.03, 0.05)},
    "rim": {"t1ce": (0.14, 0.18), "flair": (0.06, 0.09)},
    "enhancing": {"t1ce": (0.25, 0.31), "flair": (1.6, 2.0)},
    "necrosis": {"t1ce": (0.69, 0.8), "flair": (1.3, 2.1)},
    "oedema": {"t1ce": (0.76, 0.86), "flair": (2.15, 2.35)},
    "vessel": {"t1ce": (2.35, 3.3), "flair": (0.3, 0.6)},
    "plexus": {"t1ce": (1.5, 1.9), "flair": (1.2, 1.6)},
    "meninges": {"t1ce": (1.3, 2.0), "flair": (2.4, 2.75)},
    "white_matter_lesion": {"t1ce": (0.82, 0.92), "flair": (2.0, 2.12)},
}
"""Lowest and highest signal of each tissue, white matter being 1; one draw a patient.

`detail` is the weight of the T1 average's fine contrast, `texture` and `cortex` the standard deviation of
the variation within tissue and of grey matter from region to region, `rim` the loss at the surface. On T1ce,
`enhancing` is a share of the enhancement of vessels: both follow the dose. Calibrated on real scans by
`benchmarks/calibration.py`.
"""

_AROUND = 0.5  # signal around the brain, which thick slices mix with that of the brain before it is stripped
_RIM = 6.0  # depth in mm to which the outermost cortex loses signal


def render(
    rng: np.random.Generator,
    sequence: Sequence,
    anatomy: Anatomy,
    lesions: LesionMaps,
    distractors: Distractors,
) -> FloatArray:
    """Return the noise-free signal of a sequence on the T1ce grid, `_AROUND` outside the brain."""
    level = {tissue: rng.uniform(*ranges[sequence]) for tissue, ranges in _LEVELS.items()}
    if sequence == "t1ce":
        level["enhancing"] = 1 + level["enhancing"] * (level["vessel"] - 1)
    slow, fast = (SmoothField(rng, anatomy.grid.extent, mm).on(axes_of(anatomy.grid)) for mm in (9.0, 3.0))
    mottle = np.float32(0.8) * slow + np.float32(0.6) * fast
    signal = anatomy.wm + level["gm"] * (1 + level["cortex"] * slow) * anatomy.gm
    signal += level["csf"] * anatomy.csf
    signal += level["detail"] * anatomy.detail
    signal *= 1 - level["rim"] * np.clip(1 - anatomy.depth / _RIM, 0, 1)
    signal *= 1 + level["texture"] * mottle
    strength = 1 + np.float32(0.06) * slow
    # Lesions that enhance faintly are as bright on FLAIR as others.
    floor = 0.0 if sequence == "t1ce" else 0.8
    layers = (
        (distractors.white_matter, level["white_matter_lesion"]),
        (lesions.oedema, 1 + (level["oedema"] - 1) * lesions.swelling),
        (distractors.meninges, level["meninges"]),
        (distractors.plexus, level["plexus"]),
        (distractors.vessels, level["vessel"]),
        (distractors.sinuses, level["vessel"]),
        (lesions.core, 1 + (level["enhancing"] - 1) * np.maximum(lesions.enhancement, floor) * strength),
        (lesions.necrosis * lesions.core, level["necrosis"]),
    )
    for fraction, value in layers:
        signal += fraction * (value - signal)
    return np.where(anatomy.brain, np.maximum(signal, 0), _AROUND).astype(np.float32)


ORIENTATIONS = ("LPS", "RAS", "LAS")
"""Axis orders of stored files; clinical exports differ."""

_FWHM = 2.355  # full width at half maximum of a Gaussian over its standard deviation
_THICKNESS = 0.8  # thickness of a slice over the distance to the next; the rest is a gap
_BIAS_WAVELENGTH = 70.0  # distance of the control points of the coil sensitivity in mm


def draw_flair_grid(rng: np.random.Generator, t1ce: Grid, config: PhantomConfig) -> Grid:
    """Draw a thick-sliced grid that covers the T1ce grid, a little rotated and shifted against it."""
    in_plane = rng.uniform(*config.flair_in_plane)
    spacing = np.array((in_plane, in_plane, rng.uniform(*config.flair_slice)))
    turn = (t1ce.affine[:3, :3] / t1ce.spacing) @ rotation(rng.normal(0, config.flair_angles))
    middle = t1ce.affine @ (*((np.array(t1ce.shape) - 1) / 2), 1.0)
    centre = middle[:3] + rng.normal(0, 1.5, 3)
    return centred_grid(centre=centre, extent=t1ce.extent + spacing, spacing=spacing, turn=turn)


def draw_background(
    rng: np.random.Generator, brain: NDArray[np.bool_], grid: Grid, config: PhantomConfig
) -> NDArray[np.int64]:
    """Draw the rest of a field of view, square in plane: voxels before and after each axis, shape (3, 2)."""
    (box,) = ndimage.find_objects(brain.astype(np.uint8))
    sides = np.array([s.stop - s.start for s in box]) * grid.spacing
    height = sides[2] + rng.uniform(*config.background_above)
    width = np.sqrt(np.prod(sides) / (rng.uniform(*config.box_share) * height))
    added = np.maximum(np.rint(np.array((width, width, height)) / grid.spacing).astype(int) - brain.shape, 0)
    before = np.clip(np.rint(added * rng.normal(0.5, 0.05, 3)).astype(int), 0, added)
    return np.stack([before, added - before], axis=1)


def slice_thick(values: FloatArray, source: Grid, target: Grid, *, order: int = 1) -> FloatArray:
    """Sample `values` from `source` onto `target` with splines of `order`, averaged over thick slices.

    The slice profile is a Gaussian; its width at half maximum is `_THICKNESS` of the distance of the slices.
    """
    sigma = _THICKNESS * target.spacing[2] / _FWHM / source.spacing[2]
    blurred = ndimage.gaussian_filter1d(values, sigma, axis=2, truncate=2.5, mode="constant")
    return sample(blurred, source, target, order=order)


def sample(values: NDArray[np.generic], source: Grid, target: Grid, *, order: int) -> FloatArray:
    """Interpolate `values` from `source` onto `target` with splines of `order`, 0 outside."""
    between = np.linalg.inv(source.affine) @ target.affine
    sampled: FloatArray = ndimage.affine_transform(
        values, between[:3, :3], between[:3, 3], output_shape=target.shape, order=order, output=np.float32
    )
    return sampled


def acquire(
    rng: np.random.Generator,
    signal: FloatArray,
    brain: NDArray[np.bool_],
    grid: Grid,
    *,
    noise: float,
    bias: float,
) -> NDArray[np.int16]:
    """Return the scan of `signal` on `grid`: bias field, Rician noise, the scanner's own scale.

    Exactly 0 outside `brain`, at least 1 inside.
    """
    sensitivity = SmoothField(rng, grid.extent, _BIAS_WAVELENGTH).on(axes_of(grid))
    inside = signal[brain] * np.exp(np.float32(bias) * sensitivity[brain])
    real, imaginary = rng.standard_normal((2, inside.size), dtype=np.float32) * np.float32(noise)
    magnitude = np.hypot(inside + real, imaginary)
    scale = np.exp(rng.uniform(np.log(200), np.log(1500)))
    scan = np.zeros(grid.shape, dtype=np.int16)
    scan[brain] = np.clip(np.rint(magnitude * np.float32(scale)), 1, np.iinfo(np.int16).max)
    return scan
