"""The engine of an exported model, opened without PyTorch."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import read_json
from sgnet_nnunet.inference.engines import ChunkedEngine, Engine, Ensemble
from sgnet_nnunet.inference.runtimes import OpenVINORuntime, check_precision
from sgnet_nnunet.inference.sparse import BlockSparseEngine, stage_names
from sgnet_nnunet.networks.geometry import NetworkGeometry

logger = logging.getLogger(__name__)

FILE_NAME = "export.json"
FORMAT = "sgnet export"
VERSION = 1

_REMEDY = "write it anew with sgnet export"


@dataclass(frozen=True, kw_only=True)
class Export:
    """What `export.json` says.

    Attributes:
        folder: The exported folder.
        model: The data set's name and the model folder's.
        configuration: nnU-Net's configuration.
        background_head: Whether head 0 is the background.
        mirroring_axes: Spatial axes that may be mirrored, 0 for z.
        folds: The geometry of each fold's network, by the fold's name.
        weights_sha256: Checksum of the checkpoint that each fold was exported from; empty for folders of
            version 0.1.0.
    """

    folder: Path
    model: str
    configuration: str
    background_head: bool
    mirroring_axes: tuple[int, ...]
    folds: Mapping[str, NetworkGeometry]
    weights_sha256: Mapping[str, str]


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
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputFileError(path, f"lacks or garbles {error}", _REMEDY) from error


def open_exported(
    folder: Path,
    *,
    folds: tuple[str, ...] = (),
    precision: str = "f32",
    engine: str = "auto",
    max_memory: int | None = None,
) -> Engine:
    """Return the engine of an exported model; several folds are averaged.

    Args:
        folder: Written by `sgnet export`.
        folds: The folds; all by default.
        precision: `f32` or `bf16`.
        engine: `whole`, `sparse`, or `auto` for `sparse` where the gates allow it.
        max_memory: Bytes that the process may take in all; None for what is free.

    Raises:
        InputFileError: If a file is missing or damaged.
        SGNetError: If the network or this machine does not allow what is requested.
    """
    export = read_export(folder)
    requested = folds or tuple(export.folds)
    for fold in requested:
        if fold not in export.folds:
            raise InputFileError(
                folder, f"has no fold {fold}", f"it has {', '.join(export.folds)}; name one of them by -f"
            )
    engines = [
        _open_fold(export, fold, precision=precision, engine=engine, max_memory=max_memory)
        for fold in requested
    ]
    return engines[0] if len(engines) == 1 else Ensemble(engines)


def _open_fold(export: Export, fold: str, *, precision: str, engine: str, max_memory: int | None) -> Engine:
    geometry = export.folds[fold]
    if engine == "sparse" and not geometry.can_skip:
        raise SGNetError(
            "--engine sparse: the network has no nested hard spatial gate at every level of its decoder; "
            "use --engine auto"
        )
    skip = engine != "whole" and geometry.can_skip
    models = {path.stem: path for path in sorted((export.folder / f"fold_{fold}").glob("*.xml"))}
    for name in stage_names(geometry):
        if name not in models:
            raise InputFileError(export.folder / f"fold_{fold}", f"lacks {name}.xml", _REMEDY)
    check_precision(precision)
    runtime = OpenVINORuntime(models, precision=precision)
    logger.info("engine: %s, runtime: openvino, precision: %s", "sparse" if skip else "whole", precision)
    return ChunkedEngine(BlockSparseEngine(geometry, runtime, skip=skip), max_memory=max_memory)
