"""A folder of predicted masks beside a folder of references, whoever made them."""

import logging
from pathlib import Path

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.results.case import Model, PredictedCase, Results
from sgnet_nnunet.results.labels import FOREGROUND, Labels, read_labels_of
from sgnet_nnunet.results.mask_folder import find_images, find_masks, find_probabilities
from sgnet_nnunet.results.patients import patients_of

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
