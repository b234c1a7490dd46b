"""nnU-Net's folders of trained models: the validation predictions of every fold."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.results.case import Model, PredictedCase, Results
from sgnet_nnunet.results.dataset_folders import DatasetFolders, find_dataset, find_references
from sgnet_nnunet.results.folds import validation_cases
from sgnet_nnunet.results.labels import Labels, read_labels_of
from sgnet_nnunet.results.mask_folder import find_images, find_mask, find_probabilities
from sgnet_nnunet.results.model_name import ModelName, parse_models
from sgnet_nnunet.results.patients import patients_of


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
        models=tuple(Model(name=model.given, folder=folders.results / model.folder) for model in names),
        cases=tuple(found),
    )


def _common_labels(folders: DatasetFolders, models: Sequence[ModelName]) -> Labels:
    """Return the labels that all models were trained with."""
    common: Labels | None = None
    for model in models:
        folder = folders.results / model.folder
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
    folder = folders.results / model.folder / f"fold_{fold}"
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
    folder = folders.results / model.folder / f"fold_{fold}"
    trained = (folder / "checkpoint_final.pth").is_file() or (folder / "validation").is_dir()
    command = model.train_command(folders.name, fold, validate=trained)
    path, problem = folder, "there is no such fold"
    if trained:
        path, problem = folder / "validation" / f"{name}.nii.gz", "there is no such prediction"
    elif folder.is_dir():
        problem = "the fold has not been trained to the end"
    return InputFileError(path, problem, f"run {command}, or score it as empty with --allow-missing")
