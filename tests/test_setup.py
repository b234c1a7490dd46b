"""The packages in setup.py are those that the code imports."""

import ast
import re
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from sgnet_nnunet.errors import SGNetError, needs_extra
from sgnet_nnunet.plugin.doctor import TESTED_NNUNET

ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = {
    "HD_BET": "hd-bet", "PIL": "pillow", "markupsafe": "jinja2", "skimage": "scikit-image", "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "snakemake_storage_plugin_s3": "snakemake-storage-plugin-s3",
}  # fmt: skip
EXTRAS = {"report", "phantom", "cpu", "dicom", "hdbet", "study", "kubernetes"}
FOUND_BY_SNAKEMAKE = {
    *(f"snakemake-executor-plugin-{name}" for name in ("cluster-generic", "slurm", "kubernetes")),
    "snakemake-storage-plugin-fs",
}
NAME = re.compile(r"[A-Za-z0-9_-]+")


def listed(name: str) -> set[str]:
    """Return the names of the packages in a constant of setup.py."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            texts = [leaf.value for leaf in ast.walk(node.value) if isinstance(leaf, ast.Constant)]
            return {match[0] for text in texts if (match := NAME.match(text))}
    raise AssertionError(f"no {name} in setup.py")


def imported() -> set[str]:
    """Return the packages of others that any module of the package imports."""
    names = set()
    for path in (ROOT / "sgnet_nnunet").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module or "")
    packages = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"sgnet_nnunet"}
    return {DISTRIBUTIONS.get(name, name) for name in packages}


def test_every_import_is_required_here_or_by_nnunet_and_nothing_else_is_listed():
    of_nnunet = {NAME.match(text)[0] for text in requires("nnunetv2") if "extra ==" not in text}
    required, extras = listed("REQUIRED"), listed("EXTRAS") - EXTRAS - FOUND_BY_SNAKEMAKE
    assert required & of_nnunet == {"torch"}  # of which nnU-Net takes older releases
    assert required | extras <= imported() <= required | extras | of_nnunet


def test_doctor_checks_for_the_version_of_nnunet_that_is_required():
    assert f"nnunetv2=={TESTED_NNUNET}*" in (ROOT / "setup.py").read_text()


def test_missing_package_of_an_extra_is_named_with_the_command():
    with (
        pytest.raises(
            SGNetError, match=r"^absent is not installed; run: pip install 'sgnet-nnunet\[phantom\]'$"
        ),
        needs_extra("phantom"),
    ):
        import absent.part  # noqa: F401, PLC0415


def test_a_mistake_of_our_own_is_not_blamed_on_an_extra():
    with pytest.raises(ModuleNotFoundError), needs_extra("phantom"):
        import sgnet_nnunet.absent  # noqa: F401, PLC0415
