"""The scans of an anatomy: tissue contrast, slice profile, bias field, noise and faults of T1ce and FLAIR."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import PchipInterpolator

from sgnet_nnunet.nifti import Grid
from sgnet_nnunet.phantom.anatomy import Anatomy
from sgnet_nnunet.phantom.config import Artefacts, PhantomConfig, Sequence
from sgnet_nnunet.phantom.fields import FloatArray, SmoothField, axes_of, centred_grid, rotation
from sgnet_nnunet.phantom.pathology import limbic_cortex
from sgnet_nnunet.phantom.tumours import LesionMaps
from sgnet_nnunet.phantom.vessels import Distractors

_CALIBRATED = PhantomConfig()

_AROUND = 0.5  # signal around the brain, which thick slices mix with that of the brain before it is stripped
_RIM = 6.0  # depth in mm to which the outermost cortex loses signal


def render(
    rng: np.random.Generator,
    sequence: Sequence,
    anatomy: Anatomy,
    lesions: LesionMaps,
    distractors: Distractors,
    config: PhantomConfig = _CALIBRATED,
) -> FloatArray:
    """Return the noise-free signal of a sequence on the T1ce grid, `_AROUND` outside the brain."""
    level = {tissue: rng.uniform(*ranges[sequence]) for tissue, ranges in config.levels.items()}
    if sequence == "t1ce" and config.follows_dose:
        level["enhancing"] = 1 + level["enhancing"] * (level["vessel"] - 1)
    slow, fast = (SmoothField(rng, anatomy.grid.extent, mm).on(axes_of(anatomy.grid)) for mm in (9.0, 3.0))
    mottle = np.float32(0.8) * slow + np.float32(0.6) * fast
    grey = level["gm"] * (1 + level["cortex"] * slow)
    if sequence == "flair" and config.pathology.limbic:
        grey *= 1 + np.float32(config.pathology.limbic) * limbic_cortex(anatomy)
    signal = anatomy.wm + grey * anatomy.gm
    signal += level["csf"] * anatomy.csf
    signal += level["detail"] * anatomy.detail
    signal *= 1 - level["rim"] * np.clip(1 - anatomy.depth / _RIM, 0, 1)
    signal *= 1 + level["texture"] * mottle
    strength = 1 + np.float32(config.core_texture) * slow
    # Lesions that enhance faintly are as bright on FLAIR as others.
    floor = 0.0 if sequence == "t1ce" else 0.8
    layers = (
        (distractors.white_matter, level["white_matter_lesion"]),
        (distractors.cavities, level["csf"]),
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


_PATCH = 16.0  # distance in mm of the control points of faulty patches of the surface
_KNOTS = np.array((0.0, 0.3, 0.6, 0.9, 1.2, 1.6, 2.1, 3.0, 5.0))
"""Signals at which an intensity curve changes its slope, white matter being 1; the last is the largest."""

_GHOST_LINES = (2, 3, 4)  # distances of the lines of k-space that a ghosted scan scales
_WAVES = (0.02, 0.25)  # frequencies of a spike, cycles a voxel


def add_stripping_errors(
    rng: np.random.Generator,
    anatomy: Anatomy,
    distractors: Distractors,
    tumour: FloatArray,
    config: Artefacts,
) -> tuple[Anatomy, Distractors]:
    """Return the brain after errors of stripping: cortex removed, dura left, in patches; tumour is kept."""
    brain, meninges = anatomy.brain, distractors.meninges
    axes = axes_of(anatomy.grid)
    if config.missing:
        patches = SmoothField(rng, anatomy.grid.extent, _PATCH).on(axes)
        depth = config.missing * np.clip(patches, 0, 2)
        brain = brain & ((anatomy.depth > depth) | (tumour > 0))
    if config.dura:
        patches = SmoothField(rng, anatomy.grid.extent, _PATCH).on(axes)
        outside = ndimage.distance_transform_edt(~anatomy.brain, sampling=anatomy.grid.spacing)
        dura = (outside > 0) & (outside < config.dura * np.clip(patches, 0, 1.5))
        brain, meninges = brain | dura, np.where(dura, np.float32(1), meninges)
    return replace(anatomy, brain=brain), replace(distractors, meninges=meninges)


def displaced(rng: np.random.Generator, grid: Grid, sigma: float) -> Grid:
    """Return the grid moved by `sigma` mm along each axis, as after a head that moved between the scans."""
    affine = grid.affine.copy()
    affine[:3, 3] += rng.normal(0, sigma, 3)
    return Grid(grid.shape, affine)


def distort(rng: np.random.Generator, signal: FloatArray, grid: Grid, config: Artefacts) -> FloatArray:
    """Return the noise-free signal of a scan, white matter being about 1, with the faults drawn for it."""
    spacing = np.array(grid.spacing)
    faults = rng.uniform(size=5) < config.chance
    if faults[0]:
        signal = ndimage.gaussian_filter(signal, rng.uniform(0.2, config.blur, 3) / spacing)
    if faults[1]:
        signal = _thick(
            signal, spacing, axis=int(rng.integers(3)), thickness=rng.uniform(1.5, config.thickness)
        )
    if faults[2]:
        signal = _move(rng, signal, spacing, config.motion)
    if faults[3]:
        signal = _ghost(rng, signal, config.ghosts)
    if faults[4]:
        for _ in range(rng.integers(1, 4)):
            signal = signal + _wave(rng, signal.shape, rng.uniform(0.2, 1) * config.spikes)
    if config.curve:
        rises = np.diff(_KNOTS) * np.exp(rng.normal(0, config.curve, len(_KNOTS) - 1))
        curve = PchipInterpolator(_KNOTS, np.concatenate(([0.0], np.cumsum(rises))))
        signal = curve(np.clip(signal, 0, _KNOTS[-1])) / curve(1.0)
    return np.maximum(signal, 0).astype(np.float32)


def _thick(signal: FloatArray, spacing: FloatArray, *, axis: int, thickness: float) -> FloatArray:
    """Average over slices of `thickness` mm along an axis, and interpolate between them."""
    count = signal.shape[axis]
    slices = max(round(count * spacing[axis] / thickness), 2)
    if slices >= count:
        return signal
    blurred = ndimage.gaussian_filter1d(signal, 0.8 * count / slices / _FWHM, axis=axis)
    place = np.linspace(0, count - 1, slices)
    below = np.clip(np.searchsorted(place, np.arange(count), side="right") - 1, 0, slices - 2)
    shape = [-1 if number == axis else 1 for number in range(signal.ndim)]
    share = ((np.arange(count) - place[below]) / (place[1] - place[0])).astype(np.float32).reshape(shape)
    sampled = np.take(blurred, np.rint(place).astype(int), axis=axis)
    mixed: FloatArray = (1 - share) * np.take(sampled, below, axis=axis)
    mixed += share * np.take(sampled, below + 1, axis=axis)
    return mixed


def _move(rng: np.random.Generator, signal: FloatArray, spacing: FloatArray, most: float) -> FloatArray:
    """Take some lines of k-space from the head at other places; the centre, nearly always, from the first."""
    axis = int(rng.integers(signal.ndim))
    lines = np.fft.fft(signal, axis=axis)
    frequency = np.abs(np.fft.fftfreq(signal.shape[axis]))
    for _ in range(rng.integers(1, 4)):
        moved = ndimage.shift(signal, rng.uniform(-most, most, 3) / spacing, order=1, mode="nearest")
        low = rng.uniform(0.02, 0.4)
        chosen = np.flatnonzero((frequency > low) & (frequency < low + rng.uniform(0.02, 0.2)))
        place = tuple(chosen if number == axis else slice(None) for number in range(signal.ndim))
        lines[place] = np.fft.fft(moved, axis=axis)[place]
    return np.abs(np.fft.ifft(lines, axis=axis)).astype(np.float32)


def _ghost(rng: np.random.Generator, signal: FloatArray, most: float) -> FloatArray:
    """Weaken every second, third or fourth line of k-space."""
    axis, every = int(rng.integers(2)), int(rng.choice(_GHOST_LINES))
    lines = np.fft.fft(signal, axis=axis)
    scaled = np.arange(signal.shape[axis]) % every == 0
    scaled[np.abs(np.fft.fftfreq(signal.shape[axis])) < 1 / signal.shape[axis]] = False
    lines[tuple(scaled if number == axis else slice(None) for number in range(signal.ndim))] *= 1 - (
        rng.uniform(0.1, 1) * every * most
    )
    return np.abs(np.fft.ifft(lines, axis=axis)).astype(np.float32)


def _wave(rng: np.random.Generator, shape: tuple[int, ...], amplitude: float) -> FloatArray:
    """Return the plane wave of one spike in k-space."""
    direction = rng.standard_normal(3)
    direction *= rng.uniform(*_WAVES) / np.linalg.norm(direction)
    phases = (np.arange(count) * turns for count, turns in zip(shape, direction, strict=True))
    phase = sum(np.meshgrid(*phases, indexing="ij", sparse=True)) + rng.uniform()
    return np.float32(amplitude) * np.cos(2 * np.pi * phase).astype(np.float32)
