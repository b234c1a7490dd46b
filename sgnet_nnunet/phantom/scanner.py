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
    "gm": {"t1ce": (0.72, 0.84), "flair": (1.12, 1.27)},
    "csf": {"t1ce": (0.22, 0.36), "flair": (0.2, 0.4)},
    "detail": {"t1ce": (0.7, 1.0), "flair": (-0.1, 0.1)},
    "texture": {"t1ce": (0.012, 0.022), "flair": (0.02, 0.035)},
    "enhancing": {"t1ce": (1.45, 2.0), "flair": (1.2, 1.6)},
    "necrosis": {"t1ce": (0.4, 0.62), "flair": (0.8, 1.7)},
    "oedema": {"t1ce": (0.76, 0.86), "flair": (1.6, 2.0)},
    "vessel": {"t1ce": (1.5, 2.1), "flair": (0.4, 0.7)},
    "plexus": {"t1ce": (1.35, 1.9), "flair": (0.9, 1.3)},
    "meninges": {"t1ce": (1.2, 1.6), "flair": (0.9, 1.2)},
    "white_matter_lesion": {"t1ce": (0.82, 0.92), "flair": (1.45, 1.8)},
}
"""Lowest and highest signal of each tissue, white matter being 1; one draw a patient.

`detail` is the weight of the T1 average's fine contrast, `texture` the standard deviation of the slow
variation within tissue.
"""


def render(
    rng: np.random.Generator,
    sequence: Sequence,
    anatomy: Anatomy,
    lesions: LesionMaps,
    distractors: Distractors,
) -> FloatArray:
    """Return the noise-free signal of a sequence on the T1ce grid, 0 outside the brain."""
    level = {tissue: rng.uniform(*ranges[sequence]) for tissue, ranges in _LEVELS.items()}
    slow, fast = (SmoothField(rng, anatomy.grid.extent, mm).on(axes_of(anatomy.grid)) for mm in (9.0, 3.0))
    mottle = np.float32(0.8) * slow + np.float32(0.6) * fast
    signal = anatomy.wm + level["gm"] * anatomy.gm + level["csf"] * anatomy.csf
    signal += level["detail"] * anatomy.detail
    signal *= 1 + level["texture"] * mottle
    strength = 1 + np.float32(0.06) * slow
    layers = (
        (distractors.white_matter, level["white_matter_lesion"]),
        (lesions.oedema, level["oedema"] * strength),
        (distractors.meninges, level["meninges"]),
        (distractors.plexus, level["plexus"]),
        (distractors.vessels, level["vessel"]),
        (distractors.sinuses, level["vessel"]),
        (lesions.core, 1 + (level["enhancing"] - 1) * lesions.enhancement * strength),
        (lesions.necrosis * lesions.core, level["necrosis"]),
    )
    for fraction, value in layers:
        signal += fraction * (value - signal)
    return np.where(anatomy.brain, np.maximum(signal, 0), 0).astype(np.float32)


ORIENTATIONS = ("LPS", "RAS", "LAS")
"""Axis orders of stored files; clinical exports differ."""

_FWHM = 2.355
"""Full width at half maximum of a Gaussian over its standard deviation."""

_BIAS_WAVELENGTH = 70.0
"""Distance of the control points of the coil sensitivity in mm."""


def draw_flair_grid(rng: np.random.Generator, t1ce: Grid, config: PhantomConfig) -> Grid:
    """Draw a thick-sliced grid that covers the T1ce grid, a little rotated and shifted against it."""
    in_plane = rng.uniform(*config.flair_in_plane)
    spacing = np.array((in_plane, in_plane, rng.uniform(*config.flair_slice)))
    turn = (t1ce.affine[:3, :3] / t1ce.spacing) @ rotation(rng.normal(0, config.flair_angles))
    middle = t1ce.affine @ (*((np.array(t1ce.shape) - 1) / 2), 1.0)
    centre = middle[:3] + rng.normal(0, 1.5, 3)
    return centred_grid(centre=centre, extent=t1ce.extent + spacing, spacing=spacing, turn=turn)


def slice_thick(values: FloatArray, source: Grid, target: Grid) -> FloatArray:
    """Sample `values` from `source` onto `target`, averaged over the thickness of its slices.

    The slice profile is a Gaussian as wide at half maximum as the slices lie apart.
    """
    sigma = target.spacing[2] / _FWHM / source.spacing[2]
    blurred = ndimage.gaussian_filter1d(values, sigma, axis=2, truncate=2.5, mode="constant")
    return sample(blurred, source, target, order=1)


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
