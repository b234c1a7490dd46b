"""How long to train: set by environment variables, kept in the checkpoint."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

from sgnet_nnunet.errors import SGNetError


@dataclass(frozen=True, kw_only=True)
class TrainingLength:
    """The length of a training.

    Attributes:
        epochs: Epochs at most.
        iters: Training batches an epoch.
        val_iters: Validation batches an epoch.
        patience: Epochs without a better moving average of the pseudo Dice before the training
            stops early; 0 never stops it early.
    """

    epochs: int = 200
    iters: int = 250
    val_iters: int = 50
    patience: int = 0

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, *, default: "TrainingLength | None" = None
    ) -> "TrainingLength":
        """Read `SGNET_EPOCHS`, `SGNET_ITERS`, `SGNET_VAL_ITERS` and `SGNET_PATIENCE`.

        Args:
            environment: Where to read them.
            default: The length where a variable is not set; None for the class's own.

        Raises:
            SGNetError: If a variable is no whole number of at least 1 (patience: 0).
        """
        given = {}
        for field in fields(cls):
            name = f"SGNET_{field.name.upper()}"
            if name in environment:
                least = 0 if field.name == "patience" else 1
                given[field.name] = _whole_number(name, environment[name], least)
        return replace(default or cls(), **given)

    def as_dict(self) -> dict[str, int]:
        """Return the four numbers by name."""
        return asdict(self)

    def stalled(self, scores: Sequence[float]) -> bool:
        """Tell whether the last `patience` scores brought nothing better than those before."""
        if not self.patience or len(scores) <= self.patience:
            return False
        return max(scores[-self.patience :]) <= max(scores[: -self.patience])


def _whole_number(name: str, text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        msg = f"{name}={text!r}: must be a whole number of at least {least}; set it again or unset it"
        raise SGNetError(msg)
    return number
