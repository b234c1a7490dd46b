"""One model's answer to one case, as files on disk."""

from dataclasses import dataclass
from pathlib import Path


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
