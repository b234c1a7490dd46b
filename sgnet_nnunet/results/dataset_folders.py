"""Where nnU-Net keeps what belongs to a data set."""

import os
from dataclasses import dataclass
from pathlib import Path

from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.results.mask_folder import find_masks

VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


@dataclass(frozen=True, kw_only=True)
class DatasetFolders:
    """A data set's folders; only those of results and of preprocessed data need be there.

    Attributes:
        name: Name of the data set, such as `Dataset501_BrainMetsLung`.
        raw: Raw images and labels; None if nnUNet_raw is not set.
        preprocessed: Preprocessed images, the references and the splits.
        results: The trained models.
    """

    name: str
    raw: Path | None
    preprocessed: Path
    results: Path

    @property
    def references(self) -> Path:
        """Folder of the reference masks, named like the cases."""
        return self.preprocessed / "gt_segmentations"


def find_dataset(dataset: str) -> DatasetFolders:
    """Return the folders of a data set.

    Args:
        dataset: Its number or its name, as for nnU-Net's commands.

    Raises:
        SGNetError: If a variable of nnU-Net is not set, or not exactly one data set has the number.
    """
    roots = {variable: _root(variable) for variable in VARIABLES}
    preprocessed, results = (_needed(roots, variable) for variable in VARIABLES[1:])
    searched = [root for root in roots.values() if root is not None]
    name = dataset if dataset.startswith("Dataset") else _name_of(dataset, searched)
    for folder, remedy in (
        (preprocessed / name, "run nnUNetv2_plan_and_preprocess first"),
        (results / name, "train a model first, with nnUNetv2_train"),
    ):
        if not folder.is_dir():
            raise InputFileError(folder, "there is no such folder", remedy)
    raw = roots["nnUNet_raw"]
    return DatasetFolders(
        name=name, raw=raw and raw / name, preprocessed=preprocessed / name, results=results / name
    )


def find_references(folders: DatasetFolders) -> dict[str, Path]:
    """Return the reference of each case of a data set.

    Raises:
        InputFileError: If there is none, or there are two of one case.
    """
    if not folders.references.is_dir():
        remedy = "run nnUNetv2_plan_and_preprocess, which copies the references there"
        raise InputFileError(folders.references, "there is no such folder", remedy)
    return find_masks(folders.references)


def _root(variable: str) -> Path | None:
    value = os.environ.get(variable, "")
    return Path(value) if value else None


def _needed(roots: dict[str, Path | None], variable: str) -> Path:
    root = roots[variable]
    if root is None:
        raise SGNetError(f"{variable} is not set; run: export {variable}=/path/to/{variable}")
    return root


def _name_of(number: str, roots: list[Path]) -> str:
    if not number.isdigit():
        raise SGNetError(f"data set {number!r} is neither a number nor a name; give 501, for example")
    pattern = f"Dataset{int(number):03d}_*"
    names = sorted({path.name for root in roots for path in root.glob(pattern) if path.is_dir()})
    searched = ", ".join(map(str, roots))
    if not names:
        raise SGNetError(f"there is no data set {pattern} in {searched}; give another -d")
    if len(names) > 1:
        raise SGNetError(f"the data sets {' and '.join(names)} have one number; give -d the whole name")
    return names[0]
