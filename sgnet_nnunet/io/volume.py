"""Volumes: an array on a grid in the world."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.affines import voxel_sizes
from numpy.typing import NDArray

from sgnet_nnunet.io.atomic import atomic_path


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the voxel size in mm along the three axes of an array with this 4x4 affine."""
    x, y, z = voxel_sizes(affine)
    return float(x), float(y), float(z)


def voxel_volume_of(affine: NDArray[np.float64]) -> float:
    """Return the volume in mm3 of a voxel of an array with this 4x4 affine."""
    return float(abs(np.linalg.det(affine[:3, :3])))


@dataclass(frozen=True)
class Volume:
    """A 3D array with its place in the world.

    Attributes:
        data: Voxels, shape (x, y, z) in the axis order of the file.
        affine: 4x4 matrix from voxel index to world millimetres (RAS+, as NIfTI defines it).
    """

    data: NDArray[np.generic]
    affine: NDArray[np.float64]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along x, y, z of the array."""
        return spacing_of(self.affine)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm3."""
        return voxel_volume_of(self.affine)


def write_volume(path: Path, volume: Volume) -> None:
    """Write `volume` as NIfTI, atomically, its array's dtype kept and with mm as the unit.

    The same volume gives the same bytes: nibabel's gzip writer stores neither time nor name.
    """
    image = nib.Nifti1Image(volume.data, volume.affine)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as partial:
        nib.save(image, partial)
