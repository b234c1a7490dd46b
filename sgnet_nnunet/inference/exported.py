"""The engine of an exported model, opened without PyTorch."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import checksum_of, read_json
from sgnet_nnunet.inference.engines import NOT_SPARSE, ChunkedEngine, Engine, average_of
from sgnet_nnunet.inference.runtimes import OpenVINORuntime, check_precision
from sgnet_nnunet.inference.sparse import BlockSparseEngine, stage_names
from sgnet_nnunet.networks.geometry import NetworkGeometry

logger = logging.getLogger(__name__)

FILE_NAME = "export.json"
FORMAT = "sgnet export"
VERSION = 1

_REMEDY = "write it again with sgnet export"


@dataclass(frozen=True, kw_only=True)
class Export:
    """What `export.json` says.

    Attributes:
        folder: The exported folder.
        model: The data set's name and the model folder's.
        configuration: nnU-Net's configuration.
        background_head: Whether head 0 is the background.
        mirroring_axes: Spatial axes that may be mirrored, 0 for z.
        folds: The geometry of each fold's network.
        weights_sha256: Checksum of each fold's checkpoint; empty for folders of version 0.1.0.
        files_sha256: Checksum of each network's files, by their paths in the folder; empty for old folders.
    """

    folder: Path
    model: str
    configuration: str
    background_head: bool
    mirroring_axes: tuple[int, ...]
    folds: Mapping[str, NetworkGeometry]
    weights_sha256: Mapping[str, str]
    files_sha256: Mapping[str, str]


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
    if content.get("format") != FORMAT:
        raise InputFileError(path, "is not a file of sgnet export", "name an exported folder")
    if content.get("version") != VERSION:
        raise InputFileError(path, f"has version {content.get('version')}, not {VERSION}", _REMEDY)
    try:
        return Export(
            folder=folder,
            model=content["model"],
            configuration=content["configuration"],
            background_head=content["background_head"],
            mirroring_axes=tuple(content["mirroring_axes"]),
            folds={name: NetworkGeometry.from_dict(values) for name, values in content["folds"].items()},
            weights_sha256=content.get("weights_sha256", {}),
            files_sha256=dict(content.get("files_sha256", {})),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputFileError(path, f"lacks or garbles {error}", _REMEDY) from error


def choose_exported_engine(export: Export, folds: Sequence[str], requested: str) -> str:
    """Return the name of the engine that `open_exported` opens: `sparse` or `whole`.

    Raises:
        InputFileError: If a fold was not exported.
        SGNetError: If a network does not allow what is requested.
    """
    for fold in folds:
        if fold not in export.folds:
            remedy = f"it has {', '.join(export.folds)}; name one of them by -f"
            raise InputFileError(export.folder, f"has no fold {fold}", remedy)
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
    name = choose_exported_engine(export, folds, engine)
    check_precision(precision)
    engines: list[Engine] = []
    for fold in folds:
        own = folder / f"fold_{fold}"
        sparse = open_network(own, export.folds[fold], skip=name == "sparse", precision=precision)
        for file, checksum in export.files_sha256.items():
            if (path := folder / file).parent == own and checksum_of(path) != checksum:
                raise InputFileError(path, "is not the file that sgnet export wrote", _REMEDY)
        engines.append(ChunkedEngine(sparse, max_memory=max_memory))
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
