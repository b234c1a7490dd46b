"""One model's answer to one case, as files on disk."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sgnet_nnunet.dataset.splits import patients_of
from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.files import read_json
from sgnet_nnunet.nnunet import (
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


@dataclass(frozen=True, kw_only=True)
class PredictedCase:
    """A case that a model has predicted, or should have.

    Attributes:
        model: Name of the model, unique within a comparison.
        fold: The fold whose weights predicted it, as nnU-Net names it; "" outside of folds.
        name: Name of the case, the file's without its ending.
        patient: The patient, whose scans stay together in every statistic.
        reference: Reference mask.
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
    """What is judged: one label, or one region of several labels.

    Attributes:
        name: Its name in `dataset.json`.
        values: Values of the voxels that belong to it.
    """

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model whose predictions are judged.

    Attributes:
        name: Unique within a comparison.
        parameters: Trained parameters; None if no weights are at hand.
        seconds_per_case: Measured time of its network on one case; None if not measured.
        folder: nnU-Net's folder of its training; None for a plain folder of masks.
    """

    name: str
    parameters: int | None = None
    seconds_per_case: float | None = None
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """Every model's answer to every case.

    Attributes:
        dataset: Name of the data set, or of the reference folder.
        targets: The labels or regions that are judged.
        known_values: Every value that a mask of the data set may have, the background's 0 among them.
        ignored_value: Value of the voxels of a reference that count in neither mask; None if there is none.
        models: The models, in the order they were named.
        cases: Model by model, then case by case in the order of their names.
    """

    dataset: str
    targets: tuple[Target, ...]
    known_values: frozenset[int]
    ignored_value: int | None = None
    models: tuple[Model, ...]
    cases: tuple[PredictedCase, ...]

    @property
    def missing(self) -> tuple[PredictedCase, ...]:
        """The cases without a prediction."""
        return tuple(case for case in self.cases if case.prediction is None)


LARGEST_FOREGROUND = 255
"""Largest value that is foreground where no `dataset.json` says what the values mean."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What the values of a data set's masks mean.

    Attributes:
        targets: The labels or regions that are judged, in the order of `dataset.json`.
        known_values: Every value that a mask may have, the background's 0 among them.
        ignored_value: Value of the voxels of a reference that count in neither mask, as in nnU-Net's
            own evaluation; None if there is none.
    """

    targets: tuple[Target, ...]
    known_values: frozenset[int]
    ignored_value: int | None = None


FOREGROUND = Labels(
    targets=(Target(name="foreground", values=tuple(range(1, LARGEST_FOREGROUND + 1))),),
    known_values=frozenset(range(LARGEST_FOREGROUND + 1)),
)
"""Everything above 0, for folders of masks without a `dataset.json`."""


def read_labels_of(dataset_json: Path) -> Labels:
    """Return what nnU-Net's `dataset.json` says of the masks.

    A label is one value, a region a list of them; background is left out. The label `ignore` is not
    judged either.

    Raises:
        InputFileError: If the file is not there, is not JSON, or has no labels as nnU-Net wants them.
    """
    labels = read_json(dataset_json).get("labels")
    if not isinstance(labels, dict):
        raise InputFileError(dataset_json, "has no labels", "name nnU-Net's dataset.json of the data set")
    values = {str(name): _values(dataset_json, name, value) for name, value in labels.items()}
    ignored = values.pop("ignore", None)
    targets = tuple(Target(name=name, values=found) for name, found in values.items() if set(found) != {0})
    if not targets:
        raise InputFileError(dataset_json, "has no label but the background", "add the label of the lesions")
    known = {0, *(value for found in values.values() for value in found), *(ignored or ())}
    return Labels(
        targets=targets, known_values=frozenset(known), ignored_value=ignored[0] if ignored else None
    )


def _values(dataset_json: Path, name: str, value: object) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, list) else (value,)
    if not values or any(type(entry) is not int or entry < 0 for entry in values):
        raise InputFileError(
            dataset_json, f"label {name!r} is {value!r}", "give an integer of 0 or above, or a list of them"
        )
    return values


logger = logging.getLogger(__name__)

DATASET_JSON = "dataset.json"


def results_of_folders(
    predictions: Path,
    references: Path,
    *,
    labels: Path | None = None,
    patients: Path | None = None,
    images: Path | None = None,
    allow_missing: bool = False,
) -> Results:
    """Return one model's predictions beside the references of the same names.

    Without `labels`, a `dataset.json` is looked for in the references' folder, in the one above and
    in the predictions' folder; without any, everything above 0 is judged as `foreground`. Without
    `images`, nnU-Net's `imagesTr` beside references in `labelsTr` is taken (`imagesTs` alike).

    Args:
        predictions: Folder of predicted masks, `CASE.nii.gz` or `CASE.nii`.
        references: Folder of reference masks, named alike.
        labels: nnU-Net's `dataset.json` that says what the masks' values mean.
        patients: CSV with the columns `case` and `patient`.
        images: Folder of images, `CASE_0000.nii.gz` and so on.
        allow_missing: Take a reference without a prediction as a case with `prediction=None`.

    Raises:
        InputFileError: If a folder is empty, has two files of one case, or a prediction is missing.
    """
    wanted = find_masks(references)
    found = find_masks(predictions)
    for name in sorted(set(found) - set(wanted)):
        logger.warning("%s: has no reference in %s and is left out", found[name], references)
    if absent := [name for name in wanted if name not in found]:
        if len(absent) == len(wanted):
            raise InputFileError(
                predictions,
                f"holds no prediction of the cases in {references}",
                "name folders whose files have the same names",
            )
        if not allow_missing:
            raise InputFileError(
                predictions / wanted[absent[0]].name,
                f"there is no such prediction ({len(absent)} of {len(wanted)} are missing)",
                "predict it, or score it as empty with --allow-missing",
            )
    meaning = _labels(labels, references, predictions)
    image_folder = images or _images_beside(references)
    model = Model(name=predictions.resolve().name)
    patient = patients_of(
        wanted, table=patients, conversion_report=references.parent / "conversion_report.csv"
    )
    return Results(
        dataset=references.resolve().name,
        targets=meaning.targets,
        known_values=meaning.known_values,
        ignored_value=meaning.ignored_value,
        models=(model,),
        cases=tuple(
            PredictedCase(
                model=model.name,
                name=name,
                patient=patient[name],
                reference=reference,
                prediction=found.get(name),
                images=find_images(image_folder, name) if image_folder else (),
                probabilities=find_probabilities(predictions, name),
            )
            for name, reference in wanted.items()
        ),
    )


def _labels(given: Path | None, references: Path, predictions: Path) -> Labels:
    beside = (folder / DATASET_JSON for folder in (references, references.parent, predictions))
    path = given or next((path for path in beside if path.is_file()), None)
    return FOREGROUND if path is None else read_labels_of(path)


def _images_beside(references: Path) -> Path | None:
    name = references.resolve().name
    return references.resolve().with_name(f"images{name[6:]}") if name in {"labelsTr", "labelsTs"} else None


def results_of_models(
    dataset: str,
    models: Sequence[str],
    folds: Sequence[str],
    *,
    patients: Path | None = None,
    allow_missing: bool = False,
) -> Results:
    """Return the validation predictions of trained models, all over the same cases.

    The references are those in nnU-Net's `gt_segmentations`, the cases those that
    `splits_final.json` validates the folds on.

    Args:
        dataset: Number or name of the data set.
        models: Names of the models, `TRAINER[__PLANS[__CONFIGURATION]]`, any trainer and plans.
        folds: The folds, numbers or `all`.
        patients: CSV with the columns `case` and `patient`.
        allow_missing: Take a case without a prediction, or a fold without a folder, as
            `prediction=None`. A model without a folder is always an error.

    Raises:
        SGNetError: If anything is missing or contradicts the rest; the message names it and the
            command that mends it.
    """
    names = parse_models(list(models))
    folders = find_dataset(dataset)
    references = find_references(folders)
    cases = validation_cases(folders.preprocessed / "splits_final.json", folds, references)
    for name in (name for names_of_fold in cases.values() for name in names_of_fold):
        if name not in references:
            raise InputFileError(
                folders.references / f"{name}.nii.gz",
                "there is no such reference, but splits_final.json has the case",
                "run nnUNetv2_plan_and_preprocess again",
            )
    labels = _common_labels(folders, names)
    patient = patients_of(
        (name for names_of_fold in cases.values() for name in names_of_fold),
        table=patients,
        conversion_report=folders.raw and folders.raw / "conversion_report.csv",
    )
    found = [
        _case(folders, model, fold, name, patient[name], references, allow_missing=allow_missing)
        for model in names
        for name, fold in sorted((name, fold) for fold, fold_cases in cases.items() for name in fold_cases)
    ]
    return Results(
        dataset=folders.name,
        targets=labels.targets,
        known_values=labels.known_values,
        ignored_value=labels.ignored_value,
        models=tuple(Model(name=model.given, folder=folders.model(model)) for model in names),
        cases=tuple(found),
    )


def _common_labels(folders: DatasetFolders, models: Sequence[ModelName]) -> Labels:
    """Return the labels that all models were trained with."""
    common: Labels | None = None
    for model in models:
        folder = folders.model(model)
        if not folder.is_dir():
            trained = ", ".join(sorted(path.name for path in folders.results.glob("*__*__*"))) or "none"
            raise InputFileError(
                folder,
                f"there is no such model (trained: {trained})",
                f"name another, or run {model.train_command(folders.name, '0')}",
            )
        labels = read_labels_of(folder / "dataset.json")
        if common is not None and labels != common:
            raise InputFileError(
                folder / "dataset.json",
                f"its labels are not those of {models[0].given}",
                "compare models trained on the same labels",
            )
        common = labels
    if common is None:
        raise ValueError("models must not be empty")
    return common


def _case(
    folders: DatasetFolders,
    model: ModelName,
    fold: str,
    name: str,
    patient: str,
    references: Mapping[str, Path],
    *,
    allow_missing: bool,
) -> PredictedCase:
    folder = folders.model(model) / f"fold_{fold}"
    prediction = find_mask(folder / "validation", name)
    if prediction is None and not allow_missing:
        raise _missing(folders, model, fold, name)
    return PredictedCase(
        model=model.given,
        fold=fold,
        name=name,
        patient=patient,
        reference=references[name],
        prediction=prediction,
        images=find_images(folders.raw / "imagesTr", name) if folders.raw else (),
        probabilities=find_probabilities(folder / "validation", name),
    )


def _missing(folders: DatasetFolders, model: ModelName, fold: str, name: str) -> InputFileError:
    """Return the error that names what is missing: the fold's training, or only a prediction."""
    folder = folders.model(model) / f"fold_{fold}"
    trained = (folder / "checkpoint_final.pth").is_file() or (folder / "validation").is_dir()
    command = model.train_command(folders.name, fold, validate=trained)
    path, problem = folder, "there is no such fold"
    if trained:
        path, problem = folder / "validation" / f"{name}.nii.gz", "there is no such prediction"
    elif folder.is_dir():
        problem = "the fold has not been trained to the end"
    return InputFileError(path, problem, f"run {command}, or score it as empty with --allow-missing")
