"""Images and masks on a disk, or on an S3-compatible store through Snakemake's storage plugin."""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sgnet_nnunet.errors import SGNetError, needs_extra

_IMAGE = re.compile(r"([^.].*)_(\d{4})\.nii(\.gz)?", re.DOTALL)
_SETTINGS = ("endpoint_url", "region", "access_key", "secret_key", "token")


def list_images(place: str) -> dict[str, list[str]]:
    """Return the images of each case of a folder, or of an S3 prefix, in the order of the channels.

    Raises:
        SGNetError: If the store cannot be reached.
    """
    if place.startswith("s3://"):
        bucket, _, prefix = place.removeprefix("s3://").rstrip("/").partition("/")
        with _naming(place):
            store = _object(f"s3://{bucket}/{prefix}/x", Path("study/remote")).s3bucket()
            paths = sorted(f"s3://{bucket}/{each.key}" for each in store.objects.filter(Prefix=prefix))
    else:
        with os.scandir(place) as entries:
            paths = sorted(entry.path for entry in entries)
    cases: dict[str, list[str]] = {}
    for path in paths:
        if match := _IMAGE.fullmatch(path.rpartition("/")[2]):
            cases.setdefault(match[1], []).append(path)
    return cases


def fetch(paths: Iterable[str], folder: Path) -> None:
    """Copy objects of a store into a folder, those that are there already aside."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        target = folder / path.rpartition("/")[2]
        if not target.is_file():
            with _naming(path):
                found = _object(path, folder / ".remote")
                found.local_path().parent.mkdir(parents=True, exist_ok=True)
                found.retrieve_object()
                found.local_path().replace(target)


def store(files: Iterable[Path], prefix: str, folder: Path) -> None:
    """Copy files to a prefix of a store; they are linked into a folder meanwhile."""
    for file in files:
        with _naming(f"{prefix}/{file.name}"):
            found = _object(f"{prefix}/{file.name}", folder)
            local = found.local_path()
            local.parent.mkdir(parents=True, exist_ok=True)
            local.unlink(missing_ok=True)
            local.symlink_to(file.absolute())
            found.store_object()
            local.unlink()


@contextmanager
def _naming(place: str) -> Iterator[None]:
    try:
        yield
    except SGNetError:
        raise
    except Exception as error:
        raise SGNetError(
            f"{place}: the store cannot be used ({' '.join(str(error).split())}); check "
            f"{', '.join(f'SNAKEMAKE_STORAGE_S3_{name.upper()}' for name in _SETTINGS)}"
        ) from error


def _object(query: str, folder: Path) -> Any:  # noqa: ANN401 - of an extra
    """Return the storage plugin's object; its settings come from the variables that Snakemake reads."""
    with needs_extra("study"):
        from snakemake_storage_plugin_s3 import StorageProvider, StorageProviderSettings  # noqa: PLC0415
    given = {name: os.environ.get(f"SNAKEMAKE_STORAGE_S3_{name.upper()}") for name in _SETTINGS}
    settings = StorageProviderSettings(**{name: value for name, value in given.items() if value})
    return StorageProvider(folder, logging.getLogger(__name__), settings=settings).object(query)
