"""Images in: what nnU-Net's readers give, sooner and in less memory for NIfTI files."""

import gzip
import logging
import struct
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import io_orientation
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.io.read import GZIP_MAGIC, NIFTI2_HEADER_SIZE

logger = logging.getLogger(__name__)

NIBABEL_READERS = ("NibabelIO", "NibabelIOWithReorient")

MODULES = {
    **dict.fromkeys(NIBABEL_READERS, "nnunetv2.imageio.nibabel_reader_writer"),
    "SimpleITKIO": "nnunetv2.imageio.simpleitk_reader_writer",
    "SimpleITKIOWithReorient": "nnunetv2.imageio.simpleitk_reader_writer",
    "Tiff3DIO": "nnunetv2.imageio.tif_reader_writer",
}
"""Where nnU-Net's classes for 3D images are; its own look-up imports every one of them."""

DIMENSIONS = 3
_REMEDY = "copy it again, and go on with --continue_prediction"
_READ_ERRORS = (
    *(OSError, EOFError, RuntimeError, AssertionError, ValueError, TypeError, ArithmeticError),
    *(zlib.error, struct.error, ImageFileError, HeaderDataError, WrapStructError),
)

Channel = tuple[NDArray[np.float32], dict[str, Any]]


def reader_class(name: str) -> type[BaseReaderWriter]:
    """Return nnU-Net's class that reads images and writes masks.

    Raises:
        SGNetError: If it is none of nnU-Net's for 3D images.
    """
    if name not in MODULES or not hasattr(module := import_module(MODULES[name]), name):
        known = ", ".join(MODULES)
        raise SGNetError(f"image_reader_writer {name}: not a reader of 3D images known here ({known})")
    found: type[BaseReaderWriter] = getattr(module, name)
    return found


def read_channels(
    paths: Sequence[Path], *, reader: str, pool: Executor
) -> tuple[list[NDArray[np.float32]], dict[str, Any]]:
    """Read a case.

    Args:
        paths: Its files, one a channel.
        reader: Name of nnU-Net's reader class.
        pool: Where to read the files in.

    Returns:
        The channels, each of shape (z, y, x) in the reader's order of axes, and the properties that
        nnU-Net's reader gives, as its writer needs them: those of the first channel.

    Raises:
        InputFileError: If a file is damaged, holds voxels that are not finite, or is on another grid
            than the first.
    """
    read = _read_nifti if reader in NIBABEL_READERS else _read_any
    channels = list(pool.map(lambda path: _read_safely(read, path, reader), paths))
    (first, properties), *others = channels
    for path, (channel, its) in zip(paths[1:], others, strict=True):
        if channel.shape != first.shape or not np.allclose(its["spacing"], properties["spacing"]):
            raise InputFileError(
                path,
                f"has {_grid(channel, its)}, but {paths[0].name} has {_grid(first, properties)}",
                "resample it onto the grid of the first channel",
            )
        if not _same_place(its, properties):
            logger.warning("%s: lies elsewhere in the world than %s; go on as nnU-Net", path, paths[0].name)
    return [channel for channel, _ in channels], properties


def _read_safely(read: Callable[[Path, str], Channel], path: Path, reader: str) -> Channel:
    try:
        channel, properties = read(path, reader)
    except _READ_ERRORS as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise InputFileError(path, f"cannot be read ({detail})", _REMEDY) from error
    # The sum is not finite if a voxel is not, and takes no memory.
    if not np.isfinite(channel.sum(dtype=np.float64)):
        raise InputFileError(path, "holds voxels that are NaN or infinite", "replace them, for instance by 0")
    return channel, properties


def _read_any(path: Path, reader: str) -> Channel:
    if path.suffix == ".gz":
        # ITK takes a truncated stream for a whole one, and leaves the rest of the image blank.
        gzip.decompress(path.read_bytes())
    data, properties = reader_class(reader)().read_images((str(path),))
    if len(data) != 1:
        raise ValueError(f"{len(data)} channels in one file")
    return data[0], properties


def _read_nifti(path: Path, reader: str) -> Channel:
    """Return what nnU-Net's readers by nibabel give, without their two copies in double precision."""
    image = _parse(path.read_bytes())
    affines = {"original_affine": image.affine}
    scaling = image.dataobj.slope, image.dataobj.inter
    stored = nib.Nifti1Image(_stored(image), image.affine, image.header)
    if reader == "NibabelIOWithReorient":
        stored = stored.as_reoriented(io_orientation(image.affine))
        affines["reoriented_affine"] = stored.affine
    spacing = [float(size) for size in stored.header.get_zooms()[::-1]]
    values = np.asanyarray(stored.dataobj).transpose()
    channel = np.empty(values.shape, dtype=np.float32)
    for plane, of_file in zip(channel, values, strict=True):
        plane[...] = of_file if scaling == (1, 0) else apply_read_scaling(of_file, *scaling)
    return channel, {"nibabel_stuff": affines, "spacing": spacing}


def _parse(content: bytes) -> nib.Nifti1Image:
    """Return the nibabel image; all of a gzip stream is read, so that its checksum is verified."""
    raw = gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content
    is_nifti2 = NIFTI2_HEADER_SIZE in (int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big"))
    return (nib.Nifti2Image if is_nifti2 else nib.Nifti1Image).from_bytes(raw)


def _stored(image: nib.Nifti1Image) -> NDArray[Any]:
    """Return the voxels as the file has them, shape (x, y, z), unscaled and not copied."""
    proxy = image.dataobj
    if len(proxy.shape) != DIMENSIONS:
        raise ValueError(f"is {len(proxy.shape)}D, 3D is needed")
    if proxy.dtype.kind not in "iuf":
        raise ValueError(f"holds voxels of type {proxy.dtype}, one number per voxel is needed")
    buffer = proxy.file_like.getbuffer()
    needed = proxy.offset + int(np.prod(proxy.shape, dtype=object)) * proxy.dtype.itemsize
    if needed > len(buffer):
        raise EOFError(f"truncated: {needed} bytes announced, {len(buffer)} in the file")
    return np.ndarray(proxy.shape, proxy.dtype, buffer, offset=proxy.offset, order="F")


def _grid(channel: NDArray[np.float32], properties: dict[str, Any]) -> str:
    """Return a grid in words, along z, y, x."""
    shape = " x ".join(str(length) for length in channel.shape)
    return f"{shape} voxels of {' x '.join(f'{size:g}' for size in properties['spacing'])} mm (z, y, x)"


def _same_place(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether all that two readings know of the world agrees."""
    for stuff in ("nibabel_stuff", "sitk_stuff"):
        for key, value in one.get(stuff, {}).items():
            if not isinstance(value, str) and not np.allclose(value, other[stuff][key]):
                return False
    return True
