"""Masks and probabilities out, whole or not at all, as nnU-Net writes them."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.io.atomic import atomic_path, write_text
from sgnet_nnunet.standalone.plan import Plan
from sgnet_nnunet.standalone.read import reader_class


def write_mask(path: Path, mask: NDArray[np.generic], properties: dict[str, Any], *, reader: str) -> None:
    """Write a mask by nnU-Net's writer.

    Args:
        path: The file.
        mask: Values of labels, shape (z, y, x).
        properties: Those that the reader gave.
        reader: Name of nnU-Net's class.
    """
    with atomic_path(path) as partial:
        reader_class(reader)().write_seg(mask, str(partial), properties)


def write_probabilities(
    folder: Path, name: str, probabilities: NDArray[np.float32], properties: dict[str, Any]
) -> None:
    """Write the `.npz` and `.pkl` that nnU-Net's ensembles, and `sgnet tune`, read."""
    with atomic_path(folder / f"{name}.npz") as partial:
        np.savez_compressed(partial, probabilities=probabilities)
    with atomic_path(folder / f"{name}.pkl") as partial:
        partial.write_bytes(pickle.dumps(properties))


def write_beside(folder: Path, plan: Plan, arguments: dict[str, Any]) -> None:
    """Write the three files that `nnUNetv2_predict` leaves beside its masks.

    Args:
        folder: Where the masks go.
        plan: The model's plan.
        arguments: Those of nnU-Net's `predict_from_files`.
    """
    write_text(folder / "predict_from_raw_data_args.json", json.dumps(arguments, indent=4, sort_keys=True))
    write_text(folder / "dataset.json", json.dumps(plan.dataset, indent=4))
    write_text(folder / "plans.json", json.dumps(plan.plans, indent=4))
