"""Read, check and write images: every NIfTI file that the package reads is decoded and checked here.

`read_image`, `read_mask` and `read_labels` give arrays in the file's order of axes; `read_channels` gives
what nnU-Net's own reader classes give. All go through `_decode`, and take the affine from `_locate`.
"""

import gzip
import logging
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError
from numpy.typing import ArrayLike, NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import atomic_path, check_memory, check_voxels, open_stream, read_announced
from sgnet_nnunet.nnunet import NIFTI_SUFFIXES

if TYPE_CHECKING:
    from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

logger = logging.getLogger(__name__)

DIMENSIONS = 3

SMALLEST_VOXEL_MM3 = 1e-9
"""Below it an affine is singular: no scanner resolves a micrometre."""

LARGEST_SHIFT = 0.1
"""Share of a voxel by which two equal grids may differ: writers round affines, some by 1e-3 mm."""

LARGEST_DISAGREEMENT = 0.5
"""Voxels by which a header's qform and sform may differ: beyond it they name different voxels."""

SHORTEST_MM, FURTHEST_MM = 1.0, 1e5
"""Longest side of an image, and its distance from the origin: beyond them the header's unit is wrong."""

INTEGER_TOLERANCE = 1e-3
"""Distance from an integer that a label may have: masks with a scale factor come back as 1.0000001."""

SIZE_TOLERANCE = 1e-5
"""Relative: a header keeps 1 mm as 1.0000001, and a voxel of a rotated grid has 0.9999999 mm3."""

_COPY_AGAIN = "copy or download it again"
_FIX_HEADER = "fix its header, or convert the scan to NIfTI again"
_READ_ERRORS = (
    *(OSError, EOFError, RuntimeError, AssertionError, ValueError, TypeError, ArithmeticError, LookupError),
    *(zlib.error, HeaderDataError, WrapStructError),
)


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxel grid of an array in world coordinates; it may be rotated, flipped or sheared.

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

    def millimetres(self, indices: NDArray[np.number]) -> NDArray[np.float64]:
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
    return gzip.compress(_image_of(volume).to_bytes(), compresslevel=6, mtime=0)


def _image_of(volume: Volume) -> nib.Nifti1Image:
    image = nib.Nifti1Image(volume.data, volume.affine)
    image.header.set_xyzt_units("mm")
    return image


def read_image(path: Path) -> Volume:
    """Read a 3D image from a NIfTI-1 or NIfTI-2 file, gzip-compressed or not.

    An integer type is kept (64 bits become 32 where the values fit); everything else, scaled integers
    included, becomes float32.

    Raises:
        InputFileError: The file cannot be read, is truncated, is not 3D, has no voxels, an affine that
            is singular or in doubt, voxels that are not finite in float32, or the same value everywhere.
    """
    volume = _read_volume(path)
    data = _as_storable(volume.data)
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
    labels = check_integers(path, np.unique(volume.data))
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
    check_integers(path, values_in(volume.data))
    if volume.data.dtype.kind == "f":
        return Volume(np.rint(volume.data).astype(np.int32), volume.affine)
    return volume


def read_header(path: Path) -> nib.Nifti1Header:
    """Return a NIfTI file's header as it is, without its extensions; the file may be compressed or not.

    Raises:
        InputFileError: If the file is no NIfTI file.
    """
    with _one_line_errors(path), open_stream(path) as (stream, _):
        return _header_of(stream.read(nib.Nifti2Header.sizeof_hdr))


def have_orientation(paths: Sequence[Path]) -> bool:
    """Return whether the headers of the images of one patient have a qform or a sform: all of them, or none.

    Without one nibabel, and so this package, lets x run to the left, and ITK to the right.

    Raises:
        InputFileError: If some have one and others have not: they cannot be laid over each other.
    """
    headers = {path: read_header(path) for path in paths if path.name.endswith(NIFTI_SUFFIXES)}
    without = [path for path, header in headers.items() if not header["sform_code"] | header["qform_code"]]
    if without and len(without) < len(paths):
        other = next(path for path in paths if path not in without)
        problem = f"has no orientation (qform_code and sform_code are 0), but {other.name} has one"
        raise InputFileError(without[0], problem, _FIX_HEADER)
    return not without


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
        channel, properties = _by_nnunets_class(path, reader_class(reader)())
    _check_finite(path, channel)
    return channel, properties


def read_channels(
    paths: Sequence[Path], *, reader: str, pool: Executor
) -> tuple[list[NDArray[np.float32]], dict[str, Any]]:
    """Read the files of a case, one a channel, in `pool`, each as by `read_channel`.

    Returns:
        The channels, each of shape (z, y, x), and the properties of the first.

    Raises:
        InputFileError: As for `read_channel` and `have_orientation`, or if the channels' grids differ.
    """
    (first, properties), *others = pool.map(partial(read_channel, reader=reader), paths)
    name = paths[0].name
    if not have_orientation(paths):
        logger.warning("%s: qform_code and sform_code are 0; its x axis counts as running to the left", name)
    for path, (channel, its) in zip(paths[1:], others, strict=True):
        if channel.shape != first.shape or not np.allclose(its["spacing"], properties["spacing"]):
            problem = f"has {_grid_text(channel, its)}, but {name} has {_grid_text(first, properties)}"
            raise InputFileError(path, problem, "resample it onto the grid of the first channel")
        here, there = grid_of(channel.shape, its), grid_of(first.shape, properties)
        if here and there and not here.same_place_as(there):
            logger.warning("%s: affine differs from that of %s; continuing, as nnU-Net does", path, name)
    return [first, *(channel for channel, _ in others)], properties


def _as_nibabel_reader(path: Path, *, reorient: bool) -> Channel:
    """Return what nnU-Net's readers by nibabel give, without their two copies in double precision."""
    stored = _decode(path)
    kind, header = (nib.Nifti1Image, stored.header) if stored.is_plain else (nib.Nifti2Image, None)
    image = kind(stored.voxels, stored.affine, header, dtype=stored.voxels.dtype)
    affines = {"original_affine": image.affine}
    if reorient:
        image = image.as_reoriented(io_orientation(image.affine))
        affines["reoriented_affine"] = image.affine
    spacing = [float(size) for size in image.header.get_zooms()[::-1]]
    channel = np.empty(image.shape[::-1], dtype=np.float32)
    with np.errstate(over="ignore"):
        for plane, of_file in zip(channel, np.asanyarray(image.dataobj).transpose(), strict=True):
            plane[...] = stored.scaled(of_file)
    return channel, {"nibabel_stuff": affines, "spacing": spacing}


def _by_nnunets_class(path: Path, reader: "BaseReaderWriter") -> Channel:
    with _one_line_errors(path), TemporaryDirectory() as folder:
        source = path
        if path.name.endswith((*NIFTI_SUFFIXES, ".hdr", ".img")):
            # ITK accepts truncated files, reads NaN as 0, and does not read NIfTI-2.
            stored = _decode(path)
            _check_finite(path, stored.voxels)
            if not stored.is_plain:
                source = Path(folder) / "image.nii"
                volume = _read_volume(path)
                write_volume(source, Volume(_as_storable(volume.data), volume.affine))
        else:
            check_voxels(path)
        data, properties = reader.read_images((str(source),))
        if len(data) != 1 or len(properties.get("sitk_stuff", properties)["spacing"]) != DIMENSIONS:
            raise ValueError(f"{len(data)} channels in one file, or not 3D")
    return data[0], properties


def _grid_text(channel: NDArray[np.float32], properties: dict[str, Any]) -> str:
    """Return the shape and spacing along z, y, x as text."""
    shape = " x ".join(str(length) for length in channel.shape)
    return f"{shape} voxels of {' x '.join(f'{size:g}' for size in properties['spacing'])} mm (z, y, x)"


def grid_of(shape: tuple[int, ...], properties: dict[str, Any]) -> Grid | None:
    """Return the grid that a reader's properties describe; None if they know no place in the world.

    The shape is z, y, x. ITK's world is LPS+: only grids of one reader can be compared.
    """
    if "nibabel_stuff" in properties:
        # The affine after reorienting, if there is one, is the last.
        return Grid(shape[::-1], [*properties["nibabel_stuff"].values()][-1])
    if "sitk_stuff" in properties:
        stuff = properties["sitk_stuff"]
        steps = np.reshape(stuff["direction"], (3, 3)) * stuff["spacing"]
        return Grid(shape[::-1], from_matvec(steps, stuff["origin"]))
    return None


def _read_volume(path: Path) -> Volume:
    """Return the finite voxels, scaled if the file says so, and the affine of a 3D file."""
    stored = _decode(path)
    values = stored.scaled(stored.voxels)
    _check_finite(path, values)
    return Volume(values, stored.affine)


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a reader into an InputFileError of one line."""
    try:
        yield
    except _READ_ERRORS as error:
        detail = " ".join(str(getattr(error, "strerror", "") or error).split()) or type(error).__name__
        raise InputFileError(path, f"cannot be read ({detail})", _COPY_AGAIN) from error


class _Stored(NamedTuple):
    """An intact NIfTI file: its voxels (x, y, z) as stored, and the affine of `_locate`.

    It `is_plain` NIfTI-1 if ITK and nibabel, which prefer different fields, find this affine in it.
    """

    header: nib.Nifti1Header
    voxels: NDArray[Any]
    affine: NDArray[np.float64]
    is_plain: bool

    def scaled(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return stored values with the header's slope and intercept."""
        with np.errstate(over="ignore"):
            return np.asarray(apply_read_scaling(values, *self.header.get_slope_inter()))


def _decode(path: Path) -> _Stored:
    """Read a file. All of a gzip stream is read, so that its checksum is verified."""
    with _one_line_errors(path), open_stream(path) as (stream, most):
        header = _header_of(stream.read(nib.Nifti2Header.sizeof_hdr))
        dtype, offset, shape = header.get_data_dtype(), header.get_data_offset(), _shape_of(path, header)
        # Checked before anything of the size that the header asks for is reserved.
        voxels = int(np.prod(shape, dtype=object))
        if (announced := voxels * dtype.itemsize) > most - offset:
            raise EOFError(f"truncated: {announced} bytes of voxels announced, at most {most - offset} found")
        check_memory(path, offset + announced, voxels=voxels)
        stream.seek(0)
        content = read_announced(stream, offset + announced)
        stored: NDArray[Any] = np.ndarray(shape, dtype, content, offset, order="F")
        # ITK treats a tiny slope as none, and applies an offset without a slope, which NIfTI does not.
        slope, _ = header.get_slope_inter()
        scales_alike = header["scl_inter"] == 0 if slope is None else abs(slope) > np.finfo(float).eps
    try:
        affine, is_plain = _locate(header, shape)
    except ValueError as error:
        raise InputFileError(path, str(error), _FIX_HEADER) from error
    return _Stored(header, stored, affine, is_plain and bool(scales_alike))


def _shape_of(path: Path, header: nib.Nifti1Header) -> tuple[int, ...]:
    """Return the number of voxels along x, y and z; refuse what is not 3D, or not one number a voxel."""
    shape = tuple(map(int, header["dim"][1 : int(header["dim"][0]) + 1]))
    while len(shape) > DIMENSIONS and shape[-1] == 1:
        shape = shape[:-1]
    listed = " x ".join(map(str, shape))
    if len(shape) != DIMENSIONS:
        raise InputFileError(path, f"is {len(shape)}D ({listed}), 3D is needed", "save one volume as 3D")
    if min(shape) < 1:
        raise InputFileError(path, f"has no voxels ({listed})", _COPY_AGAIN)
    if (dtype := header.get_data_dtype()).kind not in "iuf":
        raise InputFileError(path, f"holds voxels of type {dtype}", "convert it to one number per voxel")
    return shape


def _header_of(raw: bytes) -> nib.Nifti1Header:
    """Return the header as it is: nibabel would replace invalid fields by its defaults."""
    kind = nib.Nifti2Header if nib.Nifti2Header.may_contain_header(raw) else nib.Nifti1Header
    header = kind(raw[: kind.sizeof_hdr].ljust(kind.sizeof_hdr, b"\0"), check=False)
    if header["magic"].item() != kind.single_magic:
        raise ValueError("no NIfTI file; convert Analyze 7.5, or a pair of .hdr and .img, to .nii.gz")
    offset, slope = header["vox_offset"], header["scl_slope"]
    if not offset >= kind.single_vox_offset or np.isinf(slope):
        raise ValueError(f"has the vox_offset {offset:g} and the scl_slope {slope:g}")
    return header


def _check_fields(header: nib.Nifti1Header) -> None:
    """Raise a ValueError for fields that nibabel and ITK would each replace by something else."""
    sform, qform, (qfac, *sizes) = int(header["sform_code"]), int(header["qform_code"]), header["pixdim"][:4]
    if not {sform, qform} <= {*range(6)}:
        raise ValueError(f"has the sform_code {sform} and the qform_code {qform}")
    if (qform or not sform) and not (np.isfinite(sizes).all() and min(sizes) > 0):
        raise ValueError(f"has voxels of {' x '.join(f'{size:g}' for size in sizes)} mm (pixdim)")
    if qform and not (qfac >= 0 or qfac == -1):
        raise ValueError(f"has the pixdim[0] {qfac:g}, not 1 or -1")
    quaternion = [float(header[f"quatern_{axis}"]) for axis in "bcd"]
    if qform and not np.linalg.norm(quaternion) < 1 + abs(header.quaternion_threshold):
        raise ValueError("has a qform that is no rotation")
    header["pixdim"][0] = -1 if qfac == -1 else 1


def _locate(header: nib.Nifti1Header, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], bool]:
    """Return the affine to world mm that a header gives, and whether every reader finds it there.

    The sform's, else the qform's; without both, the one that nibabel makes of the size of the voxels.
    A ValueError is raised if it is unusable or in doubt.
    """
    _check_fields(header)
    # NIfTI's codes of metre and micrometre; all others count as mm, as in ITK.
    mm = {1: 1e3, 3: 1e-3}.get(int(header["xyzt_units"]) & 7, 1.0)
    affine = header.get_best_affine() * [[mm], [mm], [mm], [1]]
    rotated = header.get_qform() * [[mm], [mm], [mm], [1]] if header["qform_code"] else affine
    if not np.all(np.isfinite([affine, rotated])):
        raise ValueError("has an affine that is not finite")
    if abs(np.linalg.det(affine[:3, :3])) < SMALLEST_VOXEL_MM3:
        raise ValueError("has a singular affine (voxels without volume)")
    grid = Grid(shape, affine)
    longest, furthest = grid.extent.max(), np.abs(grid.bounds()).max()
    if longest < SHORTEST_MM or furthest > FURTHEST_MM:
        raise ValueError(f"is {longest:g} mm long, up to {furthest:g} mm off the origin (see xyzt_units)")
    # In voxels, whose sides may differ by a factor of ten.
    apart = np.abs(apply_affine(np.linalg.solve(affine, rotated), grid.corners) - grid.corners).max()
    if apart > LARGEST_DISAGREEMENT:
        raise ValueError(f"has a qform and a sform that are up to {apart:.3g} voxels apart")
    is_coded = bool(header["sform_code"] or header["qform_code"]) and header["dim"][0] == DIMENSIONS
    agrees = Grid(shape, rotated).same_place_as(grid) and np.allclose(header["pixdim"][1:4], grid.spacing)
    return affine, is_coded and bool(agrees) and not isinstance(header, nib.Nifti2Header)


def _check_finite(path: Path, values: NDArray[Any]) -> None:
    """Refuse voxels that are not finite in single precision, in which networks compute."""
    largest = np.finfo(np.float32).max
    # Both are NaN if a voxel is, and allocate no array.
    if values.dtype.kind != "f" or (-largest <= values.min() and values.max() <= largest):
        return
    bad = values.size - int(np.count_nonzero(np.abs(values) <= largest))
    raise InputFileError(path, f"{bad} of {values.size} voxels are NaN or infinite", "replace them by 0")


def check_integers(path: Path, found: NDArray[Any]) -> NDArray[Any]:
    """Return the values found in a mask as integers, shape (n,) and sorted; others are an InputFileError."""
    labels = np.rint(found)
    fractions = found[np.abs(found - labels) > INTEGER_TOLERANCE]
    if fractions.size:
        problem = f"mask holds fractional values such as {fractions[0]:g}"
        raise InputFileError(path, problem, "threshold it: a mask has integer labels")
    if labels.size and (labels[0] < 0 or float(labels[-1]) > np.iinfo(np.int32).max):
        kind, value = ("negative", labels[0]) if labels[0] < 0 else ("huge", labels[-1])
        problem = f"mask holds {kind} values such as {value:g}"
        raise InputFileError(path, problem, "set the background to 0 and the lesion to 1")
    return labels


def _as_storable(values: NDArray[Any]) -> NDArray[Any]:
    """Return the voxels in a type that every NIfTI reader knows."""
    dtype = values.dtype.newbyteorder("=")
    if dtype.kind in "iu" and dtype.itemsize == 8:  # noqa: PLR2004
        limits = np.iinfo(np.int32)
        fits = limits.min <= values.min() and values.max() <= limits.max
        dtype = np.dtype(np.int32 if fits else np.float32)
    elif dtype.kind == "f":
        dtype = np.dtype(np.float32)
    return values.astype(dtype, copy=False)
