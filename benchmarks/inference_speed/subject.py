"""What is measured: a trained model, its export, and patients."""

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError
from sgnet_nnunet.files import read_json
from sgnet_nnunet.nnunet import find_cases


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A trained model and patients to predict.

    Attributes:
        model: nnU-Net's folder of the training.
        fold: The fold that is measured.
        cases: Each patient's images, one a channel.
        labels: Folder of the reference masks, or None.
        work: Folder for what is made on the way.
        ending: Ending of the files.
    """

    model: Path
    fold: str
    cases: dict[str, list[Path]]
    labels: Path | None
    work: Path
    ending: str

    @property
    def first(self) -> str:
        """The patient that is timed."""
        return next(iter(self.cases))

    @cached_property
    def exported(self) -> Path:
        """The model as `sgnet export` writes it, made when it is first asked for."""
        from sgnet_nnunet.inference.export import export_openvino  # noqa: PLC0415 - PyTorch takes seconds

        folder = self.work / "exported"
        # One of an earlier run may be of an older version of the engine.
        shutil.rmtree(folder, ignore_errors=True)
        export_openvino(self.model, folder, folds=(self.fold,))
        return folder

    def predictor(self, **options: Any) -> Any:  # noqa: ANN401 - nnU-Net has no types
        """Return nnU-Net's own predictor of the model on the CPU.

        Args:
            options: Arguments of `nnUNetPredictor`, such as `tile_step_size`.
        """
        import torch  # noqa: PLC0415
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: PLC0415

        predictor = nnUNetPredictor(
            device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False, **options
        )
        predictor.initialize_from_trained_model_folder(str(self.model), (self.fold,), "checkpoint_final.pth")
        predictor.network.load_state_dict(predictor.list_of_parameters[0])
        predictor.network.eval()
        return predictor

    def preprocessed(
        self,
        predictor: Any,  # noqa: ANN401
        case: str,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
        """Return a patient as the plan preprocesses it.

        Args:
            predictor: nnU-Net's, for its plan.
            case: The patient.

        Returns:
            The image, shape (channels, z, y, x), and the reference, (z, y, x), if there is one.
        """
        plans, configuration = predictor.plans_manager, predictor.configuration_manager
        label = None if self.labels is None else self.labels / f"{case}{self.ending}"
        there = label is not None and label.is_file()
        image, reference, _ = configuration.preprocessor_class(verbose=False).run_case(
            [str(path) for path in self.cases[case]],
            str(label) if there else None,
            plans,
            configuration,
            predictor.dataset_json,
        )
        return np.asarray(image, dtype=np.float32), reference[0] > 0 if there else None


def find_subject(model: Path, images: Path, work: Path, *, fold: str = "0") -> Subject:
    """Return a model and the patients of a folder, with the references beside them if there are any.

    Args:
        model: nnU-Net's folder of the training.
        images: nnU-Net's folder `imagesTs`; `labelsTs` beside it has the references.
        work: Folder for what is made on the way; made if missing.
        fold: The fold.

    Raises:
        InputFileError: If there is no such model, or no patient.
    """
    weights = model / f"fold_{fold}" / "checkpoint_final.pth"
    if not weights.is_file():
        raise InputFileError(weights, "there is no such file", "name the folder of a finished training")
    dataset: dict[str, Any] = read_json(model / "dataset.json")
    ending = dataset["file_ending"]
    labels = images.parent / images.name.replace("images", "labels")
    work.mkdir(parents=True, exist_ok=True)
    return Subject(
        model=model.resolve(),
        fold=fold,
        cases=find_cases(images.resolve(), file_ending=ending, channels=len(dataset["channel_names"])),
        labels=labels.resolve() if labels != images and labels.is_dir() else None,
        work=work.resolve(),
        ending=ending,
    )


def nnunet_paths(work: Path) -> dict[str, str]:
    """Return nnU-Net's three paths within the working folder; it reads them when it is imported."""
    names = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
    return {name: str(work / name) for name in names}
