"""Whole heads made from stripped phantoms: skull, scalp, face and neck are drawn around the brain."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from scipy import ndimage

from sgnet_nnunet.nifti import Grid, Volume


def real_scans() -> Path:
    """Return the folder of real scans; the test is skipped without it."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SGNET_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real scans in {folder}: set SGNET_REAL_DATA to the folder that holds them")
    return folder


def write_by_itk(path: Path, volume: Volume) -> None:
    """Write a volume with an unsheared affine in a format of ITK: .nrrd or .mha."""
    affine = np.diag([-1, -1, 1, 1]) @ volume.affine
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(volume.data.T))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(path))


def turned(volume, codes, *, shift=(0, 0, 0), rotation=None):
    """Return a volume with its axes in another order, and its world moved and turned."""
    turn = ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(codes))
    move = np.eye(4)
    move[:3, 3] = shift
    if rotation is not None:
        move[:3, :3] = rotation
    affine = move @ volume.affine @ inv_ornt_aff(turn, volume.data.shape)
    return Volume(np.ascontiguousarray(apply_orientation(volume.data, turn)), affine)


def draw_brain(rng: np.random.Generator, *, spacing: float = 2.5) -> dict[str, Volume]:
    """Return T1ce and FLAIR, int16 and 0 outside, of a brain-sized ellipsoid with a folded cortex."""
    size = np.array([136.0, 170.0, 132.0]) * rng.uniform(0.95, 1.05, 3)
    shape = np.ceil(size / spacing).astype(int) + 4
    points = np.stack(np.meshgrid(*((np.arange(n) - (n - 1) / 2) * spacing for n in shape), indexing="ij"))
    mask = np.sum((points / (size / 2)[:, None, None, None]) ** 2, axis=0) < 1
    depth = ndimage.distance_transform_edt(mask, sampling=spacing)
    folds = ndimage.gaussian_filter(rng.normal(size=tuple(shape)), 6 / spacing)
    folded = depth + 4 * folds / folds.std()
    tissue = np.where(folded < 2, 0, np.where(folded < 9, 1, 2))  # fluid, cortex, white matter
    affine = np.diag([-spacing, -spacing, spacing, 1.0])
    affine[:3, 3] = [*(size[:2] / 2), -size[2] / 2]
    levels = {"t1ce": [300, 750, 1000], "flair": [250, 1100, 900]}
    return {
        name: Volume(
            np.where(mask, np.array(values)[tissue] + rng.normal(0, 30, shape), 0).clip(0).astype(np.int16),
            affine,
        )
        for name, values in levels.items()
    }


def add_head(
    brain: Volume,
    rng: np.random.Generator,
    *,
    fat: float = 1.6,
    masked: bool = False,
    face: bool = True,
    room_mm: float = 40.0,
) -> Volume:
    """Return a T1ce scan of a whole head, in RAS, around a stripped brain whose background is 0.

    Args:
        brain: The stripped scan.
        rng: Generator of the thickness of skull and scalp, and of the noise.
        fat: Brightness of the scalp, that of the brain being 1; below 0.7 it is suppressed.
        masked: Whether the air around the head is exactly 0, instead of noise.
        face: Whether the field of view reaches face and neck.
        room_mm: Added to the grid on each side.
    """
    brain = brain.oriented("RAS")
    spacing = np.array(brain.grid.spacing)
    room = np.ceil(room_mm / spacing).astype(int)
    grid = brain.grid.crop(-room, np.array(brain.data.shape) + room)
    data = np.pad(brain.data.astype(np.float32), [(each, each) for each in room])
    unit = float(np.median(data[data > 0]))
    mask = ndimage.binary_fill_holes(data > 0)
    outside = ndimage.distance_transform_edt(~mask, sampling=spacing).astype(np.float32)
    fluid, inner, marrow, outer, scalp = rng.uniform((1, 1, 1, 1, 3), (3, 2, 3.5, 2.5, 9))
    edges = np.cumsum([fluid, inner, marrow, outer, scalp])
    levels = np.array([0.3, 0.06, rng.uniform(0.15, 0.7), 0.06, fat], dtype=np.float32)
    layer = np.digitize(outside, edges)
    head = np.where(mask, data / unit, np.append(levels, 0)[layer]).astype(np.float32)
    if face:
        _add_face(head, mask, grid, rng, fat)
    texture = ndimage.gaussian_filter(rng.normal(size=head.shape).astype(np.float32), 1.5 / spacing)
    head *= np.where(mask, 1, 1 + 0.15 * texture / texture.std())
    noise = rng.normal(0, 0.02, (2, *head.shape)).astype(np.float32)
    scan = np.hypot(head + noise[0], noise[1]) * unit
    if masked:
        air = ndimage.binary_fill_holes(head > 0.03)
        scan[~air] = 0
    return Volume(np.rint(scan).astype(np.int16), grid.affine)


def _add_face(head: np.ndarray, mask: np.ndarray, grid: Grid, rng: np.random.Generator, fat: float) -> None:
    """Draw face and neck, muscle under fat with cavities of air, where nothing is yet."""
    shape, spacing = np.array(head.shape), np.array(grid.spacing)
    x, y, z = ((np.arange(n) * s).astype(np.float32) for n, s in zip(shape, spacing, strict=True))
    hits = np.argwhere(mask[::4, ::4, ::4]) * 4
    low, high = hits.min(axis=0) * spacing, hits.max(axis=0) * spacing
    centre, size = (low + high) / 2, (high - low) / 2
    across = ((x - centre[0]) / (0.75 * size[0]))[:, None, None] ** 2
    front = ((y - centre[1] - 0.6 * size[1]) / (0.75 * size[1]))[None, :, None] ** 2
    up = ((z - low[2]) / (0.8 * size[2]))[None, None, :] ** 2
    skull = across + front + up
    neck = across + ((y - centre[1] + 0.15 * size[1]) / (0.6 * size[1]))[None, :, None] ** 2
    depth = np.minimum(skull, np.where(z[None, None, :] < centre[2], neck, np.inf))
    blobs = ndimage.gaussian_filter(rng.normal(size=shape // 4 + 1), 1.5)
    blobs = ndimage.zoom(blobs, shape / np.array(blobs.shape), order=1) / blobs.std()
    tissue = np.where(depth > 0.8, fat, np.where(blobs > 1.2, 0.03, np.where(blobs < -1, fat, 0.55)))
    where = (depth < 1) & (head == 0)
    head[where] = tissue[where]
