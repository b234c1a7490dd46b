"""Link and unlink the shims by hand, for editable installs."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, files
from importlib.util import find_spec
from pathlib import Path

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import inside, write_text
from sgnet_nnunet.plugin.shims import SHIMS, write_shims

TRAINERS_FOLDER = Path(__file__).parents[2] / "trainers"
"""In a checkout, what `nnUNet_extTrainer` can point at."""


def nnunet_package() -> Path:
    """Return the folder of the installed `nnunetv2` package, without importing it.

    Raises:
        SGNetError: If nnU-Net is not installed.
    """
    spec = find_spec("nnunetv2")
    if spec is None or spec.origin is None:
        raise SGNetError("nnU-Net v2 is not installed in this environment; run `pip install nnunetv2`")
    return Path(spec.origin).parent


def shims_belong_to_wheel() -> bool:
    """Return whether pip installed the shims, and therefore removes them."""
    try:
        installed = {str(path) for path in files("sgnet-nnunet") or ()}
    except PackageNotFoundError:
        return False
    return any(f"nnunetv2/{shim.path}" in installed for shim in SHIMS)


def link(package: Path) -> list[Path]:
    """Write the shims into the folder `package` of nnU-Net, and return the files written now.

    Raises:
        SGNetError: If a shim's place is taken by another's file, or the folders are read-only.
    """
    for shim in SHIMS:
        path = inside(package, shim.path)
        if path.exists() and not shim.is_ours(package):
            raise InputFileError(path, "was not placed by sgnet link", "move it elsewhere")
    with _writing_to(package):
        return write_shims(package, write_text)


def unlink(package: Path) -> list[Path]:
    """Remove the shims from the folder `package` of nnU-Net, and return the files removed now.

    A file of the same name that is not ours stays.

    Raises:
        SGNetError: If a folder is a link to elsewhere, or the folders are read-only.
    """
    present = [inside(package, shim.path) for shim in SHIMS if shim.is_ours(package)]
    with _writing_to(package):
        for path in present:
            path.unlink()
    return present


@contextmanager
def _writing_to(package: Path) -> Iterator[None]:
    """Turn a failure to write into an error with a remedy."""
    try:
        yield
    except OSError as error:
        raise SGNetError(
            f"{package}: cannot be changed ({error.strerror}); use an environment of your own, "
            f"or, for the trainers alone, run `export nnUNet_extTrainer={TRAINERS_FOLDER}`"
        ) from error
