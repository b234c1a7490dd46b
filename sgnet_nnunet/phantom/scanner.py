"""The scans of an anatomy: tissue contrast, slice profile, bias field and noise of T1ce and FLAIR."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sgnet_nnunet.nifti import Grid
from sgnet_nnunet.phantom.anatomy import Anatomy
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.fields import FloatArray, SmoothField, axes_of, centred_grid, rotation
from sgnet_nnunet.phantom.tumours import LesionMaps
from sgnet_nnunet.phantom.vessels import Distractors


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Signal levels of one patient in one sequence, white matter being 1.

    Attributes:
        gm: Grey matter.
        csf: Cerebrospinal fluid.
        detail: Weight of the T1 average's fine contrast.
        texture: Standard deviation of the slow variation within tissue.
        enhancing: Enhancing tumour.
        necrosis: Necrotic centre of a tumour.
        oedema: Oedema.
        vessel: Vessels and sinuses.
        plexus: Choroid plexus.
        meninges: Meninges.
        white_matter_lesion: White-matter hyperintensity as FLAIR shows it.
    """

    gm: float
    csf: float
    detail: float
    texture: float
    enhancing: float
    necrosis: float
    oedema: float
    vessel: float
    plexus: float
    meninges: float
    white_matter_lesion: float


def draw_t1ce_contrast(rng: np.random.Generator) -> Contrast:
    """Draw the levels of a contrast-enhanced T1: fluid dark, lesions and vessels bright."""
    return Contrast(
        gm=rng.uniform(0.72, 0.84),
        csf=rng.uniform(0.22, 0.36),
        detail=rng.uniform(0.7, 1.0),
        texture=rng.uniform(0.012, 0.022),
        enhancing=rng.uniform(1.45, 2.0),
        necrosis=rng.uniform(0.4, 0.62),
        oedema=rng.uniform(0.76, 0.86),
        vessel=rng.uniform(1.5, 2.1),
        plexus=rng.uniform(1.35, 1.9),
        meninges=rng.uniform(1.2, 1.6),
        white_matter_lesion=rng.uniform(0.82, 0.92),
    )


def draw_flair_contrast(rng: np.random.Generator) -> Contrast:
    """Draw the levels of a FLAIR: fluid and flowing blood dark, oedema and white-matter lesions bright."""
    return Contrast(
        gm=rng.uniform(1.12, 1.27),
        csf=rng.uniform(0.2, 0.4),
        detail=rng.uniform(-0.1, 0.1),
        texture=rng.uniform(0.02, 0.035),
        enhancing=rng.uniform(1.2, 1.6),
        necrosis=rng.uniform(0.8, 1.7),
        oedema=rng.uniform(1.6, 2.0),
        vessel=rng.uniform(0.4, 0.7),
        plexus=rng.uniform(0.9, 1.3),
        meninges=rng.uniform(0.9, 1.2),
        white_matter_lesion=rng.uniform(1.45, 1.8),
    )


def render(
    rng: np.random.Generator,
    contrast: Contrast,
    anatomy: Anatomy,
    lesions: LesionMaps,
    distractors: Distractors,
) -> FloatArray:
    """Return the noise-free signal on the T1ce grid, 0 outside the brain."""
    extent = anatomy.grid.extent
    axes = axes_of(anatomy.grid)
    slow = SmoothField(rng, extent, 9.0).on(axes)
    mottle = np.float32(0.8) * slow + np.float32(0.6) * SmoothField(rng, extent, 3.0).on(axes)
    signal = anatomy.wm + contrast.gm * anatomy.gm + contrast.csf * anatomy.csf
    signal += contrast.detail * anatomy.detail
    signal *= 1 + contrast.texture * mottle
    strength = 1 + np.float32(0.06) * slow
    layers = (
        (distractors.white_matter, contrast.white_matter_lesion),
        (lesions.oedema, contrast.oedema * strength),
        (distractors.meninges, contrast.meninges),
        (distractors.plexus, contrast.plexus),
        (distractors.vessels, contrast.vessel),
        (distractors.sinuses, contrast.vessel),
        (lesions.core, 1 + (contrast.enhancing - 1) * lesions.enhancement * strength),
        (lesions.necrosis * lesions.core, contrast.necrosis),
    )
    for fraction, level in layers:
        signal += fraction * (level - signal)
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
    return centred_grid(
        centre=middle[:3] + rng.normal(0, 1.5, 3),
        extent=t1ce.extent + spacing,
        spacing=spacing,
        turn=turn,
    )


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
