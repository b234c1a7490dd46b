"""Predictions on disk: which model predicted which case, where its reference is, and what the labels mean."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import realpath  # Path.resolve fails on a loop of links
from pathlib import Path

from sgnet_nnunet.dataset.splits import patients_of
from sgnet_nnunet.errors import InputFileError, printable
from sgnet_nnunet.files import read_json
from sgnet_nnunet.nnunet import (
    CHECKPOINT,
    SPLITS,
    DatasetFolders,
    ModelName,
    find_dataset,
    find_images,
    find_mask,
    find_masks,
    find_probabilities,
    find_references,
    parse_models,
    validation_cases,
)

logger = logging.getLogger(__name__)

DATASET_JSON = "dataset.json"
REPORT = "conversion_report.csv"


@dataclass(frozen=True, kw_only=True)
class PredictedCase:
    """A case that a model has predicted, or should have.

    Attributes:
        model: Name of the model, unique within a comparison.
        fold: The fold whose weights predicted it, as nnU-Net names it; "" outside of folds.
        name: That of the mask's file without its ending.
        patient: Whose scans stay together in every statistic.
        prediction: Predicted mask; None if it is missing and that is allowed.
        images: The case's images, one a channel in nnU-Net's order; empty if they are not at hand.
        probabilities: nnU-Net's `.npz` of `--npz`; None if it was not saved.
    """

    model: str
    fold: str = ""
    name: str
    patient: str
    reference: Path
    prediction: Path | None
    images: tuple[Path, ...] = ()
    probabilities: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is evaluated: one label, or one region of several, with the values of its voxels."""

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model whose predictions are evaluated; None for what is not known.

    Attributes:
        name: Unique within a comparison.
        parameters: Number of trained parameters.
        seconds_per_case: Measured time of its network on one case.
        engine: Engine that this time was measured with, such as `sparse` or `tiled, step 0.5`.
        folder: nnU-Net's folder of its training; None for a plain folder of masks.
    """

    name: str
    parameters: int | None = None
    seconds_per_case: float | None = None
    engine: str = ""
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the values of a data set's masks mean.

    Attributes:
        targets: The labels or regions that are evaluated, in the order of `dataset.json`.
        known_values: Every value that a mask may have, the background's 0 among them.
        ignored_value: Voxels where a reference has it count in neither mask, as in nnU-Net's own evaluation.
    """

    targets: tuple[Target, ...]
    known_values: frozenset[int]
    ignored_value: int | None = None


FOREGROUND = Labels(
    targets=(Target(name="foreground", values=tuple(range(1, 256))),), known_values=frozenset(range(256))
)
"""Everything above 0, up to 255, for folders of masks without a `dataset.json`."""


@dataclass(frozen=True, kw_only=True)
class Results(Labels):
    """Every model's prediction of every case.

    Attributes:
        dataset: Name of the data set, or of the reference folder.
        models: In the order they were named.
        cases: Model by model, then case by case in the order of their names.
        trust: Allow the models to run code of their own, see `inference.trust`.
    """

    dataset: str
    models: tuple[Model, ...]
    cases: tuple[PredictedCase, ...]
    trust: bool = False


def read_labels_of(dataset_json: Path) -> Labels:
    """Return what nnU-Net's `dataset.json` says of the masks; background and `ignore` are no targets.

    Raises:
        InputFileError: If the file is not there, is not JSON, or has no labels as nnU-Net wants them.
    """
    labels = read_json(dataset_json).get("labels")
    if not isinstance(labels, dict):
        raise InputFileError(dataset_json, "has no labels", "name nnU-Net's dataset.json of the data set")
    values = {printable(name): _values(dataset_json, name, value) for name, value in labels.items()}
    known = frozenset({0}.union(*values.values()))
    ignored = values.pop("ignore", (None,))
    targets = tuple(Target(name=name, values=found) for name, found in values.items() if set(found) != {0})
    if not targets:
        raise InputFileError(dataset_json, "has no label but the background", "add the label of the lesions")
    return Labels(targets=targets, known_values=known, ignored_value=ignored[0])


def _values(dataset_json: Path, name: str, value: object) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list) else (value,)
    if not values or any(type(entry) is not int or entry < 0 for entry in values):
        remedy = "give an integer of 0 or above, or a list of them"
        raise InputFileError(dataset_json, f"label {name!r} is {value!r}", remedy)
    return values


def results_of_folders(
    predictions: Path | str | Mapping[str, Path | str],
    references: Path | str,
    *,
    labels: Path | None = None,
    patients: Path | None = None,
    images: Path | None = None,
    allow_missing: bool = False,
) -> Results:
    """Return the predictions of one or more models next to the references of the same names.

    Args:
        predictions: Folder of predicted masks, `CASE.nii.gz` or `CASE.nii`, whose name is the model's; or
            a mapping of such folders by the models' names.
        references: Folder of reference masks, named alike.
        labels: nnU-Net's `dataset.json` that says what the masks' values mean; by default the one in the
            references' folder, in the one above or in the predictions' folders. Without any, everything
            above 0 is evaluated as `foreground`.
        patients: CSV with the columns `case` and `patient`.
        images: Folder of images, `CASE_0000.nii.gz` and so on; by default nnU-Net's `imagesTr` next to
            references in `labelsTr` (`imagesTs` alike).
        allow_missing: Take a reference without a prediction as a case with `prediction=None`.

    Raises:
        InputFileError: If a folder is empty, has two files of one case, or a prediction is missing.
    """
    references = Path(references)
    if not isinstance(predictions, Mapping):
        predictions = {Path(realpath(predictions)).name: predictions}
    folders = {name: Path(folder) for name, folder in predictions.items()}
    expected = find_masks(references)
    found = {
        model: _find_predictions(folder, references, expected, allow_missing=allow_missing)
        for model, folder in folders.items()
    }
    place = Path(realpath(references))
    if images is None and place.name in {"labelsTr", "labelsTs"}:
        images = place.with_name(place.name.replace("labels", "images"))
    candidates = (folder / DATASET_JSON for folder in (references, references.parent, *folders.values()))
    labels = labels or next((path for path in candidates if path.is_file()), None)
    patient = patients_of(expected, table=patients, conversion_report=references.parent / REPORT)
    return Results(
        dataset=printable(place.name),
        models=tuple(Model(name=printable(name)) for name in folders),
        cases=tuple(
            PredictedCase(
                model=printable(model),
                name=printable(name),
                patient=printable(patient[name]),
                reference=reference,
                prediction=found[model].get(name),
                images=find_images(images, name) if images else (),
                probabilities=find_probabilities(folder, name),
            )
            for model, folder in folders.items()
            for name, reference in expected.items()
        ),
        **vars(read_labels_of(labels) if labels else FOREGROUND),
    )


def _find_predictions(
    folder: Path, references: Path, expected: Mapping[str, Path], *, allow_missing: bool
) -> dict[str, Path]:
    found = find_masks(folder)
    for name in sorted(set(found) - set(expected)):
        logger.warning("%s: has no reference in %s and is left out", found[name], references)
    absent = [name for name in expected if name not in found]
    if len(absent) == len(expected):
        problem = f"holds no prediction of the cases in {references}"
        raise InputFileError(folder, problem, "name folders whose files have the same names")
    if absent and not allow_missing:
        path = folder / expected[absent[0]].name
        problem = f"there is no such prediction ({len(absent)} of {len(expected)} are missing)"
        raise InputFileError(path, problem, "predict it, or score it as empty with --allow-missing")
    return found


def results_of_models(
    dataset: str,
    models: Sequence[str],
    folds: Sequence[str],
    *,
    patients: Path | None = None,
    allow_missing: bool = False,
) -> Results:
    """Return the validation predictions of trained models, all over the same cases.

    The references are those in nnU-Net's `gt_segmentations`, the cases those that `splits_final.json`
    validates the folds (numbers or `all`) on. Models are named `TRAINER[__PLANS[__CONFIGURATION]]`;
    `patients` is a CSV with the columns `case` and `patient`. With `allow_missing` a case without a
    prediction, or a fold without a folder, has `prediction=None`; a model without a folder is an error.

    Raises:
        SGNetError: If anything is missing or contradicts the rest.
    """
    names = parse_models(list(models))
    folders = find_dataset(dataset)
    references = find_references(folders)
    # nnU-Net keeps the references of cases that are no longer in the data set.
    kept = folders.raw / "labelsTr" if folders.raw else folders.references
    every_case = [name for name in references if find_mask(kept, name)] or references
    of_folds = validation_cases(folders.preprocessed / SPLITS, folds, every_case)
    fold_of = {name: fold for fold, of_fold in of_folds.items() for name in of_fold}
    if unknown := [name for name in fold_of if name not in references]:
        path = folders.references / f"{unknown[0]}.nii.gz"
        problem = "there is no such reference, but splits_final.json has the case"
        raise InputFileError(path, problem, "run nnUNetv2_plan_and_preprocess again")
    labels = _common_labels(folders, names)
    report = folders.raw and folders.raw / REPORT
    patient = patients_of(fold_of, table=patients, conversion_report=report)
    return Results(
        dataset=folders.name,
        models=tuple(Model(name=model.given, folder=folders.model(model)) for model in names),
        cases=tuple(
            PredictedCase(
                model=model.given,
                fold=fold_of[name],
                name=printable(name),
                patient=printable(patient[name]),
                reference=references[name],
                prediction=_find_validation(folders, model, fold_of[name], name, required=not allow_missing),
                images=find_images(folders.raw / "imagesTr", name) if folders.raw else (),
                probabilities=find_probabilities(_validation(folders, model, fold_of[name]), name),
            )
            for model in names
            for name in sorted(fold_of)
        ),
        **vars(labels),
    )


def _common_labels(folders: DatasetFolders, models: Sequence[ModelName]) -> Labels:
    """Return the labels that all models were trained with."""
    found = {}
    for model in models:
        folder = folders.model(model)
        if not folder.is_dir():
            trained = ", ".join(sorted(path.name for path in folders.results.glob("[!.]*__*__*"))) or "none"
            remedy = f"name another, or run {model.train_command(folders.name, '0')}"
            raise InputFileError(folder, f"there is no such model (trained: {trained})", remedy)
        found[folder / DATASET_JSON] = read_labels_of(folder / DATASET_JSON)
    first, *others = found
    for path in others:
        if found[path] != found[first]:
            problem = f"its labels are not those of {models[0].given}"
            raise InputFileError(path, problem, "compare models trained on the same labels")
    return found[first]


def _validation(folders: DatasetFolders, model: ModelName, fold: str) -> Path:
    return folders.model(model) / f"fold_{fold}" / "validation"


def _find_validation(
    folders: DatasetFolders, model: ModelName, fold: str, name: str, *, required: bool
) -> Path | None:
    validation = _validation(folders, model, fold)
    prediction = find_mask(validation, name)
    if prediction is None and required:
        folder = validation.parent
        trained = (folder / CHECKPOINT).is_file() or validation.is_dir()
        command = model.train_command(folders.name, fold, validate=trained)
        path, problem = validation / f"{name}.nii.gz", "there is no such prediction"
        if not trained:
            path = folder
            problem = "the fold's training has not ended" if folder.is_dir() else "there is no such fold"
        raise InputFileError(path, problem, f"run {command}, or score it as empty with --allow-missing")
    return prediction
