"""Check an installation: what nnU-Net will find, from where, and what mends what is wrong."""

import inspect
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.version import Version

from sgnet_nnunet import __version__
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.plugin.link import nnunet_package
from sgnet_nnunet.plugin.shims import SHIMS, Shim

OLDEST_NNUNET = "2.8"
NNUNET_PATHS = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        subject: What was looked at.
        state: What was found.
        remedy: The command that mends it, or None if it is well.
    """

    subject: str
    state: str
    remedy: str | None = None


def examine(environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Return every finding about this installation."""
    return [*_versions(), _device(), *_classes(), *_paths(environment)]


def _versions() -> Iterator[Finding]:
    yield Finding("Python", platform.python_version())
    yield Finding("sgnet_nnunet", __version__)
    for name in ("nnunetv2", "torch", "monai"):
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "not installed", f"pip install {name}")
            continue
        old = name == "nnunetv2" and Version(found) < Version(OLDEST_NNUNET)
        yield Finding(name, found, f"pip install 'nnunetv2>={OLDEST_NNUNET}'" if old else None)


def _device() -> Finding:
    import torch  # noqa: PLC0415

    if torch.cuda.is_available():
        return Finding("device", f"CUDA: {torch.cuda.get_device_name()}")
    if torch.backends.mps.is_available():
        return Finding("device", "MPS; add `-device mps` to nnU-Net's commands")
    return Finding("device", f"CPU, {os.cpu_count()} cores; add `-device cpu` to nnU-Net's commands")


def _classes() -> Iterator[Finding]:
    try:
        package = nnunet_package()
    except SGNetError as error:
        yield Finding("nnU-Net's package", str(error), "pip install nnunetv2")
        return
    for shim in SHIMS:
        for name in shim.names:
            yield _class_finding(name, shim, package)


def _class_finding(name: str, shim: Shim, package: Path) -> Finding:
    target = package / shim.path
    if not shim.is_current(package):
        return Finding(name, f"{'outdated' if target.is_file() else 'not found'}: {target}", "sgnet link")
    try:
        found = _look_up(name, shim, package)
    except Exception as error:  # any module in nnU-Net's folders may fail in any way
        return Finding(
            name, f"nnU-Net's look-up fails: {error}", "pip install --force-reinstall --no-deps nnunetv2"
        )
    if found is None:
        return Finding(
            name, f"in {target}, but nnU-Net's look-up does not find it", "sgnet unlink && sgnet link"
        )
    defined = inspect.getfile(found)
    if found.__module__ != shim.module:
        return Finding(
            name, f"hidden by another class of that name in {defined}", f"mv {defined} {defined}.off"
        )
    return Finding(name, f"found in {target}, defined in {defined}")


def _look_up(name: str, shim: Shim, package: Path) -> type | None:
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class  # noqa: PLC0415

    module = "nnunetv2." + shim.folder.replace("/", ".")
    found: type | None = recursive_find_python_class(str(package / shim.folder), name, module)
    return found


def _paths(environment: Mapping[str, str]) -> Iterator[Finding]:
    for name in NNUNET_PATHS:
        folder = environment.get(name)
        if not folder:
            yield Finding(name, "not set", f'export {name}="$HOME/nnunet/{name}"')
        elif not Path(folder).is_dir():
            yield Finding(name, f"{folder}: no such folder", f'mkdir -p "{folder}"')
        elif not os.access(folder, os.W_OK):
            yield Finding(name, f"{folder}: not writable", f'chmod u+w "{folder}"')
        else:
            yield Finding(name, folder)
