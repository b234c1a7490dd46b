"""Scores of one training: each test patient's masks, lesions and gates."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.affines import voxel_sizes

from sgnet_nnunet.evaluation.lesion_metrics import find_lesions, match_lesions
from sgnet_nnunet.evaluation.measurement import score, surface_dice
from sgnet_nnunet.files import atomic_path
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.training.gate_monitor import count_gates, gates_of_image

TOLERANCE_MM = 1.0


def score_run(
    trainer: Any,  # noqa: ANN401
    raw: Path,
    predictions: Path,
    target: Path,
    *,
    gates: bool = True,
) -> None:
    """Write the scores of every test patient, and what its gates admit, to the JSON file `target`.

    Args:
        trainer: nnU-Net's trainer with the trained network.
        raw: Folder of the study's raw data.
        predictions: Folder of the masks.
        target: The file.
        gates: Whether the gates decide; held open they admit everything.
    """
    # A network that nnU-Net compiled for a GPU is wrapped; SG-Net's trainers know what is in it.
    network = getattr(trainer, "sgnet", trainer.network)
    gates = gates and isinstance(network, SGNet) and bool(network.gate_names)
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    cases = {}
    for path in sorted((raw / "labelsTs").glob("*.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        figures = _gates(trainer, raw, name) if gates else None
        cases[name] = _score_case(path, predictions / path.name) | {"gates": figures}
    document = {
        "parameters": sum(p.numel() for p in network.parameters()),
        "gates": network.gate_names if gates else [],
        "cases": cases,
    }
    with atomic_path(target) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _score_case(reference: Path, prediction: Path) -> dict[str, Any]:
    image = nib.load(reference)
    x, y, z = (float(size) for size in voxel_sizes(image.affine))
    spacing = (x, y, z)
    true = np.asarray(image.dataobj) > 0
    predicted = np.asarray(nib.load(prediction).dataobj) > 0
    match = match_lesions(find_lesions(predicted, spacing=spacing), find_lesions(true, spacing=spacing))
    return asdict(score(predicted, true, spacing=spacing)) | {
        "nsd_1mm": surface_dice(predicted, true, spacing=spacing, tolerance_mm=TOLERANCE_MM),
        "lesions": len(match.detected),
        "detected": int(match.detected.sum()),
        "false_positives": match.false_positives,
    }


def _gates(trainer: Any, raw: Path, name: str) -> dict[str, Any]:  # noqa: ANN401
    """Return the gates' figures on the network's own grid, and the lesions the finest one shuts out."""
    manager = trainer.configuration_manager
    data, segmentation, _ = manager.preprocessor_class(verbose=False).run_case(
        [str(raw / f"imagesTs/{name}_{channel:04d}.nii.gz") for channel in range(2)],
        str(raw / f"labelsTs/{name}.nii.gz"),
        trainer.plans_manager, manager, trainer.dataset_json,
    )  # fmt: skip
    masks = gates_of_image(trainer.sgnet, torch.from_numpy(data).to(trainer.device), manager.patch_size)
    foreground = torch.from_numpy(segmentation > 0)[None]
    counts = count_gates(masks, foreground)
    lesions = find_lesions(foreground[0, 0].numpy(), spacing=tuple(manager.spacing))
    finest = masks[-1][0, 0].numpy()
    admitted = np.isin(np.arange(1, lesions.number + 1), lesions.labels[finest])
    return {
        "open_fraction": counts.open_fraction,
        "lesion_voxels": counts.lesion_voxels.tolist(),
        "admitted_voxels": counts.admitted_voxels.tolist(),
        "lesions": counts.lesions.tolist(),
        "admitted_lesions": counts.admitted_lesions.tolist(),
        "shut_out_diameters_mm": lesions.diameters_mm[~admitted].tolist(),
    }
