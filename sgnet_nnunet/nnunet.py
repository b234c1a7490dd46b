"""The masks that lie in a folder."""

import io
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from sgnet_nnunet.errors import InputFileError, SGNetError

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


DEFAULT_PLANS, DEFAULT_CONFIGURATION = "nnUNetPlans", "3d_fullres"
"""nnU-Net's default plans, and the configuration that SGNetPlanner makes."""


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """A model as nnU-Net names its folder.

    Attributes:
        given: The name the user gave.
        trainer: Name of the trainer.
        plans: Name of the plans.
        configuration: Name of the configuration.
    """

    given: str
    trainer: str
    plans: str = DEFAULT_PLANS
    configuration: str = DEFAULT_CONFIGURATION

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Return the model named `TRAINER[__PLANS[__CONFIGURATION]]`.

        Raises:
            SGNetError: If a part is empty or there are too many.
        """
        parts = text.split("__")
        if not all(parts) or len(parts) > 3:  # noqa: PLR2004
            raise SGNetError(f"model {text!r} is not named TRAINER[__PLANS[__CONFIGURATION]]; name it so")
        keys = ("trainer", "plans", "configuration")
        return cls(given=text, **dict(zip(keys, parts, strict=False)))

    @property
    def folder(self) -> str:
        """Name of nnU-Net's folder of the training."""
        return f"{self.trainer}__{self.plans}__{self.configuration}"

    def train_command(self, dataset: str, fold: str, *, validate: bool = False) -> str:
        """Return the command that trains a fold, or only predicts its validation cases.

        Args:
            dataset: Name of the data set, such as `Dataset501_BrainMetsLung`.
            fold: The fold.
            validate: Whether the fold has been trained already.
        """
        number = str(int(dataset[7:10])) if dataset[7:10].isdigit() else dataset
        plans = "" if self.plans == DEFAULT_PLANS else f" -p {self.plans}"
        end = " --val" if validate else ""
        return f"nnUNetv2_train {number} {self.configuration} {fold} -tr {self.trainer}{plans}{end}"


def parse_models(names: list[str]) -> list[ModelName]:
    """Return the models of a comparison.

    Raises:
        SGNetError: If none is named, or one twice.
    """
    models = [ModelName.parse(name) for name in names]
    if not models:
        raise SGNetError("no model is named; give --models SGNetTrainer BaselineUNetTrainer, for example")
    seen: dict[str, str] = {}
    for model in models:
        if model.folder in seen:
            raise SGNetError(
                f"models {seen[model.folder]} and {model.given} are both {model.folder}; name it once"
            )
        seen[model.folder] = model.given
    return models


ALL = "all"
"""nnU-Net's fold that is trained, and validated, on every case."""

logger = logging.getLogger(__name__)


def validation_cases(splits: Path, folds: Sequence[str], every_case: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the validation cases of each fold, sorted.

    Args:
        splits: nnU-Net's `splits_final.json`; not needed for the fold `all`.
        folds: The folds, numbers or `all`.
        every_case: Names of all cases.

    Raises:
        SGNetError: If a fold is no number, is not in the splits, or shares a case with another.
        InputFileError: If there are no splits, or not as nnU-Net writes them.
    """
    wanted = list(dict.fromkeys(folds))
    if not wanted:
        raise SGNetError("no fold is named; give -f 0 1 2 3 4, for example")
    if wanted == [ALL]:
        logger.warning("fold all is validated on the cases it was trained on: its figures flatter")
        return {ALL: sorted(every_case)}
    content = _read(splits)
    cases = {fold: _cases(splits, content, fold) for fold in wanted}
    fold_of: dict[str, str] = {}
    for fold, names in cases.items():
        for name in names:
            if name in fold_of:
                raise SGNetError(
                    f"{splits}: folds {fold_of[name]} and {fold} both validate on {name}; name one of them"
                )
            fold_of[name] = fold
    return cases


def _cases(splits: Path, content: list[dict[str, list[str]]], fold: str) -> list[str]:
    if not fold.isdigit():
        raise SGNetError(f"fold {fold!r} is not a number; give -f 0 1 2 3 4, or all by itself")
    if int(fold) >= len(content):
        raise SGNetError(f"{splits}: has {len(content)} folds, no fold {fold}; name those it has")
    return sorted(content[int(fold)]["val"])


def _read(splits: Path) -> list[dict[str, list[str]]]:
    remedy = "nnUNetv2_train writes it; name the fold all if there is no split"
    try:
        content = json.loads(splits.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        detail = getattr(error, "strerror", None) or error
        raise InputFileError(splits, f"cannot be read ({detail})", remedy) from error
    if not isinstance(content, list) or not all(isinstance(f, dict) and "val" in f for f in content):
        raise InputFileError(splits, "is not a list of folds with train and val", remedy)
    return content


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


class _Log(io.TextIOBase):
    def write(self, text: str) -> int:
        if line := text.strip():
            urgent = any(word in line.lower() for word in ("warning", "error"))
            logger.log(logging.WARNING if urgent else logging.DEBUG, "nnU-Net: %s", line)
        return len(text)


@contextmanager
def prints_to_log() -> Iterator[None]:
    """Log what any thread prints meanwhile: warnings and errors as warnings, the rest for debugging."""
    with redirect_stdout(_Log()):
        yield


def find_cases(images: Path, *, file_ending: str, channels: int) -> dict[str, list[Path]]:
    """Return the files of each case of nnU-Net's image folder, one a channel, by the case's name.

    Raises:
        InputFileError: If the folder has no case, or a case has too few channels or too many.
    """
    pattern = re.compile(rf"(.+)_(\d{{4}}){re.escape(file_ending)}")
    found: dict[str, dict[int, Path]] = {}
    for path in images.iterdir() if images.is_dir() else ():
        if match := pattern.fullmatch(path.name):
            found.setdefault(match[1], {})[int(match[2])] = path
    if not found:
        raise InputFileError(
            images, f"holds no file *_0000{file_ending}", "name a folder like nnU-Net's imagesTs"
        )
    remedy = f"the model takes {channels} channels a case"
    for name, files in found.items():
        for channel in range(channels):
            if channel not in files:
                path = images / f"{name}_{channel:04d}{file_ending}"
                raise InputFileError(path, "there is no such file", remedy)
        if len(files) > channels:
            raise InputFileError(files[max(files)], "is one channel too many", remedy)
    return {name: [files[channel] for channel in range(channels)] for name, files in sorted(found.items())}
