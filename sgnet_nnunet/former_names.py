"""Table of former names, with which models, plans and logs of version 0.1.0 are loaded."""

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

LOG_KEYS = {"gate_admitted_voxels": "gate_kept_lesion_voxels", "gate_admitted_lesions": "gate_kept_lesions"}
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


def present_geometry(content: Any) -> Any:  # noqa: ANN401 - what JSON can hold
    """Return a part of `export.json` with the present names of its gates' fields."""
    if isinstance(content, dict):
        return {GEOMETRY.get(key, key): present_geometry(value) for key, value in content.items()}
    return [present_geometry(value) for value in content] if isinstance(content, list) else content


def present_trainer(name: str) -> str:
    """Return the present name of the trainer of a checkpoint."""
    return TRAINERS.get(name, name)


def model_folder(folder: Path) -> Path:
    """Return a model's folder, TRAINER__PLANS__CONFIGURATION; or, if it does not exist, that of 0.1.0."""
    trainer, *others = folder.name.split("__")
    former = [folder.with_name("__".join([old, *others])) for old, new in TRAINERS.items() if new == trainer]
    return next((old for old in former if old.is_dir() and not folder.exists()), folder)
