"""Check an installation: what nnU-Net will find, from where, and what mends what is wrong."""

import importlib
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.plug.faces import FACES, Face
from sgnet_nnunet.plug.link import nnunet_package

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
    for name in ("sgnet-nnunet", "torch", "monai"):
        yield Finding(name, version(name))
    nnunet = version("nnunetv2")
    old = Version(nnunet) < Version(OLDEST_NNUNET)
    yield Finding("nnunetv2", nnunet, f"pip install 'nnunetv2>={OLDEST_NNUNET}'" if old else None)


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
    for face in FACES:
        for name in face.names:
            yield _class_finding(name, face, package)


def _class_finding(name: str, face: Face, package: Path) -> Finding:
    if not face.is_current(package):
        state = "outdated" if (package / face.path).is_file() else "not found"
        return Finding(name, f"{state}: {package / face.path}", "sgnet link")
    module = importlib.import_module("nnunetv2." + face.path.removesuffix(".py").replace("/", "."))
    origin = importlib.import_module(getattr(module, name).__module__).__file__
    return Finding(name, f"found through {package / face.path}, defined in {origin}")


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
