"""Volumes: an array on a grid in the world."""

import gzip
import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.files import atomic_path


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


GZIP_MAGIC = b"\x1f\x8b"
NIFTI2_HEADER_SIZE = 540
"""First field of a NIfTI-2 header (348 in NIfTI-1), see nifti.nimh.nih.gov."""

INTEGER_TOLERANCE = 1e-3
"""Masks stored with a scale factor come back as 1.0000001: this far from an integer is still one."""

SMALLEST_DETERMINANT = 1e-9
"""In mm3: below it the voxel has no volume, since no scanner resolves a micrometre."""

_DOWNLOAD_AGAIN = "copy or download it again"
_READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    ArithmeticError,
    zlib.error,
    struct.error,
    ImageFileError,
    HeaderDataError,
    WrapStructError,
)


@dataclass(frozen=True)
class Mask:
    """A segmentation with one foreground class.

    Attributes:
        volume: Boolean voxels, shape (x, y, z), and their affine.
        notes: What was unusual about the file but did not keep it from being used.
    """

    volume: Volume
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> float:
        """Volume of the foreground in mm3."""
        return int(np.count_nonzero(self.volume.data)) * self.volume.voxel_volume


def read_image(path: Path) -> Volume:
    """Read a 3D image.

    Args:
        path: A NIfTI-1 or NIfTI-2 file, gzip-compressed or not.

    Returns:
        Voxels of shape (x, y, z) in the file's axis order. An integer type is kept (64 bits become
        32 where the values fit); everything else, scaled integers included, becomes float32.

    Raises:
        InputFileError: The file cannot be read, is truncated, is not 3D, has no voxels, a singular
            affine, voxels that are not finite, or the same value everywhere.
    """
    values, affine = _read_values(path)
    data = _as_storable(path, values)
    if data.min() == data.max():
        raise InputFileError(path, f"is blank: every voxel is {data.flat[0]}", _DOWNLOAD_AGAIN)
    return Volume(data, affine)


def read_mask(path: Path) -> Mask:
    """Read a 3D mask; every integer above 0 is foreground.

    Raises:
        InputFileError: As for `read_image`, and for masks that are empty or hold fractional or
            negative values.
    """
    values, affine = _read_values(path)
    labels = _integers(path, np.unique(values))
    if labels[-1] == 0:
        raise InputFileError(path, "mask is empty", "draw the lesion or leave the accession out")
    notes: tuple[str, ...] = ()
    if labels[-1] > 1:
        listed = ", ".join(f"{label:g}" for label in labels[labels > 1][:5])
        notes = (f"{path.name}: values above 1 ({listed}) count as foreground",)
    return Mask(Volume(values > INTEGER_TOLERANCE, affine), notes)


def read_labels(path: Path) -> Volume:
    """Read a 3D label map, which may be empty.

    Returns:
        Integers of 0 and above, shape (x, y, z) in the file's axis order, in memory as in the file.

    Raises:
        InputFileError: As for `read_image`, a blank one aside, and for fractional or negative values.
    """
    values, affine = _read_values(path)
    _integers(path, values_in(values))
    if values.dtype.kind == "f":
        values = np.rint(values).astype(np.int32)
    return Volume(values, affine)


def values_in(labels: NDArray[Any]) -> NDArray[Any]:
    """Return the values other than 0 in a label map of any shape, sorted, shape (n,)."""
    # In the order of memory: NumPy goes through a file's order of voxels many times more slowly.
    flat = labels.ravel(order="K")
    return np.unique(flat[flat != 0])


def _integers(path: Path, found: NDArray[Any]) -> NDArray[Any]:
    """Return the values found in a mask as the integers they must be, shape (n,) and sorted."""
    labels = np.rint(found)
    fractions = found[np.abs(found - labels) > INTEGER_TOLERANCE]
    if fractions.size:
        raise InputFileError(
            path,
            f"mask holds fractional values such as {fractions[0]:g}",
            "threshold it: a mask has integer labels",
        )
    if labels.size and labels[0] < 0:
        raise InputFileError(
            path,
            f"mask holds negative values such as {labels[0]:g}",
            "set the background to 0 and the lesion to 1",
        )
    return labels


def _read_values(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return the finite voxels, scaled if the file says so, and the invertible affine of a 3D file."""
    try:
        image = _parse(path.read_bytes())
        problem = _problem_of_grid(image)
        values = None if problem else np.asanyarray(image.dataobj)
    except _READ_ERRORS as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise InputFileError(path, f"cannot be read ({detail})", _DOWNLOAD_AGAIN) from error
    if problem or values is None:
        raise InputFileError(path, *problem)
    if values.dtype.kind not in "iuf":
        raise InputFileError(
            path, f"holds voxels of type {values.dtype}", "convert it to one number per voxel"
        )
    _check_finite(path, values)
    return values, np.asarray(image.affine, dtype=np.float64)


def _parse(content: bytes) -> nib.Nifti1Image:
    """Return the nibabel image; all of a gzip stream is read, so that its checksum is verified."""
    raw = gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content
    if not raw:
        raise EOFError("the file is empty")
    is_nifti2 = NIFTI2_HEADER_SIZE in (int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big"))
    image = (nib.Nifti2Image if is_nifti2 else nib.Nifti1Image).from_bytes(raw)
    # nibabel reserves the memory that the header asks for before it looks at the file's size.
    needed = int(np.prod(image.shape, dtype=object)) * image.get_data_dtype().itemsize
    if needed > len(raw):
        raise EOFError(f"truncated: {needed} bytes of voxels announced, {len(raw)} in the file")
    return image


def _problem_of_grid(image: nib.Nifti1Image) -> tuple[str, str] | tuple[()]:
    """Return what is wrong with an image's shape or affine, and the remedy; () if nothing is."""
    shape = " x ".join(str(length) for length in image.shape)
    if len(image.shape) != 3:  # noqa: PLR2004
        return f"is {len(image.shape)}D ({shape}), 3D is needed", "save the one volume that is meant as 3D"
    if 0 in image.shape:
        return f"has no voxels ({shape})", _DOWNLOAD_AGAIN
    affine = image.affine
    if affine is None or not np.all(np.isfinite(affine)):
        return "has an affine that is not finite", "mend the header's sform or qform"
    if abs(np.linalg.det(affine[:3, :3])) < SMALLEST_DETERMINANT:
        return "has a singular affine (voxels without volume)", "mend the header's sform or qform"
    return ()


def _check_finite(path: Path, values: NDArray[Any]) -> None:
    bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if bad:
        raise InputFileError(
            path, f"{bad} of {values.size} voxels are NaN or infinite", "replace them, for instance by 0"
        )


def _as_storable(path: Path, values: NDArray[Any]) -> NDArray[Any]:
    """Return the voxels in a type that every NIfTI reader knows."""
    dtype = values.dtype.newbyteorder("=")
    if dtype.kind in "iu" and dtype.itemsize == 8:  # noqa: PLR2004
        limits = np.iinfo(np.int32)
        fits = limits.min <= values.min() and values.max() <= limits.max
        dtype = np.dtype(np.int32 if fits else np.float32)
    elif dtype.kind == "f":
        dtype = np.dtype(np.float32)
    with np.errstate(over="ignore"):
        data = values.astype(dtype, copy=False)
    if dtype.kind == "f":
        _check_finite(path, data)
    return data


SMALLEST_VOXEL_MM3 = 1e-9
"""Below it an affine is singular: no scanner resolves a micrometre."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid of voxels in the world, turned and flipped as its affine says.

    Attributes:
        shape: Voxels along the array's three axes.
        affine: 4x4 matrix from voxel index to world millimetres.

    Raises:
        ValueError: If there are not three axes, or the affine is not 4x4, finite and invertible.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.shape) != 3:  # noqa: PLR2004
            raise ValueError(f"a mask must have three axes; got the shape {self.shape}")
        if np.shape(self.affine) != (4, 4) or not np.all(np.isfinite(self.affine)):
            raise ValueError(f"the affine must be a finite 4x4 matrix; got {self.affine!r}")
        if self.voxel_mm3 < SMALLEST_VOXEL_MM3:
            raise ValueError(f"the affine must be invertible; got voxels of {self.voxel_mm3:g} mm3")

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm3."""
        return voxel_volume_of(self.affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the array's axes."""
        return spacing_of(self.affine)

    @property
    def diagonal_mm(self) -> float:
        """Length in mm of the image's diagonal: no distance within it is larger."""
        return float(np.linalg.norm(self.affine[:3, :3] @ self.shape))

    @cached_property
    def _frame(self) -> NDArray[np.float64]:
        """The affine without its turn and flip, so that an unsheared grid keeps its exact spacing.

        Upper triangular U with U'U = A'A, hence |U v| = |A v| for every step v between voxels.
        """
        steps = self.affine[:3, :3]
        return np.asarray(np.linalg.cholesky(steps.T @ steps).T, dtype=np.float64)

    def millimetres(self, indices: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return voxel indices, shape (n, 3), as points in mm, true in their distances only."""
        return np.asarray(indices @ self._frame.T, dtype=np.float64)

    def world(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return voxel indices, shape (n, 3), as points of the world in mm."""
        return np.asarray(apply_affine(self.affine, indices), dtype=np.float64)
