"""The ICBM152 average brain as `nilearn` ships it (nonlinear symmetric 2009a, 1 mm)."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sgnet_nnunet.phantom.grid import MAJORITY, FloatArray

T1_LEVELS = {"gm": 0.65, "wm": 0.875, "csf": 0.28}
"""Median intensity of the T1 average where one tissue fills a voxel."""

_VENTRICLE_BOX = ((-36, 36), (-60, 32), (-5, 30))
"""Box around the lateral ventricles in MNI mm."""

_CLOSING = 8.0
"""Radius in mm of the gaps that the brain mask bridges."""

_VENTRICLE_DEPTH = 20.0
"""Distance to the brain's surface in mm beyond which fluid is ventricle, not cistern."""


@dataclass(frozen=True)
class Template:
    """Maps on one 1 mm grid, shape (x, y, z), RAS.

    Attributes:
        gm: Probability of grey matter, 0 to 1.
        wm: Probability of white matter, 0 to 1.
        detail: What the T1 average shows beyond the mixture of tissues, sharpened.
        brain: Brain mask, smoothed: 0.5 at the surface.
        ventricles: Lateral ventricles, 0 to 1, smoothed over a voxel.
        near_ventricles: The same smoothed over 3 mm.
        depth: Distance to the surface in mm, on every second voxel.
        to_voxel: 4x4 matrix from MNI mm to voxel index.
    """

    gm: FloatArray
    wm: FloatArray
    detail: FloatArray
    brain: FloatArray
    ventricles: FloatArray
    near_ventricles: FloatArray
    depth: FloatArray
    to_voxel: NDArray[np.float64]


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Load the maps from the installed `nilearn`; needs no network. Cached."""
    from nilearn import datasets  # noqa: PLC0415 - takes a second

    image = datasets.load_mni152_template(resolution=1)
    t1, gm, wm = (
        np.asarray(loaded.dataobj, dtype=np.float32)
        for loaded in (
            image,
            datasets.load_mni152_gm_template(resolution=1),
            datasets.load_mni152_wm_template(resolution=1),
        )
    )
    mask = _close(np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj) > 0)
    csf = np.where(mask, np.clip(1 - gm - wm, 0, 1), 0)
    expected = gm * T1_LEVELS["gm"] + wm * T1_LEVELS["wm"] + csf * T1_LEVELS["csf"]
    sharpened = 2 * t1 - ndimage.gaussian_filter(t1, 1.2)
    inside = ndimage.binary_erosion(t1 > 0, iterations=2)
    detail = np.where(inside, sharpened - expected, 0)
    depth = ndimage.distance_transform_edt(mask[::2, ::2, ::2], sampling=2).astype(np.float32)
    to_voxel = np.asarray(np.linalg.inv(image.affine), dtype=np.float64)
    ventricles = _lateral_ventricles(csf, depth, to_voxel)
    return Template(
        gm=gm,
        wm=wm,
        detail=detail.astype(np.float32),
        brain=ndimage.gaussian_filter(mask.astype(np.float32), 1.0),
        ventricles=ndimage.gaussian_filter(ventricles, 0.5),
        near_ventricles=ndimage.gaussian_filter(ventricles, 3.0),
        depth=depth,
        to_voxel=to_voxel,
    )


def _close(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill sulci and cisterns, as the masks of today's skull stripping do: fluid belongs to the brain."""
    coarse = np.pad(mask[::2, ::2, ::2], 6)
    grown = ndimage.distance_transform_edt(~coarse, sampling=2) <= _CLOSING
    closed = (ndimage.distance_transform_edt(grown, sampling=2) > _CLOSING)[6:-6, 6:-6, 6:-6]
    filled = np.kron(closed, np.ones((2, 2, 2), dtype=bool))[tuple(map(slice, mask.shape))]
    return mask | filled


def _lateral_ventricles(csf: FloatArray, depth: FloatArray, to_voxel: NDArray[np.float64]) -> FloatArray:
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
