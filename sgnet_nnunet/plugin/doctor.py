"""Check of an installation: the classes that nnU-Net finds, and the command that fixes each problem."""

import inspect
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sgnet_nnunet import __version__
from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.nnunet import FOLDER_VARIABLES
from sgnet_nnunet.plugin.link import nnunet_package
from sgnet_nnunet.plugin.shims import SHIMS, Shim

TESTED_NNUNET = "2.8."
"""Start of the versions of nnU-Net that `setup.py` allows."""


@dataclass(frozen=True)
class Finding:
    """One fact about the installation, and the command that fixes it if it is a problem."""

    subject: str
    state: str
    remedy: str | None = None


@dataclass(frozen=True)
class Group:
    """The findings of one kind, with one line for a group without a problem."""

    name: str
    summary: str
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings with a remedy."""
        return tuple(finding for finding in self.findings if finding.remedy)


def examine(environment: Mapping[str, str] = os.environ) -> list[Group]:
    """Return the findings about this installation, grouped."""
    versions, classes, folders = tuple(_versions()), tuple(_classes()), tuple(_folders(environment))
    device = _device()
    return [
        Group("versions", ", ".join(f"{one.subject} {one.state}" for one in versions), versions),
        Group("device", device.state, (device,)),
        Group("classes", f"nnU-Net finds all {len(classes)} trainers, planners, normalisations", classes),
        Group("folders", ", ".join(f"{one.subject}={one.state}" for one in folders), folders),
    ]


def _versions() -> Iterator[Finding]:
    yield Finding("Python", platform.python_version())
    yield Finding("sgnet_nnunet", __version__)
    for name, start in (("nnunetv2", TESTED_NNUNET), ("torch", ""), ("monai", "")):
        remedy = f"pip install '{name}=={start}*'" if start else f"pip install {name}"
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Finding(name, "not installed", remedy)
        else:
            yield Finding(name, found, None if f"{found}.".startswith(start) else remedy)


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
    except Exception as error:  # importing a module in nnU-Net's folders can raise anything
        remedy = "pip install --force-reinstall --no-deps nnunetv2"
        return Finding(name, f"nnU-Net's look-up fails: {error}", remedy)
    if found is None:
        state = f"in {target}, but nnU-Net's look-up does not find it"
        return Finding(name, state, "sgnet unlink && sgnet link")
    file = inspect.getfile(found)
    if found.__module__ != shim.module:
        return Finding(name, f"hidden by another class of that name in {file}", f"mv {file} {file}.off")
    return Finding(name, f"found in {target}, defined in {file}")


def _look_up(name: str, shim: Shim, package: Path) -> type | None:
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class  # noqa: PLC0415

    module = "nnunetv2." + shim.folder.replace("/", ".")
    found: type | None = recursive_find_python_class(str(package / shim.folder), name, module)
    return found


def _folders(environment: Mapping[str, str]) -> Iterator[Finding]:
    for name in FOLDER_VARIABLES:
        folder = environment.get(name)
        if not folder:
            yield Finding(name, "not set", f'export {name}="$HOME/nnunet/{name}"')
        elif not Path(folder).is_dir():
            yield Finding(name, f"{folder}: no such folder", f'mkdir -p "{folder}"')
        elif not os.access(folder, os.W_OK):
            yield Finding(name, f"{folder}: not writable", f'chmod u+w "{folder}"')
        else:
            yield Finding(name, folder)
