"""Former names, so that models, plans and logs of version 0.1.0 keep loading: the one table of them."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

GATES = {"admission": "hard_spatial"}
"""Values of `gate` in plans."""

TRAINERS = {
    "UNetTrainer": "BaselineUNetTrainer",
    "AttentionUNetTrainer": "BaselineAttentionUNetTrainer",
    "ResUNetTrainer": "BaselineResUNetTrainer",
}
"""Class names in checkpoints, and in the names of model folders."""

GEOMETRY = {"held_open": "bypassed"}
"""Fields of a gate in `export.json`."""

WEIGHTS = {
    ".admission.held_open": ".hard_gate.bypassed",
    ".admission.": ".hard_gate.",
    "side_heads.": "auxiliary_heads.",
}
"""Parts of the names of SG-Net's weights; the first that occurs is replaced."""

LOG_KEYS = {
    "gate_admitted_voxels": "gate_kept_lesion_voxels",
    "gate_admitted_lesions": "gate_kept_lesions",
}
"""What a trainer logs each epoch."""

SCHEDULE = "sgnet_training_length"
"""The key of a checkpoint that held its training's schedule; it is now in nnU-Net's `init_args`."""


def rename_weights(weights: MutableMapping[str, Any]) -> None:
    """Give weights of SG-Net, by name, their present names; those that have them already stay."""
    for name in list(weights):
        for former, present in WEIGHTS.items():
            if former in name:
                weights[name.replace(former, present)] = weights.pop(name)
                break


def present_trainer(name: str) -> str:
    """Return the present name of the trainer of a checkpoint."""
    return TRAINERS.get(name, name)


def model_folder(folder: Path) -> Path:
    """Return a model's folder; if only one with its trainer's former name exists, that one.

    Args:
        folder: The folder TRAINER__PLANS__CONFIGURATION, with the trainer's present name.
    """
    trainer, *others = folder.name.split("__")
    former = next((old for old, present in TRAINERS.items() if present == trainer), None)
    if former is None or folder.exists():
        return folder
    renamed = folder.with_name("__".join([former, *others]))
    return renamed if renamed.is_dir() else folder
