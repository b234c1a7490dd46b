"""The names of trained models, and the commands of nnU-Net that make what they lack."""

from dataclasses import dataclass

from sgnet_nnunet.errors import SGNetError

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
        raise SGNetError("no model is named; give --models SGNetTrainer UNetTrainer, for example")
    seen: dict[str, str] = {}
    for model in models:
        if model.folder in seen:
            raise SGNetError(
                f"models {seen[model.folder]} and {model.given} are both {model.folder}; name it once"
            )
        seen[model.folder] = model.given
    return models
