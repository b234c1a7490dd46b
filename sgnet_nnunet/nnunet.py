"""nnU-Net's folders, file names and fragile names, each in one place.

Nothing of nnU-Net is imported until a function needs it, so that the torch-free runtime can use this module.
"""

import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from glob import escape
from importlib import import_module
from itertools import combinations
from pathlib import Path
from typing import Any

from sgnet_nnunet import former_names
from sgnet_nnunet.errors import InputFileError, SGNetError
from sgnet_nnunet.files import parse_json, read_bytes
from sgnet_nnunet.schemas import Split, check

logger = logging.getLogger(__name__)

FOLDER_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
"""The environment variables that name nnU-Net's folders."""

NIFTI_SUFFIXES = (".nii.gz", ".nii")

DEFAULT_PLANS, DEFAULT_CONFIGURATION = "nnUNetPlans", "3d_fullres"
"""nnU-Net's default plans, and the configuration that SGNetPlanner makes."""

CHECKPOINT = "checkpoint_final.pth"
"""nnU-Net's file of a fold's weights at the end of the training."""

ALL = "all"
"""nnU-Net's fold that is trained, and validated, on every case."""

SPLITS = "splits_final.json"
"""nnU-Net's file of folds, in a raw data set and, copied once, in its preprocessed data."""

TRAINED_ON = "sgnet_training_cases"
"""Key, in the `init_args` of a checkpoint, of the cases that its weights were trained on."""

CHECKPOINT_LATEST, CHECKPOINT_BEST = "checkpoint_latest.pth", "checkpoint_best.pth"
"""The files that a training which is killed goes on from: of every few epochs, and of the best score."""

KEPT_BY_ZIP = "debug.json"
"""A file of each fold that nnU-Net writes, never reads, and keeps in the zip of a model."""


# --- data sets ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DatasetFolders:
    """The folders of a data set; those of preprocessed data and results exist, `raw` if nnUNet_raw is set."""

    name: str
    raw: Path | None
    preprocessed: Path
    results: Path

    @property
    def references(self) -> Path:
        """Folder of the reference masks, named like the cases."""
        return self.preprocessed / "gt_segmentations"

    def model(self, model: "ModelName") -> Path:
        """Return the folder of a training, which need not exist."""
        return former_names.model_folder(self.results / model.folder)


def nnunet_folder(variable: str) -> Path:
    """Return the folder, which need not exist, of one of `FOLDER_VARIABLES`; unset is an SGNetError."""
    folder = os.environ.get(variable, "")
    if not folder:
        raise SGNetError(f"{variable} is not set; run: export {variable}=/path/to/{variable}")
    return Path(folder)


def dataset_name(dataset: str) -> str:
    """Return the name of a data set given by number or name, such as `Dataset501_BrainMetsLung`.

    Raises:
        SGNetError: If not exactly one data set in nnU-Net's folders has the number.
    """
    if dataset.startswith("Dataset"):
        return dataset
    if not dataset.isdigit():
        raise SGNetError(f"data set {dataset!r} is neither a number nor a name; give 501, for example")
    pattern = f"Dataset{int(dataset):03d}_*"
    roots = [Path(folder) for variable in FOLDER_VARIABLES if (folder := os.environ.get(variable))]
    names = sorted({path.name for root in roots for path in root.glob(pattern) if path.is_dir()})
    if not names:
        raise SGNetError(f"no data set {pattern} in {', '.join(map(str, roots))}; give another -d")
    if len(names) > 1:
        raise SGNetError(f"the data sets {' and '.join(names)} have the same number; give -d the whole name")
    return names[0]


def find_dataset(dataset: str) -> DatasetFolders:
    """Return the folders of a data set, given by number or name, that models were trained on.

    Raises:
        SGNetError: If a variable of nnU-Net is not set, or not exactly one data set has the number.
        InputFileError: If the data set has no preprocessed data or no results.
    """
    roots = [nnunet_folder(variable) for variable in FOLDER_VARIABLES[1:]]
    name = dataset_name(dataset)
    preprocessed, results = (root / name for root in roots)
    _require_folder(preprocessed, "run nnUNetv2_plan_and_preprocess first")
    _require_folder(results, "train a model first, with nnUNetv2_train")
    raw = os.environ.get(FOLDER_VARIABLES[0])
    return DatasetFolders(
        name=name, raw=Path(raw, name) if raw else None, preprocessed=preprocessed, results=results
    )


def _require_folder(folder: Path, remedy: str) -> None:
    if not folder.is_dir():
        raise InputFileError(folder, "there is no such folder", remedy)


def find_model_folder(dataset: str, model: str) -> Path:
    """Return the folder of a training, TRAINER__PLANS__CONFIGURATION, in `nnUNet_results`; it need not exist.

    If only a folder with the trainer's former name exists, that one is returned.

    Raises:
        SGNetError: If `nnUNet_results` is not set, or not exactly one data set has the number.
    """
    results = nnunet_folder("nnUNet_results")
    return former_names.model_folder(results / dataset_name(dataset) / model)


# --- cases -------------------------------------------------------------------------------------------------


def find_cases(images: Path, *, file_ending: str, channels: int) -> dict[str, list[Path]]:
    """Return the files of each case of nnU-Net's image folder, one a channel, by the case's name.

    Raises:
        InputFileError: If the folder has no case, or a case has too few channels or too many.
    """
    pattern = re.compile(rf"([^.].*)_(\d{{4}}){re.escape(file_ending)}", re.DOTALL)
    found: dict[str, dict[int, Path]] = {}
    for path in images.iterdir() if images.is_dir() else ():
        if match := pattern.fullmatch(path.name):
            found.setdefault(match[1], {})[int(match[2])] = path
    if not found:
        problem, remedy = f"holds no file *_0000{file_ending}", "give a folder like nnU-Net's imagesTs"
        raise InputFileError(images, problem, remedy)
    remedy = f"the model takes {channels} channels a case"
    for name, files in found.items():
        if missing := set(range(channels)) - set(files):
            path = images / f"{name}_{min(missing):04d}{file_ending}"
            raise InputFileError(path, "there is no such file", remedy)
        if len(files) > channels:
            raise InputFileError(files[max(files)], "is one channel too many", remedy)
    return {name: [files[channel] for channel in range(channels)] for name, files in sorted(found.items())}


def find_masks(folder: Path) -> dict[str, Path]:
    """Return the NIfTI files of a folder by the name of their case, sorted.

    Hidden files are ignored: nnU-Net and killed writers leave incomplete ones.

    Raises:
        InputFileError: If there is no such folder, it holds no mask, or two of one case.
    """
    _require_folder(folder, "give a folder of masks")
    names = {path.name.removesuffix(".gz").removesuffix(".nii") for path in folder.glob("[!.]*.nii*")}
    masks = {name: mask for name in sorted(names) if (mask := find_mask(folder, name))}
    if not masks:
        raise InputFileError(folder, "holds no mask (*.nii.gz or *.nii)", "give a folder of masks")
    return masks


def find_mask(folder: Path, case: str) -> Path | None:
    """Return the mask of a case in a folder, None if there is none; two are an InputFileError."""
    found = [path for suffix in NIFTI_SUFFIXES if (path := folder / f"{case}{suffix}").is_file()]
    if len(found) > 1:
        raise InputFileError(found[1], f"{found[0].name} is a file of the same case", "keep one of the two")
    return found[0] if found else None


def find_images(folder: Path, case: str) -> tuple[Path, ...]:
    """Return the images of a case in nnU-Net's order of channels; none if the folder has none."""
    names = (f"{escape(case)}_[0-9][0-9][0-9][0-9]{suffix}" for suffix in NIFTI_SUFFIXES)
    return tuple(path for name in names for path in sorted(folder.glob(name)))


def find_probabilities(folder: Path, case: str) -> Path | None:
    """Return nnU-Net's `.npz` of a case; None if there is none."""
    path = folder / f"{case}.npz"
    return path if path.is_file() else None


def find_references(folders: DatasetFolders) -> dict[str, Path]:
    """Return the reference of each case of a data set, as `find_masks` does."""
    _require_folder(folders.references, "run nnUNetv2_plan_and_preprocess, which copies the references there")
    return find_masks(folders.references)


# --- models and folds --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """A model as nnU-Net names its folder, and as the user gave it."""

    given: str
    trainer: str
    plans: str = DEFAULT_PLANS
    configuration: str = DEFAULT_CONFIGURATION

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Return the model named `TRAINER[__PLANS[__CONFIGURATION]]`; any other name is an SGNetError."""
        parts = text.split("__")
        keys = ("trainer", "plans", "configuration")
        if not all(parts) or len(parts) > len(keys):
            expected = "TRAINER[__PLANS[__CONFIGURATION]]"
            raise SGNetError(f"model {text!r}: invalid model name; expected {expected}")
        return cls(given=text, **dict(zip(keys, parts, strict=False)))

    @property
    def folder(self) -> str:
        """Name of nnU-Net's folder of the training."""
        return f"{self.trainer}__{self.plans}__{self.configuration}"

    def train_command(self, dataset: str, fold: str, *, validate: bool = False) -> str:
        """Return the command that trains a fold of the data set, or only predicts its validation cases."""
        number = str(int(dataset[7:10])) if dataset[7:10].isdigit() else dataset
        plans = "" if self.plans == DEFAULT_PLANS else f" -p {self.plans}"
        end = " --val" if validate else ""
        return f"nnUNetv2_train {number} {self.configuration} {fold} -tr {self.trainer}{plans}{end}"


def trained_folds(model_folder: Path, checkpoint: str) -> tuple[str, ...]:
    """Return the numbered folds that have weights, sorted; else the fold `all` if it has; else none."""
    # A broken link counts: a fold must not be left out without a word.
    found = (path for path in model_folder.glob("fold_*") if os.path.lexists(path / checkpoint))
    folds = sorted(path.name.removeprefix("fold_") for path in found)
    return tuple(fold for fold in folds if fold != ALL) or tuple(folds)


def parse_models(names: list[str]) -> list[ModelName]:
    """Return the models of a comparison; none, or one twice, is an SGNetError."""
    models = [ModelName.parse(name) for name in names]
    if not models:
        raise SGNetError("no model is given; add --models SGNetTrainer BaselineUNetTrainer, for example")
    for one, other in combinations(models, 2):
        if one.folder == other.folder:
            raise SGNetError(f"models {one.given} and {other.given} are both {one.folder}; give it once")
    return models


def validation_cases(splits: Path, folds: Sequence[str], every_case: Iterable[str]) -> dict[str, list[str]]:
    """Return the names of the validation cases of each fold, sorted.

    `splits` is nnU-Net's `splits_final.json`. The fold `all` validates on `every_case`, without the splits.

    Raises:
        SGNetError: If a fold is no number, is not in the splits, or shares a case with another.
        InputFileError: If there are no splits, or not as nnU-Net writes them.
    """
    requested = list(dict.fromkeys(folds))
    if not requested:
        raise SGNetError("no fold is given; add -f 0 1 2 3 4, for example")
    if requested == [ALL]:
        logger.warning("fold all is validated on its training cases: its metrics are optimistically biased")
        return {ALL: sorted(every_case)}
    content = read_splits(splits)
    for fold in requested:
        if not fold.isdigit():
            raise SGNetError(f"fold {fold!r} is not a number; give -f 0 1 2 3 4, or all by itself")
        if int(fold) >= len(content):
            raise SGNetError(f"{splits}: has {len(content)} folds, no fold {fold}; give one of those")
    cases = {fold: sorted(content[int(fold)].val) for fold in requested}
    for one, other in combinations(cases, 2):
        if shared := sorted(set(cases[one]) & set(cases[other])):
            raise SGNetError(
                f"{splits}: folds {one} and {other} both validate on {shared[0]}; give one of them"
            )
    return cases


def read_splits(splits: Path) -> list[Split]:
    """Return the folds of a file as `splits_final.json`; an InputFileError if it is not one."""
    remedy = "nnUNetv2_train writes it; give the fold all if there is no split"
    try:
        content = parse_json(read_bytes(splits))
    except (OSError, ValueError, RecursionError) as error:
        detail = getattr(error, "strerror", None) or error
        raise InputFileError(splits, f"cannot be read ({detail})", remedy) from error
    return check(splits, content, list[Split], remedy=remedy)


def changed_folds(dataset: Path | str) -> InputFileError | None:
    """Return an error that says how the folds of a data set differ from those that nnU-Net trains by.

    The data set is a name, or a folder in `nnUNet_raw`. nnU-Net copies its folds to `nnUNet_preprocessed`
    once, and allows additional folds there. The result is None if the two agree, or if one is missing.
    """
    root, preprocessed, results = (os.environ.get(variable, "") for variable in FOLDER_VARIABLES)
    raw = Path(root, dataset)
    copy, original = Path(preprocessed, raw.name, SPLITS), raw / SPLITS
    in_use = root and preprocessed and raw.parent == Path(root)
    if not (in_use and copy.is_file() and original.is_file()):
        return None
    before, now = (
        [(set(fold.train), set(fold.val)) for fold in read_splits(path)] for path in (copy, original)
    )
    if before[: len(now)] == now:
        return None
    old, new = (set().union(*(cases for fold in folds for cases in fold)) for folds in (before, now))
    problem = f"has other folds than {original} ({len(new - old)} cases are new, {len(old - new)} are gone)"
    remedy = "delete the file, then plan again with --clean"
    if trained := _trained_models(Path(results, raw.name)):
        problem += f", and these models were trained by them: {', '.join(trained)}"
        remedy = f"to keep those, use another data set (-d); else move them out of {results}, {remedy}"
    return InputFileError(copy, problem, remedy)


def _trained_models(results: Path) -> list[str]:
    return sorted({path.parts[-3] for path in results.glob("*__*/fold_[0-9]*/checkpoint_*.pth")})


# --- output ------------------------------------------------------------------------------------------------


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


# --- private and fragile names -----------------------------------------------------------------------------


FRAGILE_NAMES: dict[str, tuple[str, ...]] = {
    "nnunetv2.training.nnUNetTrainer.nnUNetTrainer": (
        "nnUNetDataLoader",  # replaced while a trainer makes its loaders
        "nnUNetTrainer._build_loss",
        "nnUNetTrainer._get_deep_supervision_scales",
        "nnUNetTrainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size",
        "nnUNetTrainer.do_split",
        "nnUNetTrainer.get_dataloaders",
        "nnUNetTrainer.get_training_transforms",
        "nnUNetTrainer.perform_actual_validation",
        "nnUNetTrainer.set_deep_supervision_enabled",
    ),
    "nnunetv2.training.logging.nnunet_logger": (
        "LocalLogger.load_checkpoint",
        "LocalLogger.plot_progress_png",
        "MetaLogger.get_value",
    ),
    "nnunetv2.training.dataloading.nnunet_dataset": ("load_pickle",),
    "nnunetv2.training.dataloading.data_loader": ("nnUNetDataLoader.get_bbox",),
    "batchgeneratorsv2.transforms.spatial.spatial": (
        "SpatialTransform._apply_to_segmentation",
        "SpatialTransform.get_parameters",
    ),
    "nnunetv2.inference.predict_from_raw_data": (
        "nnUNetPredictor.manual_initialization",
        "nnUNetPredictor.predict_logits_from_preprocessed_data",
        "nnUNetPredictor.predict_sliding_window_return_logits",
    ),
    "nnunetv2.inference.export_prediction": (
        "convert_predicted_logits_to_segmentation_with_correct_shape",
        "export_prediction_from_logits",
    ),
    "nnunetv2.evaluation.evaluate_predictions": ("compute_metrics_on_folder", "compute_tp_fp_fn_tn"),
    "nnunetv2.preprocessing.preprocessors.default_preprocessor": ("DefaultPreprocessor.run_case_npy",),
    "nnunetv2.utilities.find_objects": ("recursive_find_trainer_class_by_name",),
    "nnunetv2.utilities.find_class_by_name": ("recursive_find_python_class",),
    "nnunetv2.preprocessing.resampling.resample_torch": ("resample_torch_fornnunet",),
}
"""What this package overrides, replaces or calls of nnU-Net that is not documented, by module.

A test requires that each name exists in the installed nnU-Net, so that an upgrade that renames one fails.
"""

FRAGILE_ATTRIBUTES = (
    "_best_ema",
    "my_init_kwargs",
    "inference_allowed_mirroring_axes",
    "logger.local_logger",
)
"""The same for attributes of a trainer, `nnUNetTrainer`."""


def replaced_data_loader(loader: Callable[..., Any]) -> AbstractContextManager[None]:
    """Let nnU-Net's trainers make loaders of another class; its `get_dataloaders` names the class itself."""
    return _replaced("nnunetv2.training.nnUNetTrainer.nnUNetTrainer", "nnUNetDataLoader", loader)


def without_pickles() -> AbstractContextManager[None]:
    """Let nnU-Net's classes of preprocessed data sets load arrays alone, not the pickles next to them."""
    return _replaced("nnunetv2.training.dataloading.nnunet_dataset", "load_pickle", lambda _: {})


def loading(checkpoint: dict[str, Any]) -> AbstractContextManager[None]:
    """Let `torch.load` return a checkpoint that was read before; nnU-Net's trainers read any pickle."""
    return _replaced("torch", "load", lambda *_, **__: checkpoint)


@contextmanager
def _replaced(module: str, name: str, value: object) -> Iterator[None]:
    found = import_module(module)
    stock = getattr(found, name)
    setattr(found, name, value)
    try:
        yield
    finally:
        setattr(found, name, stock)


def replace_local_logger(trainer: Any, make: Any) -> None:  # noqa: ANN401
    """Replace the log that a trainer plots and saves by `make(verbose=...)`, a `LocalLogger`."""
    trainer.logger.local_logger = make(verbose=trainer.logger.local_logger.verbose)


def forget_best_score(trainer: Any) -> None:  # noqa: ANN401
    """Let the coming epoch of a trainer write `checkpoint_best.pth`, whatever the score of those before."""
    trainer._best_ema = None


def add_to_checkpoints(trainer: Any, key: str, value: object) -> None:  # noqa: ANN401
    """Keep a value in every checkpoint of a trainer, next to its arguments."""
    trainer.my_init_kwargs[key] = value
