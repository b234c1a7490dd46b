"""The masks that lie in a folder."""

from pathlib import Path

from sgnet_nnunet.errors import InputFileError

SUFFIXES = (".nii.gz", ".nii")


def find_masks(folder: Path) -> dict[str, Path]:
    """Return the NIfTI files of a folder by the name of their case, sorted.

    Hidden files are passed over, what nnU-Net or a killed writer left half done among them.

    Raises:
        InputFileError: If there is no such folder, it holds no mask, or two of one case.
    """
    if not folder.is_dir():
        raise InputFileError(folder, "there is no such folder", "name a folder of masks")
    masks: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        name = case_name(path)
        if not name or path.name.startswith("."):
            continue
        if name in masks:
            raise InputFileError(path, f"{masks[name].name} lies beside it", "keep one of the two")
        masks[name] = path
    if not masks:
        raise InputFileError(folder, "holds no mask (*.nii.gz or *.nii)", "name a folder of masks")
    return dict(sorted(masks.items()))


def find_mask(folder: Path, case: str) -> Path | None:
    """Return the mask of a case in a folder, None if there is none.

    Raises:
        InputFileError: If there are two.
    """
    found = [path for suffix in SUFFIXES if (path := folder / f"{case}{suffix}").is_file()]
    if len(found) > 1:
        raise InputFileError(found[1], f"{found[0].name} lies beside it", "keep one of the two")
    return found[0] if found else None


def find_images(folder: Path, case: str) -> tuple[Path, ...]:
    """Return the images of a case in nnU-Net's order of channels; none if the folder has none."""
    return tuple(
        path for suffix in SUFFIXES for path in sorted(folder.glob(f"{case}_[0-9][0-9][0-9][0-9]{suffix}"))
    )


def find_probabilities(folder: Path, case: str) -> Path | None:
    """Return nnU-Net's `.npz` of a case; None if there is none."""
    path = folder / f"{case}.npz"
    return path if path.is_file() else None


def case_name(path: Path) -> str:
    """Return the name of the case of a NIfTI file; "" for other files."""
    return next((path.name.removesuffix(s) for s in SUFFIXES if path.name.endswith(s)), "")
