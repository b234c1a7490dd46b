"""Read, check and write images: every NIfTI file that the package reads is decoded and checked here.

`read_image`, `read_mask` and `read_labels` give arrays in the file's order of axes; `read_channels` gives
what nnU-Net's own reader classes give. All of them go through `_decode` and `_check_grid`.
"""

import gzip
import logging
import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError
from numpy.typing import ArrayLike, NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import atomic_path
from sgnet_nnunet.nnunet import NIFTI_SUFFIXES

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

logger = logging.getLogger(__name__)

Box: TypeAlias = tuple[slice, slice, slice]
"""A part of an array, as an index."""

DIMENSIONS = 3

SMALLEST_VOXEL_MM3 = 1e-9
"""Below it an affine is singular: no scanner resolves a micrometre."""

LARGEST_SHIFT = 0.1
"""Share of a voxel by which two equal grids may differ: writers round affines, some by 1e-3 mm."""

INTEGER_TOLERANCE = 1e-3
"""Distance from an integer that a label may have: masks with a scale factor come back as 1.0000001."""

SIZE_TOLERANCE = 1e-5
"""Relative: a header keeps 1 mm as 1.0000001, and a voxel of a rotated grid has 0.9999999 mm3."""

_GZIP_MAGIC = b"\x1f\x8b"

_COMPRESSION = 6

_COPY_AGAIN = "copy or download it again"
_READ_ERRORS = (
    *(OSError, EOFError, RuntimeError, AssertionError, ValueError, TypeError, ArithmeticError),
    *(zlib.error, struct.error, ImageFileError, HeaderDataError, WrapStructError),
)


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an array lie in the world; rotated, flipped and sheared grids are allowed.

    Attributes:
        shape: Number of voxels along the array's three axes.
        affine: 4x4 matrix from voxel index to world millimetres (RAS+, as NIfTI defines it).

    Raises:
        ValueError: If there are not three axes, or the affine is not 4x4, finite and invertible.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.shape) != DIMENSIONS:
            raise ValueError(f"a grid must have three axes; got the shape {self.shape}")
        if np.shape(self.affine) != (4, 4) or not np.all(np.isfinite(self.affine)):
            raise ValueError(f"the affine must be a finite 4x4 matrix; got {self.affine!r}")
        if self.voxel_mm3 < SMALLEST_VOXEL_MM3:
            raise ValueError(f"the affine must be invertible; got voxels of {self.voxel_mm3:g} mm3")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the array's axes."""
        return spacing_of(self.affine)

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm3."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def extent(self) -> NDArray[np.float64]:
        """Length in mm along each of the array's axes, shape (3,)."""
        return np.array(self.spacing) * self.shape

    @property
    def diagonal_mm(self) -> float:
        """Length in mm of the diagonal: no distance within the grid is larger."""
        return float(np.linalg.norm(self.affine[:3, :3] @ self.shape))

    @cached_property
    def corners(self) -> NDArray[np.float64]:
        """Voxel indices of the eight outer corners (a voxel reaches 0.5 to each side), shape (8, 3)."""
        sides = [(-0.5, length - 0.5) for length in self.shape]
        return np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1).reshape(-1, 3)

    @cached_property
    def _frame(self) -> NDArray[np.float64]:
        """The affine without its rotation and flips, so that an unsheared grid keeps its exact spacing.

        Upper triangular R with A = QR, hence |R v| = |A v| for every step v between voxels.
        """
        frame = np.linalg.qr(self.affine[:3, :3], mode="r")
        return np.asarray(frame * np.sign(np.diag(frame))[:, None], dtype=np.float64)

    def millimetres(self, indices: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return voxel indices, shape (n, 3), as points in mm that keep their distances."""
        return np.asarray(indices @ self._frame.T, dtype=np.float64)

    def world(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return voxel indices, shape (n, 3), as points of the world in mm."""
        return np.asarray(apply_affine(self.affine, indices), dtype=np.float64)

    def bounds(self) -> NDArray[np.float64]:
        """Return the world box around the grid in mm, shape (2, 3): lower corner, upper corner."""
        corners = self.corners @ self.affine[:3, :3].T + self.affine[:3, 3]
        return np.stack([corners.min(axis=0), corners.max(axis=0)])

    def overlaps(self, other: "Grid") -> bool:
        """Return whether the world boxes around both grids share any space."""
        (low, high), (other_low, other_high) = self.bounds(), other.bounds()
        return bool(np.all((low < other_high) & (other_low < high)))

    def shift_from(self, other: "Grid") -> float:
        """Return the largest distance in mm between the same voxel of two grids of one shape."""
        ends = self.corners - np.sign(self.corners) * 0.5  # the outer voxels' centres
        return float(np.linalg.norm(self.world(ends) - other.world(ends), axis=1).max())

    def same_place_as(self, other: "Grid") -> bool:
        """Return whether two grids have the same voxels, up to `LARGEST_SHIFT`."""
        return self.shape == other.shape and self.shift_from(other) <= LARGEST_SHIFT * min(other.spacing)

    def crop(self, low: NDArray[np.integer], high: NDArray[np.integer]) -> "Grid":
        """Return the grid of the voxels from `low` to `high`, the last excluded; both may lie outside."""
        affine = self.affine.copy()
        affine[:3, 3] += self.affine[:3, :3] @ low
        return Grid(tuple(int(length) for length in np.subtract(high, low)), affine)


def at_least(sizes: ArrayLike, limits: ArrayLike) -> NDArray[np.bool_]:
    """Return where lengths or volumes reach others, up to `SIZE_TOLERANCE`; the arguments broadcast.

    Every size that was computed from a header is compared with a limit by this function.
    """
    return np.asarray(np.asarray(sizes) >= np.multiply(limits, 1 - SIZE_TOLERANCE), dtype=np.bool_)


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the voxel size in mm along the three axes of an array with this 4x4 affine."""
    x, y, z = voxel_sizes(affine)
    return float(x), float(y), float(z)


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D array, shape (x, y, z) in the file's axis order, and its 4x4 affine to world mm, as of `Grid`."""

    data: NDArray[np.generic]
    affine: NDArray[np.float64]

    @cached_property
    def grid(self) -> Grid:
        """The grid that the voxels lie on."""
        return Grid(self.data.shape, self.affine)

    def oriented(self, codes: str = "RAS") -> "Volume":
        """Return the volume with its axes flipped and swapped to run as in "LPS"; the world stays."""
        turn = ornt_transform(io_orientation(self.affine), axcodes2ornt(codes))
        image = nib.Nifti1Image(self.data, self.affine, dtype=self.data.dtype).as_reoriented(turn)
        return Volume(np.asanyarray(image.dataobj), np.asarray(image.affine, dtype=np.float64))


@dataclass(frozen=True, eq=False)
class Mask:
    """A boolean volume, and what was unusual about its file but did not keep it from being used."""

    volume: Volume
    notes: tuple[str, ...] = ()

    @property
    def volume_mm3(self) -> float:
        """Volume of the foreground in mm3."""
        return int(np.count_nonzero(self.volume.data)) * self.volume.grid.voxel_mm3


def write_volume(path: Path, volume: Volume) -> None:
    """Write `volume` as NIfTI, atomically, its array's dtype kept and with mm as the unit.

    The same volume gives the same bytes: nibabel's gzip writer stores neither time nor name.
    """
    with atomic_path(path) as partial_path:
        nib.save(_image_of(volume), partial_path)


def encode_volume(volume: Volume) -> bytes:
    """Return `volume` as the content of a `.nii.gz` file, the same bytes for the same volume."""
    return gzip.compress(_image_of(volume).to_bytes(), _COMPRESSION, mtime=0)


def _image_of(volume: Volume) -> nib.Nifti1Image:
    image = nib.Nifti1Image(volume.data, volume.affine)
    image.header.set_xyzt_units("mm")
    return image


def read_image(path: Path) -> Volume:
    """Read a 3D image from a NIfTI-1 or NIfTI-2 file, gzip-compressed or not.

    An integer type is kept (64 bits become 32 where the values fit); everything else, scaled integers
    included, becomes float32.

    Raises:
        InputFileError: The file cannot be read, is truncated, is not 3D, has no voxels, a singular
            affine, voxels that are not finite, or the same value everywhere.
    """
    volume = _read_volume(path)
    data = _as_storable(path, volume.data)
    if data.min() == data.max():
        raise InputFileError(path, f"is blank: every voxel is {data.flat[0]}", _COPY_AGAIN)
    return Volume(data, volume.affine)


def read_mask(path: Path) -> Mask:
    """Read a 3D mask; every integer above 0 is foreground.

    Raises:
        InputFileError: As for `read_image`, and for masks that are empty or hold fractional or
            negative values.
    """
    volume = _read_volume(path)
    labels = _check_integers(path, np.unique(volume.data))
    if labels[-1] == 0:
        raise InputFileError(path, "mask is empty", "draw the lesion or leave the accession out")
    listed = ", ".join(f"{label:g}" for label in labels[labels > 1][:5])
    notes = (f"{path.name}: values above 1 ({listed}) count as foreground",) if listed else ()
    return Mask(Volume(np.greater(volume.data, INTEGER_TOLERANCE), volume.affine), notes)


def read_labels(path: Path) -> Volume:
    """Read a 3D label map, integers of 0 and above, which may be empty.

    Raises:
        InputFileError: As for `read_image`, a blank one aside, and for fractional or negative values.
    """
    volume = _read_volume(path)
    _check_integers(path, values_in(volume.data))
    if volume.data.dtype.kind == "f":
        return Volume(np.rint(volume.data).astype(np.int32), volume.affine)
    return volume


def values_in(labels: NDArray[Any]) -> NDArray[Any]:
    """Return the values other than 0 in a label map of any shape, sorted, shape (n,)."""
    # In the order of memory: NumPy goes through a file's order of voxels many times more slowly.
    flat = labels.ravel(order="K")
    return np.unique(flat[flat != 0])


_NIBABEL_READERS = ("NibabelIO", "NibabelIOWithReorient")
_READER_MODULES = {
    **dict.fromkeys(_NIBABEL_READERS, "nnunetv2.imageio.nibabel_reader_writer"),
    "SimpleITKIO": "nnunetv2.imageio.simpleitk_reader_writer",
    "SimpleITKIOWithReorient": "nnunetv2.imageio.simpleitk_reader_writer",
    "Tiff3DIO": "nnunetv2.imageio.tif_reader_writer",
}
"""Modules of nnU-Net's classes for 3D images; its own look-up, for other classes, imports every one."""

Channel = tuple[NDArray[np.float32], dict[str, Any]]


def reader_class(name: str) -> "type[BaseReaderWriter]":
    """Return nnU-Net's class, or an installed one that nnU-Net finds, that reads images and writes masks.

    Raises:
        SGNetError: If there is no such class.
    """
    if name in _READER_MODULES:
        found: type[BaseReaderWriter] = getattr(import_module(_READER_MODULES[name]), name)
        return found
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name  # noqa: PLC0415

    try:
        return recursive_find_reader_writer_by_name(name)
    except RuntimeError as error:
        problem = f"image_reader_writer {name}: nnU-Net has no such reader; install its package"
        raise SGNetError(problem) from error


def read_channel(path: Path, *, reader: str) -> Channel:
    """Read one file as the reader class `reader` of nnU-Net does, bit for bit, in any format that it reads.

    Returns:
        The voxels, shape (z, y, x) in the reader's order of axes, and the properties that nnU-Net's
        reader gives, as its writer needs them.

    Raises:
        InputFileError: If the file is damaged, is not 3D, or holds voxels that are not finite.
    """
    if reader in _NIBABEL_READERS:
        channel, properties = _as_nibabel_reader(path, reorient=reader == "NibabelIOWithReorient")
    else:
        if path.name.endswith(NIFTI_SUFFIXES):
            # ITK takes a truncated file for a whole one and leaves the rest of the image blank.
            _decode(path)
        with _one_line_errors(path):
            data, properties = reader_class(reader)().read_images((str(path),))
            if len(data) != 1:
                raise ValueError(f"{len(data)} channels in one file")
            channel = data[0]
    _check_finite(path, channel)
    return channel, properties


def read_channels(
    paths: Sequence[Path], *, reader: str, pool: Executor
) -> tuple[list[NDArray[np.float32]], dict[str, Any]]:
    """Read the files of a case, one a channel, in `pool`, each as by `read_channel`.

    Returns:
        The channels, each of shape (z, y, x), and the properties of the first.

    Raises:
        InputFileError: As for `read_channel`, or if a channel is on another grid than the first.
    """
    (first, properties), *others = pool.map(partial(read_channel, reader=reader), paths)
    for path, (channel, its) in zip(paths[1:], others, strict=True):
        if channel.shape != first.shape or not np.allclose(its["spacing"], properties["spacing"]):
            problem = (
                f"has {_grid_text(channel, its)}, but {paths[0].name} has {_grid_text(first, properties)}"
            )
            raise InputFileError(path, problem, "resample it onto the grid of the first channel")
        here, there = grid_of(channel.shape, its), grid_of(first.shape, properties)
        if here and there and not here.same_place_as(there):
            first_name = paths[0].name
            logger.warning(
                "%s: affine differs from that of %s; continuing, as nnU-Net does", path, first_name
            )
    return [first, *(channel for channel, _ in others)], properties


def _as_nibabel_reader(path: Path, *, reorient: bool) -> Channel:
    """Return what nnU-Net's readers by nibabel give, without their two copies in double precision."""
    image, voxels = _decode(path)
    _check_grid(path, image)
    affines = {"original_affine": image.affine}
    scaling = image.dataobj.slope, image.dataobj.inter
    stored = nib.Nifti1Image(voxels, image.affine, image.header)
    if reorient:
        stored = stored.as_reoriented(io_orientation(image.affine))
        affines["reoriented_affine"] = stored.affine
    spacing = [float(size) for size in stored.header.get_zooms()[::-1]]
    values = np.asanyarray(stored.dataobj).transpose()
    channel = np.empty(values.shape, dtype=np.float32)
    for plane, of_file in zip(channel, values, strict=True):
        plane[...] = of_file if scaling == (1, 0) else apply_read_scaling(of_file, *scaling)
    return channel, {"nibabel_stuff": affines, "spacing": spacing}


def _grid_text(channel: NDArray[np.float32], properties: dict[str, Any]) -> str:
    """Return the shape and spacing along z, y, x as text."""
    shape = " x ".join(str(length) for length in channel.shape)
    return f"{shape} voxels of {' x '.join(f'{size:g}' for size in properties['spacing'])} mm (z, y, x)"


def grid_of(shape: tuple[int, ...], properties: dict[str, Any]) -> Grid | None:
    """Return the grid that a reader's properties describe; None if they know no place in the world.

    The shape is z, y, x. ITK's world is LPS+: only grids of one reader can be compared.
    """
    shape = shape[::-1]
    if "nibabel_stuff" in properties:
        return Grid(shape, properties["nibabel_stuff"]["original_affine"])
    if "sitk_stuff" in properties:
        stuff = properties["sitk_stuff"]
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(stuff["direction"], (3, 3)) * stuff["spacing"]
        affine[:3, 3] = stuff["origin"]
        return Grid(shape, affine)
    return None


def _read_volume(path: Path) -> Volume:
    """Return the finite voxels, scaled if the file says so, and the affine of a 3D file."""
    image, values = _decode(path)
    _check_grid(path, image)
    scaling = image.dataobj.slope, image.dataobj.inter
    if scaling != (1, 0):
        values = apply_read_scaling(values, *scaling)
    _check_finite(path, values)
    return Volume(values, np.asarray(image.affine, dtype=np.float64))


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into an InputFileError of one line."""
    try:
        yield
    except _READ_ERRORS as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise InputFileError(path, f"cannot be read ({detail})", _COPY_AGAIN) from error


def _decode(path: Path) -> tuple[nib.Nifti1Image, NDArray[Any]]:
    """Return the nibabel image of an intact file, and its voxels as stored: unscaled and not copied.

    All of a gzip stream is read, so that its checksum is verified.
    """
    with _one_line_errors(path):
        content = path.read_bytes()
        raw = gzip.decompress(content) if content.startswith(_GZIP_MAGIC) else content
        if not raw:
            raise EOFError("the file is empty")
        is_nifti2 = nib.Nifti2Header.may_contain_header(raw)
        image = (nib.Nifti2Image if is_nifti2 else nib.Nifti1Image).from_bytes(raw)
        # Checked before anything of the size that the header asks for is reserved.
        proxy = image.dataobj
        announced = int(np.prod(proxy.shape, dtype=object)) * proxy.dtype.itemsize
        found = len(raw) - proxy.offset
        if announced > found:
            raise EOFError(f"truncated: {announced} bytes of voxels announced, {found} in the file")
        buffer = proxy.file_like.getbuffer()
        voxels: NDArray[Any] = np.ndarray(proxy.shape, proxy.dtype, buffer, offset=proxy.offset, order="F")
    if voxels.dtype.kind not in "iuf":
        problem = f"holds voxels of type {voxels.dtype}"
        raise InputFileError(path, problem, "convert it to one number per voxel")
    return image, voxels


def _check_grid(path: Path, image: nib.Nifti1Image) -> None:
    shape = " x ".join(str(length) for length in image.shape)
    if len(image.shape) != DIMENSIONS:
        problem = f"is {len(image.shape)}D ({shape}), 3D is needed"
        raise InputFileError(path, problem, "save the one volume that is meant as 3D")
    if min(image.shape) < 1:
        raise InputFileError(path, f"has no voxels ({shape})", _COPY_AGAIN)
    affine = image.affine
    if affine is None or not np.all(np.isfinite(affine)):
        raise InputFileError(path, "has an affine that is not finite", "fix the header's sform or qform")
    if abs(np.linalg.det(affine[:3, :3])) < SMALLEST_VOXEL_MM3:
        problem = "has a singular affine (voxels without volume)"
        raise InputFileError(path, problem, "fix the header's sform or qform")


def _check_finite(path: Path, values: NDArray[Any]) -> None:
    # The sum is not finite if a voxel is not, and takes no memory.
    if values.dtype.kind != "f" or np.isfinite(values.sum(dtype=np.float64)):
        return
    if bad := values.size - int(np.count_nonzero(np.isfinite(values))):
        problem = f"{bad} of {values.size} voxels are NaN or infinite"
        raise InputFileError(path, problem, "replace them, for instance by 0")


def _check_integers(path: Path, found: NDArray[Any]) -> NDArray[Any]:
    """Return the values found in a mask as the integers they must be, shape (n,) and sorted."""
    labels = np.rint(found)
    fractions = found[np.abs(found - labels) > INTEGER_TOLERANCE]
    if fractions.size:
        problem = f"mask holds fractional values such as {fractions[0]:g}"
        raise InputFileError(path, problem, "threshold it: a mask has integer labels")
    if labels.size and labels[0] < 0:
        problem = f"mask holds negative values such as {labels[0]:g}"
        raise InputFileError(path, problem, "set the background to 0 and the lesion to 1")
    return labels


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
    _check_finite(path, data)
    return data


def bounding_box(mask: NDArray[np.bool_]) -> Box:
    """Return the smallest box that contains every voxel of a 3D mask; empty if it has none."""
    hits = (np.flatnonzero(mask.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    i, j, k = (slice(int(axis[0]), int(axis[-1]) + 1) if axis.size else slice(0, 0) for axis in hits)
    return i, j, k
