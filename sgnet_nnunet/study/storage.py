"""Images and masks on a disk, or on an S3-compatible store through Snakemake's storage plugin."""

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sgnet_nnunet.errors import SGNetError, needs_extra

_IMAGE = re.compile(r"([^.].*)_(\d{4})\.nii(\.gz)?", re.DOTALL)


def list_images(place: str) -> dict[str, list[str]]:
    """Return the images of each case of a folder, or of an S3 prefix, in the order of the channels.

    Raises:
        SGNetError: If the store cannot be reached.
    """
    if place.startswith("s3://"):
        paths = _list_store(place)
    else:
        with os.scandir(place) as entries:
            paths = sorted(entry.path for entry in entries)
    cases: dict[str, list[str]] = {}
    for path in paths:
        if match := _IMAGE.fullmatch(path.rpartition("/")[2]):
            cases.setdefault(match[1], []).append(path)
    return cases


def _list_store(prefix: str) -> list[str]:
    place = prefix.rstrip("/")
    bucket = place.removeprefix("s3://").partition("/")[0]
    objects = _objects([f"{place}/{{name}}"], Path("study/remote"))
    try:
        keys = objects[0].s3bucket().objects.filter(Prefix=place.removeprefix(f"s3://{bucket}").lstrip("/"))
        return sorted(f"s3://{bucket}/{each.key}" for each in keys)
    except Exception as error:
        raise _unreachable(prefix, error) from error


def fetch(paths: Iterable[str], folder: Path) -> None:
    """Copy objects of a store into a folder, those that are there already aside."""
    folder.mkdir(parents=True, exist_ok=True)
    for found in _objects(paths, folder / ".remote"):
        target = folder / found.key.rpartition("/")[2]
        if target.is_file():
            continue
        try:
            found.local_path().parent.mkdir(parents=True, exist_ok=True)
            found.retrieve_object()
            found.local_path().replace(target)
        except Exception as error:
            raise _unreachable(found.query, error) from error


def store(files: Iterable[Path], prefix: str, folder: Path) -> None:
    """Copy files to a prefix of a store; they are linked into a folder meanwhile."""
    for file in files:
        (found,) = _objects([f"{prefix}/{file.name}"], folder)
        local = found.local_path()
        local.parent.mkdir(parents=True, exist_ok=True)
        local.unlink(missing_ok=True)
        local.symlink_to(file.absolute())
        try:
            found.store_object()
        except Exception as error:
            raise _unreachable(found.query, error) from error
        local.unlink()


def _unreachable(place: str, error: Exception) -> SGNetError:
    detail = " ".join(str(error).split())
    return SGNetError(
        f"{place}: the store cannot be used ({detail}); check SNAKEMAKE_STORAGE_S3_ENDPOINT_URL, "
        "SNAKEMAKE_STORAGE_S3_ACCESS_KEY and SNAKEMAKE_STORAGE_S3_SECRET_KEY"
    )


def _objects(queries: Iterable[str], folder: Path) -> list[Any]:
    """Return the storage plugin's objects; its settings come from the variables that Snakemake reads."""
    with needs_extra("study"):
        from snakemake_storage_plugin_s3 import StorageProvider, StorageProviderSettings  # noqa: PLC0415
    names = ("endpoint_url", "region", "access_key", "secret_key", "token")
    given = {name: os.environ.get(f"SNAKEMAKE_STORAGE_S3_{name.upper()}") for name in names}
    settings = StorageProviderSettings(**{name: value for name, value in given.items() if value})
    provider = StorageProvider(folder, logging.getLogger(__name__), settings=settings)
    return [provider.object(query) for query in queries]
