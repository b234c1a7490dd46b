"""Former names, so that checkpoints and plans of version 0.1.0 keep loading."""

from collections.abc import MutableMapping
from typing import Any

GATES = {"admission": "hard_spatial"}
"""Values of `gate` in plans."""

TRAINERS = {
    "UNetTrainer": "BaselineUNetTrainer",
    "AttentionUNetTrainer": "BaselineAttentionUNetTrainer",
    "ResUNetTrainer": "BaselineResUNetTrainer",
}
"""Class names in checkpoints, and in the names of their folders."""

WEIGHTS = {
    ".admission.held_open": ".hard_gate.bypassed",
    ".admission.": ".hard_gate.",
    "side_heads.": "auxiliary_heads.",
}
"""Parts of the names of SG-Net's weights; the first that occurs is replaced."""


def rename_weights(weights: MutableMapping[str, Any]) -> None:
    """Give weights of SG-Net, by name, their present names; those that have them already stay."""
    for name in list(weights):
        for former, present in WEIGHTS.items():
            if former in name:
                weights[name.replace(former, present)] = weights.pop(name)
                break
