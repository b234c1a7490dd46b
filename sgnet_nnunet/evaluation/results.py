"""Predictions on disk: which model predicted which case, where its reference is, and what the labels mean."""

import logging
from collections.abc import Iterable, Mapping, Sequence
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

logger = logging.getLogger(__name__)

DATASET_JSON = "dataset.json"


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
    """What is evaluated: one label, or one region of several labels.

    Attributes:
        name: Its name in `dataset.json`.
        values: Values of the voxels that belong to it.
    """

    name: str
    values: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model whose predictions are evaluated.

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
class Labels:
    """What the values of a data set's masks mean.

    Attributes:
        targets: The labels or regions that are evaluated, in the order of `dataset.json`.
        known_values: Every value that a mask may have, the background's 0 among them.
        ignored_value: Value of the voxels of a reference that count in neither mask, as in nnU-Net's
            own evaluation; None if there is none.
    """

    targets: tuple[Target, ...]
    known_values: frozenset[int]
    ignored_value: int | None = None


LARGEST_FOREGROUND = 255
"""Largest value that is foreground where no `dataset.json` says what the values mean."""

FOREGROUND = Labels(
    targets=(Target(name="foreground", values=tuple(range(1, LARGEST_FOREGROUND + 1))),),
    known_values=frozenset(range(LARGEST_FOREGROUND + 1)),
)
"""Everything above 0, for folders of masks without a `dataset.json`."""


@dataclass(frozen=True, kw_only=True)
class Results(Labels):
    """Every model's prediction of every case.

    Attributes:
        dataset: Name of the data set, or of the reference folder.
        models: The models, in the order they were named.
        cases: Model by model, then case by case in the order of their names.
    """

    dataset: str
    models: tuple[Model, ...]
    cases: tuple[PredictedCase, ...]

    @property
    def missing(self) -> tuple[PredictedCase, ...]:
        """The cases without a prediction."""
        return tuple(case for case in self.cases if case.prediction is None)


def read_labels_of(dataset_json: Path) -> Labels:
    """Return what nnU-Net's `dataset.json` says of the masks.

    A label is one value, a region a list of them; background is left out. The label `ignore` is not
    evaluated either.

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


def results_of_folders(
    predictions: Path | str | Mapping[str, Path | str],
    references: Path | str,
    *,
    labels: Path | None = None,
    patients: Path | None = None,
    images: Path | None = None,
    allow_missing: bool = False,
) -> Results:
    """Return the predictions of one or more models beside the references of the same names.

    Without `labels`, a `dataset.json` is looked for in the references' folder, in the one above and
    in the predictions' folders; without any, everything above 0 is evaluated as `foreground`. Without
    `images`, nnU-Net's `imagesTr` beside references in `labelsTr` is taken (`imagesTs` alike).

    Args:
        predictions: Folder of predicted masks, `CASE.nii.gz` or `CASE.nii`, whose name is the model's; or
            a mapping of such folders by the models' names.
        references: Folder of reference masks, named alike.
        labels: nnU-Net's `dataset.json` that says what the masks' values mean.
        patients: CSV with the columns `case` and `patient`.
        images: Folder of images, `CASE_0000.nii.gz` and so on.
        allow_missing: Take a reference without a prediction as a case with `prediction=None`.

    Raises:
        InputFileError: If a folder is empty, has two files of one case, or a prediction is missing.
    """
    references = Path(references)
    if isinstance(predictions, Mapping):
        folders = {name: Path(folder) for name, folder in predictions.items()}
    else:
        folders = {Path(predictions).resolve().name: Path(predictions)}
    expected = find_masks(references)
    found = {
        model: _find_predictions(folder, references, expected, allow_missing=allow_missing)
        for model, folder in folders.items()
    }
    image_folder = images or _images_beside(references)
    patient = patients_of(
        expected, table=patients, conversion_report=references.parent / "conversion_report.csv"
    )
    return Results(
        dataset=references.resolve().name,
        models=tuple(Model(name=name) for name in folders),
        cases=tuple(
            PredictedCase(
                model=model,
                name=name,
                patient=patient[name],
                reference=reference,
                prediction=found[model].get(name),
                images=find_images(image_folder, name) if image_folder else (),
                probabilities=find_probabilities(folder, name),
            )
            for model, folder in folders.items()
            for name, reference in expected.items()
        ),
        **vars(_labels(labels, references, folders.values())),
    )


def _find_predictions(
    folder: Path, references: Path, expected: Mapping[str, Path], *, allow_missing: bool
) -> dict[str, Path]:
    """Return a folder's prediction of each case that has one."""
    found = find_masks(folder)
    for name in sorted(set(found) - set(expected)):
        logger.warning("%s: has no reference in %s and is left out", found[name], references)
    absent = [name for name in expected if name not in found]
    if len(absent) == len(expected):
        raise InputFileError(
            folder,
            f"holds no prediction of the cases in {references}",
            "name folders whose files have the same names",
        )
    if absent and not allow_missing:
        raise InputFileError(
            folder / expected[absent[0]].name,
            f"there is no such prediction ({len(absent)} of {len(expected)} are missing)",
            "predict it, or score it as empty with --allow-missing",
        )
    return found


def _labels(given: Path | None, references: Path, predictions: Iterable[Path]) -> Labels:
    beside = (folder / DATASET_JSON for folder in (references, references.parent, *predictions))
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
            command that fixes it.
    """
    names = parse_models(list(models))
    folders = find_dataset(dataset)
    references = find_references(folders)
    of_folds = validation_cases(folders.preprocessed / "splits_final.json", folds, references)
    fold_of = {name: fold for fold, of_fold in of_folds.items() for name in of_fold}
    for name in fold_of:
        if name not in references:
            raise InputFileError(
                folders.references / f"{name}.nii.gz",
                "there is no such reference, but splits_final.json has the case",
                "run nnUNetv2_plan_and_preprocess again",
            )
    labels = _common_labels(folders, names)
    patient = patients_of(
        fold_of, table=patients, conversion_report=folders.raw and folders.raw / "conversion_report.csv"
    )
    return Results(
        dataset=folders.name,
        models=tuple(Model(name=model.given, folder=folders.model(model)) for model in names),
        cases=tuple(
            _case(folders, model, fold_of[name], name, patient[name], references, allow_missing=allow_missing)
            for model in names
            for name in sorted(fold_of)
        ),
        **vars(labels),
    )


def _common_labels(folders: DatasetFolders, models: Sequence[ModelName]) -> Labels:
    """Return the labels that all models were trained with."""
    labels, *others = (_labels_of_model(folders, model) for model in models)
    for model, other in zip(models[1:], others, strict=True):
        if other != labels:
            raise InputFileError(
                folders.model(model) / DATASET_JSON,
                f"its labels are not those of {models[0].given}",
                "compare models trained on the same labels",
            )
    return labels


def _labels_of_model(folders: DatasetFolders, model: ModelName) -> Labels:
    folder = folders.model(model)
    if not folder.is_dir():
        trained = ", ".join(sorted(path.name for path in folders.results.glob("*__*__*"))) or "none"
        raise InputFileError(
            folder,
            f"there is no such model (trained: {trained})",
            f"name another, or run {model.train_command(folders.name, '0')}",
        )
    return read_labels_of(folder / DATASET_JSON)


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
    validation = folder / "validation"
    prediction = find_mask(validation, name)
    if prediction is None and not allow_missing:
        trained = (folder / "checkpoint_final.pth").is_file() or validation.is_dir()
        command = model.train_command(folders.name, fold, validate=trained)
        path, problem = validation / f"{name}.nii.gz", "there is no such prediction"
        if not trained:
            path = folder
            problem = "the fold's training has not ended" if folder.is_dir() else "there is no such fold"
        raise InputFileError(path, problem, f"run {command}, or score it as empty with --allow-missing")
    return PredictedCase(
        model=model.given,
        fold=fold,
        name=name,
        patient=patient,
        reference=references[name],
        prediction=prediction,
        images=find_images(folders.raw / "imagesTr", name) if folders.raw else (),
        probabilities=find_probabilities(validation, name),
    )
