"""What the gates of a trained network admit on whole images."""

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from sgnet_nnunet.io.atomic import atomic_path
from sgnet_nnunet.networks.gates import on_grid_of
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.training.gate_counts import GateCounts, count_gates

OVERLAP = 0.5
"""Overlap of neighbouring windows: that of nnU-Net's own validation."""


def gates_of_image(network: SGNet, image: Tensor, patch_size: Sequence[int]) -> list[Tensor]:
    """Return where each gate is open on a whole image: where any window over it is.

    Args:
        network: The network, in evaluation mode.
        image: Preprocessed, shape (channels, z, y, x), on the network's device.
        patch_size: Window size z, y, x in voxels.

    Returns:
        A mask for each gate, coarsest first; boolean, shape (1, 1, z, y, x), on the CPU.
    """
    # Imported here because MONAI takes seconds to import, and nnU-Net imports every trainer's module.
    from monai.inferers.utils import sliding_window_inference  # noqa: PLC0415

    def open_share(windows: Tensor) -> Tensor:
        masks = [on_grid_of(admission.admitted, windows) for admission in network(windows).admissions]
        return torch.cat(masks, dim=1).to(windows.dtype)

    returned, network.return_gates = network.return_gates, True
    try:
        with torch.inference_mode():
            shares = sliding_window_inference(
                image[None], tuple(patch_size), 1, open_share, overlap=OVERLAP, device=torch.device("cpu")
            )
    finally:
        network.return_gates = returned
    if not isinstance(shares, Tensor):
        raise TypeError(f"one tensor was expected from the windows; got {type(shares).__name__}")
    return list(torch.split(shares > 0, 1, dim=1))


def measure_gates(network: SGNet, image: Tensor, foreground: Tensor, patch_size: Sequence[int]) -> GateCounts:
    """Count what the gates admit on a whole image.

    Args:
        network: The network, in evaluation mode.
        image: Preprocessed, shape (channels, z, y, x), on the network's device.
        foreground: Boolean, shape (z, y, x).
        patch_size: Window size z, y, x in voxels.
    """
    return count_gates(gates_of_image(network, image, patch_size), foreground[None, None])


def write_gates(path: Path, cases: Mapping[str, GateCounts], names: Sequence[str]) -> None:
    """Write the figures of each case and of all of them, as JSON; a share of nothing is null.

    Args:
        path: The file, `gates.json` beside nnU-Net's `summary.json`.
        cases: Counts of each case; one at least.
        names: The gates, coarsest first.
    """
    total = sum_counts(cases.values())
    document = {
        "definition": "a voxel is admitted if any window of the sliding window admits it; "
        "a lesion is a 26-connected component, admitted with any of its voxels",
        "all_cases": _figures(total, names),
        "per_case": {case: _figures(counts, names) for case, counts in cases.items()},
    }
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def sum_counts(counts: Iterable[GateCounts]) -> GateCounts:
    """Return the sum of counts; one at least."""
    return reduce(operator.add, counts)


def _figures(counts: GateCounts, names: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    figures = {}
    for i, name in enumerate(names):
        voxels, lesions = int(counts.lesion_voxels[i]), int(counts.lesions[i])
        figures[name] = {
            "open_fraction": counts.open_fraction[i],
            "lesion_voxels": voxels,
            "admitted_voxel_share": counts.admitted_voxel_share[i] if voxels else None,
            "lesions": lesions,
            "admitted_lesion_share": counts.admitted_lesion_share[i] if lesions else None,
        }
    return figures
