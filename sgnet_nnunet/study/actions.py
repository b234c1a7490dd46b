"""What steps do besides running commands: folds, changes of a plan, images of a store, tables, the report."""

import csv
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sgnet_nnunet import __version__
from sgnet_nnunet.dataset.splits import grouped_splits, patients_of
from sgnet_nnunet.errors import SGNetError, needs_extra
from sgnet_nnunet.files import atomic_path, read_json, write_json, write_text
from sgnet_nnunet.lesions import find_lesions
from sgnet_nnunet.nifti import read_labels
from sgnet_nnunet.nnunet import SPLITS, find_masks, read_splits
from sgnet_nnunet.study.study_file import LEAVE_ONE_OUT, is_remote

COLUMNS = ("case", "lesions", "volume_mm3", "largest_mm3")
"""Of the table of predicted masks."""

OPTIONAL_SETTINGS = frozenset(
    {"channel_dropout", "false_positive_weight", "gate_supervision", "loss", "own_false_positives"}
)
"""Of a plan, read by this package's trainers."""

_IMAGE = re.compile(r"([^.].*)_(\d{4})\.nii(\.gz)?", re.DOTALL)
_SETTINGS = ("endpoint_url", "region", "access_key", "secret_key", "token")


def split(raw: str, splits: str | None = None, source: str = "") -> None:
    """Write the folds of a raw data set: those of a file, one a patient, or five, by patient.

    A `source` is a raw data set of the user, to which nothing is written: its parts are linked.

    Raises:
        SGNetError: If a file of folds names a case that the data set lacks.
    """
    target = Path(raw, SPLITS)
    if source:
        _link_parts(Path(raw), Path(source))
    cases = list(find_masks(Path(raw, "labelsTr")))
    patients = patients_of(cases, conversion_report=Path(raw, "conversion_report.csv"))
    if splits == LEAVE_ONE_OUT:
        write_json(target, [_without(one, patients) for one in sorted(set(patients.values()))])
    elif splits is not None:
        named = {case for fold in read_splits(Path(splits)) for case in (*fold.train, *fold.val)}
        if absent := sorted(named.difference(cases)):
            raise SGNetError(f"{splits}: names the case {absent[0]}, which {raw} lacks; take it out")
        shutil.copyfile(splits, target)
    elif not target.is_file():
        write_json(target, list(grouped_splits(patients).folds))
    copy = Path(raw.replace("nnUNet_raw", "nnUNet_preprocessed"), SPLITS)
    if copy.is_file() and copy.read_bytes() != target.read_bytes():
        copy.unlink()  # nnU-Net's planner copies the folds once


def _link_parts(raw: Path, source: Path) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    for path in raw.iterdir():  # of an earlier state of the source
        if path.is_symlink() or path.name == SPLITS:
            path.unlink()
    for path in source.iterdir():
        if path.name == SPLITS:
            shutil.copyfile(path, raw / SPLITS)
        else:
            (raw / path.name).symlink_to(path)


def _without(patient: str, patients: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the fold that validates on a patient, given the patient of each case."""
    parts: dict[str, list[str]] = {"train": [], "val": []}
    for case, one in patients.items():
        parts["val" if one == patient else "train"].append(case)
    return parts


def change_plan(path: str, change: dict[str, Any]) -> None:
    """Change settings, such as the patch size, of the three-dimensional configurations of a plan.

    Raises:
        SGNetError: If a plan has no such setting.
    """
    plans = read_json(Path(path))
    for configuration in plans["configurations"].values():
        if change and len(configuration.get("patch_size", ())) == 3:  # noqa: PLR2004
            if unknown := sorted(change.keys() - configuration.keys() - OPTIONAL_SETTINGS):
                known = ", ".join(sorted(configuration.keys() | OPTIONAL_SETTINGS))
                raise SGNetError(f"{path}: a plan has no setting {unknown[0]}; give one of {known}")
            _merge(configuration, change)
    write_json(Path(path), plans)


def _merge(target: dict[str, Any], change: Mapping[str, Any]) -> None:
    """Change the items of a mapping, those of nested mappings one by one."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def tabulate(masks: str, images: str, fetch: list[str], store: str) -> None:
    """Write a row a predicted mask, and copy the masks to a store if they are to be there."""
    found = find_masks(Path(masks))
    with atomic_path(Path(masks, "lesions.csv")) as partial, partial.open("w", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for case, path in found.items():
            image = read_labels(path)
            volumes = find_lesions(np.asarray(image.data) > 0, spacing=image.grid.spacing).volumes_mm3
            writer.writerow((case, len(volumes), f"{volumes.sum():.1f}", f"{max(volumes, default=0):.1f}"))
    if store:
        copy_to_store(found.values(), store, Path(masks, ".remote"))
    if fetch:
        shutil.rmtree(images)


def gather(parts: list[str], masks: str, table: str) -> None:
    """Link the masks of all shards into one folder, and write their rows into one table."""
    folder = Path(masks)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(Path(table)) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(",".join(COLUMNS) + "\n")
        for part in parts:
            with Path(part, "lesions.csv").open(encoding="utf-8") as rows:
                next(rows)
                file.writelines(rows)
            for path in Path(part).glob("[!.]*.nii*"):
                (folder / path.name).unlink(missing_ok=True)
                (folder / path.name).symlink_to(path.absolute())


def report(tables: list[dict[str, str]], folder: str) -> None:
    """Write the means of every network, set and seed as `study.csv`, and a page that links all reports.

    A table, `per_case.csv`, is given by its `path`, `images`, `seed` and, if it is of one network, `model`.
    """
    import pandas as pd  # noqa: PLC0415

    from sgnet_nnunet.evaluation.registry import case_metrics  # noqa: PLC0415
    from sgnet_nnunet.report.viewer import render  # noqa: PLC0415

    keys = ["images", "model", "label"]
    page: dict[str, Any] = {"sets": {}, "metrics": {}}
    Path(folder).mkdir(parents=True, exist_ok=True)
    frames = []
    for table in tables:
        constant = {name: value for name, value in table.items() if name != "path"}
        frames.append(pd.read_csv(table["path"]).assign(**constant))
    if frames:
        cases = pd.concat(frames)
        page["metrics"] = {
            each.name: each.title for each in case_metrics() if each.headline and each.name in cases
        }
        means = cases.groupby([*keys, "seed"], sort=True)[list(page["metrics"])].mean()
        with atomic_path(Path(folder, "study.csv")) as partial:
            means.to_csv(partial, float_format="%.6g")
        for key, row in means.groupby(keys).mean().iterrows():
            images, model, label = map(str, key)  # type: ignore[call-overload]
            page["sets"].setdefault(images, []).append((model, label, [f"{value:.3f}" for value in row]))
    else:
        write_text(Path(folder, "study.csv"), "images,model,label,seed\n")
    links = [Path(table["path"]).parent.name for table in tables]
    write_text(Path(folder, "study.html"), render("study.html", links=links, version=__version__, **page))
    write_text(Path(folder, "study.json"), json.dumps(page, indent=1) + "\n")


# --- images and masks on an S3-compatible store, through Snakemake's storage plugin -------------------------


def list_images(place: str) -> dict[str, list[str]]:
    """Return the images of each case of a folder, or of an S3 prefix, in the order of the channels.

    Raises:
        SGNetError: If the store cannot be reached.
    """
    if is_remote(place):
        bucket, _, prefix = place.removeprefix("s3://").rstrip("/").partition("/")
        with _naming(place):
            store = _object(f"s3://{bucket}/{prefix}/x", Path("study/remote")).s3bucket()
            keys = [each.key for each in store.objects.filter(Prefix=f"{prefix}/" if prefix else "")]
            paths = sorted(f"s3://{bucket}/{key}" for key in keys if key.rpartition("/")[0] == prefix)
    else:
        with os.scandir(place) as entries:
            paths = sorted(entry.path for entry in entries)
    cases: dict[str, list[str]] = {}
    for path in paths:
        if match := _IMAGE.fullmatch(path.rpartition("/")[2]):
            cases.setdefault(match[1], []).append(path)
    return cases


def fetch(paths: Iterable[str], folder: Path) -> None:
    """Copy objects of a store into a folder, except those that are there already."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        target = folder / path.rpartition("/")[2]
        if not target.is_file():
            with _naming(path):
                found = _object(path, folder / ".remote")
                found.local_path().parent.mkdir(parents=True, exist_ok=True)
                found.retrieve_object()
                found.local_path().replace(target)


def copy_to_store(files: Iterable[Path], prefix: str, folder: Path) -> None:
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
