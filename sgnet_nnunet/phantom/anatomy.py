"""A patient's brain: the ICBM152 average (nonlinear symmetric 2009a, 1 mm, from `nilearn`), deformed."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import ndtr

from sgnet_nnunet.errors import needs_extra
from sgnet_nnunet.nifti import Grid
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.fields import (
    MAJORITY,
    TEMPLATE_EXTENT,
    DoubleArray,
    FloatArray,
    SmoothField,
    Warp,
    axes_of,
    centred_grid,
    rotation,
)

T1_LEVELS = {"gm": 0.65, "wm": 0.875, "csf": 0.28}
"""Median intensity of the T1 average where one tissue fills a voxel."""

_VENTRICLE_BOX = ((-36, 36), (-60, 32), (-5, 30))  # box around the lateral ventricles in MNI mm
_CLOSING = 8.0  # radius in mm of the gaps that the brain mask bridges
_SURFACE_WIDTH = 2.0  # standard deviation in mm of the smoothing of the brain mask
_VENTRICLE_DEPTH = 20.0  # distance to the brain's surface in mm beyond which fluid is ventricle, not cistern


@dataclass(frozen=True)
class Template:
    """Maps on one 1 mm grid, shape (x, y, z), RAS."""

    gm: FloatArray  # probability of grey matter, 0 to 1; `wm` that of white matter
    wm: FloatArray
    detail: FloatArray  # what the T1 average shows beyond the mixture of tissues, sharpened
    brain: FloatArray  # brain mask, smoothed by `_SURFACE_WIDTH`: 0.5 at the surface
    ventricles: FloatArray  # lateral ventricles, 0 to 1, smoothed over a voxel; `near_ventricles` over 3 mm
    near_ventricles: FloatArray
    depth: FloatArray  # distance to the surface in mm, on every second voxel
    to_voxel: DoubleArray  # 4x4 matrix from MNI mm to voxel index

    def sample(self, name: str, mni: FloatArray) -> FloatArray:
        """Interpolate the map `name` linearly at `mni` (mm), shape (3, ...), with 0 outside."""
        half = np.diag((0.5, 0.5, 0.5, 1.0)) if name == "depth" else np.eye(4)
        to_voxel = (half @ self.to_voxel).astype(np.float32)
        diagonal, shift = (
            part.reshape(3, *([1] * (mni.ndim - 1))) for part in (np.diag(to_voxel)[:3], to_voxel[:3, 3])
        )
        values: FloatArray = getattr(self, name)
        sampled: FloatArray = ndimage.map_coordinates(
            values, mni * diagonal + shift, order=1, output=np.float32
        )
        return sampled


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Load the maps from the installed `nilearn`; needs no network. Cached."""
    with needs_extra("phantom"):
        from nilearn import datasets  # noqa: PLC0415 - takes a second

    image = datasets.load_mni152_template(resolution=1)
    grey, white = (
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_wm_template(resolution=1),
    )
    t1, gm, wm = (np.asarray(loaded.dataobj, dtype=np.float32) for loaded in (image, grey, white))
    mask = _close(np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj) > 0)
    csf = np.where(mask, np.clip(1 - gm - wm, 0, 1), 0)
    expected = gm * T1_LEVELS["gm"] + wm * T1_LEVELS["wm"] + csf * T1_LEVELS["csf"]
    sharpened = 2 * t1 - ndimage.gaussian_filter(t1, 1.2)
    detail = np.where(ndimage.binary_erosion(t1 > 0, iterations=2), sharpened - expected, 0)
    depth = ndimage.distance_transform_edt(mask[::2, ::2, ::2], sampling=2).astype(np.float32)
    to_voxel = np.asarray(np.linalg.inv(image.affine), dtype=np.float64)
    ventricles = _lateral_ventricles(csf, depth, to_voxel)
    return Template(
        gm=gm,
        wm=wm,
        detail=detail.astype(np.float32),
        brain=ndimage.gaussian_filter(mask.astype(np.float32), _SURFACE_WIDTH),
        ventricles=ndimage.gaussian_filter(ventricles, 0.5),
        near_ventricles=ndimage.gaussian_filter(ventricles, 3.0),
        depth=depth,
        to_voxel=to_voxel,
    )


def _close(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill sulci and cisterns, as masks of skull stripping do: fluid belongs to the brain."""
    coarse = np.pad(mask[::2, ::2, ::2], 6)
    grown = ndimage.distance_transform_edt(~coarse, sampling=2) <= _CLOSING
    closed = (ndimage.distance_transform_edt(grown, sampling=2) > _CLOSING)[6:-6, 6:-6, 6:-6]
    filled = np.kron(closed, np.ones((2, 2, 2), dtype=bool))[tuple(map(slice, mask.shape))]
    return mask | filled


def _lateral_ventricles(csf: FloatArray, depth: FloatArray, to_voxel: DoubleArray) -> FloatArray:
    """Return the largest body of deep fluid within the box of the lateral ventricles, as 0 and 1."""
    box = tuple(
        slice(int(low + shift), int(high + shift))
        for (low, high), shift in zip(_VENTRICLE_BOX, to_voxel[:3, 3], strict=True)
    )
    deep = np.kron(depth > _VENTRICLE_DEPTH, np.ones((2, 2, 2), dtype=bool))
    fluid = (csf > MAJORITY)[box] & deep[box]
    labels, _ = ndimage.label(fluid)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    ventricles = np.zeros(csf.shape, dtype=np.float32)
    ventricles[box] = labels == sizes.argmax()
    return ventricles


_SHARPENING = 1.6  # power of the tissue odds, which sharpens the blurred borders of the average
_STRIDE = 3  # spacing in voxels of the coordinates searched to invert the deformation


@dataclass(frozen=True)
class Anatomy:
    """One patient's brain; every array has the shape of `grid`, in RAS axis order."""

    grid: Grid  # grid of the T1ce scan
    brain: NDArray[np.bool_]  # brain mask
    # fraction of grey matter, 0 to 1; with `wm` and `csf` it sums to 1 in the brain, 0 outside
    gm: FloatArray
    wm: FloatArray
    csf: FloatArray
    detail: FloatArray  # T1 contrast beyond the mixture of tissues, relative to the T1 average's maximum
    ventricles: FloatArray  # lateral ventricles, 0 to 1; `near_ventricles` is the closeness to them, 0 to 1
    near_ventricles: FloatArray
    depth: FloatArray  # distance to the brain's surface in mm, approximate
    mni: FloatArray  # MNI coordinates in mm of each voxel, shape (3, x, y, z)

    @property
    def brain_volume(self) -> float:
        """Volume of the brain mask in mm3."""
        return float(self.brain.sum()) * self.grid.voxel_mm3

    def voxels_of(self, points: DoubleArray) -> DoubleArray:
        """Return the voxel indices, shape (n, 3), of `points` in MNI mm, shape (n, 3)."""
        _, nearest = self._sparse_mni.query(points)
        shape = [len(range(0, count, _STRIDE)) for count in self.grid.shape]
        index = np.stack(np.unravel_index(nearest, shape), axis=1) * _STRIDE
        rest = points - self.mni[:, index[:, 0], index[:, 1], index[:, 2]].T
        voxels: DoubleArray = index + rest / self.grid.spacing
        return voxels

    @cached_property
    def _sparse_mni(self) -> cKDTree:
        """Search tree of the MNI coordinates of every `_STRIDE`-th voxel along each axis."""
        sparse = self.mni[:, ::_STRIDE, ::_STRIDE, ::_STRIDE]
        return cKDTree(sparse.reshape(3, -1).T)


def _draw_grid(rng: np.random.Generator, config: PhantomConfig) -> Grid:
    """Draw a T1ce grid that holds any brain: its spacing, its tilt and its place in the scanner."""
    in_plane = rng.uniform(*config.t1ce_in_plane)
    return centred_grid(
        centre=rng.normal(0, (3.0, 15.0, 20.0)),
        extent=TEMPLATE_EXTENT,
        spacing=np.array((in_plane, in_plane, rng.uniform(*config.t1ce_slice))),
        turn=rotation(rng.normal(0, (2.0, 1.0, 1.0))),
    )


def draw_anatomy(rng: np.random.Generator, config: PhantomConfig) -> Anatomy:
    """Draw a patient's brain on a T1ce grid cropped to it, with a margin."""
    template = load_template()
    roomy = _draw_grid(rng, config)
    warp = Warp(rng, roomy, config)
    stride = 4
    rough = template.sample("brain", warp.on([axis[::stride] for axis in axes_of(roomy)]))
    occupied = np.argwhere(rough > MAJORITY) * stride
    margin = np.ceil(config.margin / np.array(roomy.spacing)).astype(np.int64)
    low = np.maximum(occupied.min(axis=0) - margin - 2, 0)
    high = np.minimum(occupied.max(axis=0) + margin + 3, roomy.shape)
    grid = roomy.crop(low, high)
    axes = [axis[a:b] for axis, a, b in zip(axes_of(roomy), low, high, strict=True)]
    mni = warp.on(axes)
    stripped = rng.uniform(*config.stripped)
    ragged = np.clip(0.4 * SmoothField(rng, roomy.extent, 5.0).on(axes), -0.8, 0.8)
    brain = template.sample("brain", mni) > ndtr((stripped + ragged) / _SURFACE_WIDTH)
    where = mni[:, brain]
    names = ("gm", "wm", "detail", "ventricles", "near_ventricles", "depth")
    maps = {name: template.sample(name, where) for name in names}
    maps["depth"] = np.maximum(maps["depth"] - np.float32(stripped), 0)
    # Sulci differ between brains far more than ventricles do.
    calm = np.clip(1 - 6 * maps["near_ventricles"], 0, 1)
    folds = 0.7 * SmoothField(rng, roomy.extent, 4.0).on(axes)[brain] * calm
    cortex = 0.35 * SmoothField(rng, roomy.extent, 5.0).on(axes)[brain]
    # The average's probabilities become one brain's tissue.
    gm, wm = np.maximum(maps["gm"], 0), np.maximum(maps["wm"], 0)
    fluid = np.maximum(1 - gm - wm, 0) * np.exp(np.float32(rng.uniform(*config.atrophy)) + folds)
    odds = np.maximum(np.stack([gm * np.exp(cortex), wm, fluid]), 1e-6) ** np.float32(_SHARPENING)
    maps.update(zip(("gm", "wm", "csf"), odds / odds.sum(axis=0), strict=True))
    volumes = {name: np.zeros(grid.shape, dtype=np.float32) for name in maps}
    for name, values in maps.items():
        volumes[name][brain] = values
    return Anatomy(grid=grid, brain=brain, mni=mni, **volumes)
