"""From signal in the world to a stored scan: slices, coil sensitivity, noise, integers, orientation."""

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sgnet_nnunet.io.volume import Volume
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.fields import SmoothField
from sgnet_nnunet.phantom.grid import FloatArray, Grid, centred_grid, rotation

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
        extent=t1ce.spacing * t1ce.shape + spacing,
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
    sensitivity = SmoothField(rng, grid.extent, _BIAS_WAVELENGTH).on(grid.axes())
    inside = signal[brain] * np.exp(np.float32(bias) * sensitivity[brain])
    real, imaginary = rng.standard_normal((2, inside.size), dtype=np.float32) * np.float32(noise)
    magnitude = np.hypot(inside + real, imaginary)
    scale = np.exp(rng.uniform(np.log(200), np.log(1500)))
    scan = np.zeros(grid.shape, dtype=np.int16)
    scan[brain] = np.clip(np.rint(magnitude * np.float32(scale)), 1, np.iinfo(np.int16).max)
    return scan


def orient(data: NDArray[np.generic], grid: Grid, codes: str) -> Volume:
    """Return `data` on `grid` with its axes reordered to `codes`, such as LPS; the world stays."""
    image = nib.Nifti1Image(data, grid.affine)
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(grid.affine), nib.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(turn)
    return Volume(np.ascontiguousarray(turned.dataobj), np.asarray(turned.affine, dtype=np.float64))
