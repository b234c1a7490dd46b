"""The engine of an exported model, opened without PyTorch."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from sgnet_nnunet import former_names
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import checksum_of, read_json
from sgnet_nnunet.inference.engines import NOT_SPARSE, ChunkedEngine, Engine, average_of
from sgnet_nnunet.inference.runtimes import OpenVINORuntime, check_precision
from sgnet_nnunet.inference.sparse import BlockSparseEngine, stage_names
from sgnet_nnunet.networks.geometry import NetworkGeometry
from sgnet_nnunet.schemas import Axis, Checksum, Header, check

logger = logging.getLogger(__name__)

FILE_NAME = "export.json"
FORMAT = "sgnet export"
VERSION = 1

_REMEDY = "write it again with sgnet export"
_LARGEST_XML = 1 << 26
"""Bytes of a network's description; SG-Net's largest stage takes less than a thousandth."""

_Fold = Annotated[str, Meta(pattern=r"^(\d+|all)$")]
_Listed = Annotated[str, Meta(pattern=r"^(fold_(\d+|all)/)?\w[\w-]*(\.\w+)+$")]


@dataclass(frozen=True, kw_only=True)
class Export:
    """What `export.json` says.

    Attributes:
        model: The data set's name and the model folder's.
        configuration: nnU-Net's configuration.
        background_head: Whether head 0 is the background.
        mirroring_axes: Spatial axes that may be mirrored, 0 for z.
        folds: The geometry of each fold's network.
        weights_sha256: Checksum of each fold's checkpoint; empty for folders of version 0.1.0.
        files_sha256: Checksum of each file, by its path in the folder; empty for folders of version 0.1.0.
        content_sha256: Checksum of all this, see `content_checksum`; None for such folders.
    """

    model: str
    configuration: str
    background_head: bool
    mirroring_axes: tuple[Axis, ...]
    folds: Annotated[Mapping[_Fold, NetworkGeometry], Meta(min_length=1)]
    weights_sha256: Mapping[_Fold, Checksum] = field(default_factory=dict)
    files_sha256: Mapping[_Listed, Checksum] = field(default_factory=dict)
    content_sha256: Checksum | None = None


def is_exported(folder: Path) -> bool:
    """Whether a folder is one of `sgnet export`."""
    return (folder / FILE_NAME).is_file()


def read_export(folder: Path) -> Export:
    """Read what `export.json` says.

    Raises:
        InputFileError: If the file cannot be read or is not what `sgnet export` writes.
    """
    path = folder / FILE_NAME
    content = read_json(path, remedy=_REMEDY)
    header = check(path, content, Header, remedy=_REMEDY)
    if header.format != FORMAT:
        raise InputFileError(path, "is not a file of sgnet export", "name an exported folder")
    if header.version != VERSION:
        raise InputFileError(path, f"has version {header.version}, not {VERSION}", _REMEDY)
    export = check(path, former_names.present_geometry(content), Export, remedy=_REMEDY)
    if export.files_sha256 and export.content_sha256 != content_checksum(content):
        raise InputFileError(path, "is not as sgnet export wrote it", _REMEDY)
    return export


def content_checksum(content: Mapping[str, Any]) -> str:
    """Return the checksum of what `export.json` holds, its own `content_sha256` aside."""
    others = {key: value for key, value in content.items() if key != "content_sha256"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def check_file(folder: Path, export: Export, name: str) -> None:
    """Raise an InputFileError if a file of an exported folder is not the one that `sgnet export` wrote."""
    path, checksum = folder / name, export.files_sha256.get(name)
    if path.suffix == ".xml" and path.is_file() and path.stat().st_size > _LARGEST_XML:
        raise InputFileError(path, f"is larger than {_LARGEST_XML >> 20} MB", _REMEDY)
    if export.files_sha256 and (not path.is_file() or checksum_of(path) != checksum):
        raise InputFileError(path, "is not the file that sgnet export wrote", _REMEDY)


def choose_exported_engine(folder: Path, export: Export, folds: Sequence[str], requested: str) -> str:
    """Return the name of the engine that `open_exported` opens: `sparse` or `whole`.

    Raises:
        InputFileError: If a fold was not exported.
        SGNetError: If a network does not allow what is requested.
    """
    for fold in folds:
        if fold not in export.folds:
            remedy = f"it has {', '.join(export.folds)}; name one of them by -f"
            raise InputFileError(folder, f"has no fold {fold}", remedy)
    can_skip = all(export.folds[fold].can_skip for fold in folds)
    if requested == "sparse" and not can_skip:
        raise SGNetError(f"--engine sparse: the network {NOT_SPARSE}")
    return "sparse" if can_skip and requested != "whole" else "whole"


def open_exported(
    folder: Path,
    *,
    folds: Sequence[str] = (),
    precision: str = "f32",
    engine: str = "auto",
    max_memory: int | None = None,
) -> Engine:
    """Return the engine of a folder of `sgnet export`; several folds, all by default, are averaged.

    The engine is `whole`, `sparse`, or `auto` for `sparse` where the gates allow it; `max_memory` is the
    number of bytes that the process may take in all, None for what is free.

    Raises:
        InputFileError: If a file is missing or damaged, or not the one that was exported.
        SGNetError: If the network or this machine does not allow what is requested.
    """
    export = read_export(folder)
    folds = folds or tuple(export.folds)
    name = choose_exported_engine(folder, export, folds, engine)
    check_precision(precision)
    engines: list[Engine] = []
    for fold in folds:
        for stage in stage_names(export.folds[fold]):
            for suffix in ("xml", "bin"):
                check_file(folder, export, f"fold_{fold}/{stage}.{suffix}")
        own = folder / f"fold_{fold}"
        sparse = open_network(own, export.folds[fold], skip=name == "sparse", precision=precision)
        engines.append(ChunkedEngine(sparse, max_memory=max_memory))
    if not export.files_sha256:
        logger.warning("%s: written without checksums: changed files are not detected; %s", folder, _REMEDY)
    logger.info("engine: %s, runtime: openvino, precision: %s", name, precision)
    return average_of(engines)


def open_network(
    folder: Path, geometry: NetworkGeometry, *, skip: bool, precision: str = "f32"
) -> BlockSparseEngine:
    """Return the engine of an exported fold's folder, with these gates; a file not there is an error."""
    models = {stage: folder / f"{stage}.xml" for stage in stage_names(geometry)}
    for path in models.values():
        if not path.is_file():
            raise InputFileError(folder, f"lacks {path.name}", _REMEDY)
    return BlockSparseEngine(geometry, OpenVINORuntime(models, precision=precision), skip=skip)
