"""How many lesions the gates would admit at other thresholds, and at what price in open voxels.

The thresholds are set on the training patients, gate by gate from the coarsest, so that all but a share
of their lesion voxels are admitted; the figures are those of the test patients. Where a network has not
learnt the lesions, no threshold admits them without opening everything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from sgnet_nnunet.evaluation.lesion_metrics import find_lesions, match_lesions
from sgnet_nnunet.inference.trained_model import load_predictor
from sgnet_nnunet.networks.gates import HardSpatialGate, on_grid_of
from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.training.gate_monitor import count_gates, sum_counts

SHUT_OUT = (None, 0.01, 0.001)
"""Shares of the training patients' lesion voxels that each gate may shut out; None keeps the plan's tau."""


@dataclass(frozen=True)
class Scan:
    """A preprocessed case, padded to whole voxels of the coarsest level.

    Attributes:
        image: Shape (1, channels, z, y, x).
        foreground: Boolean, shape (1, 1, z, y, x).
        spacing: Voxel size in mm along z, y, x.
    """

    image: Tensor
    foreground: Tensor
    spacing: tuple[float, ...]


def measure_thresholds(model: Path, raw: Path) -> list[dict[str, Any]]:
    """Return the rows of a trained network.

    Args:
        model: nnU-Net's folder of a training with hard spatial gates.
        raw: Folder of the study's raw data.
    """
    predictor = load_predictor(model)
    training, test = (list(_scans(predictor, raw, part)) for part in ("Tr", "Ts"))
    network = predictor.network
    if not isinstance(network, SGNet):
        raise TypeError(f"{model}: an SGNet was expected; got {type(network).__name__}")
    return try_thresholds(network, training, test)


def try_thresholds(network: SGNet, training: Sequence[Scan], test: Sequence[Scan]) -> list[dict[str, Any]]:
    """Return a row for each entry of `SHUT_OUT`: thresholds, and the figures of both kinds of patients.

    Args:
        network: A network with hard spatial gates, in evaluation mode; its thresholds are changed.
        training: The patients that the thresholds are set on.
        test: The patients held out.
    """
    network.return_gates = True
    gates = [module for module in network.modules() if isinstance(module, HardSpatialGate)]
    rows = []
    for share in SHUT_OUT:
        if share is not None:
            _set_thresholds(network, gates, training, share)
        rows.append(
            {
                "shut_out_share": share,
                "thresholds": [float(torch.sigmoid(torch.tensor(gate.score_threshold))) for gate in gates],
                "training": _figures(network, training),
                "test": _figures(network, test),
            }
        )
    return rows


def _set_thresholds(
    network: SGNet, gates: Sequence[HardSpatialGate], training: Sequence[Scan], share: float
) -> None:
    for gate in gates:
        gate.score_threshold = -np.inf
    for level, gate in enumerate(gates):
        gate.score_threshold = float(np.quantile(_lesion_scores(network, gate, level, training), share))


def _scans(predictor: Any, raw: Path, part: str) -> Iterator[Scan]:  # noqa: ANN401
    manager = predictor.configuration_manager
    for label in sorted((raw / f"labels{part}").glob("*.nii.gz")):
        name = label.name.removesuffix(".nii.gz")
        data, segmentation, _ = manager.preprocessor_class(verbose=False).run_case(
            [str(raw / f"images{part}/{name}_{channel:04d}.nii.gz") for channel in range(2)],
            str(label), predictor.plans_manager, manager, predictor.dataset_json,
        )  # fmt: skip
        image, foreground = torch.from_numpy(data).float()[None], torch.from_numpy(segmentation > 0)[None]
        margins = [m for n in reversed(image.shape[2:]) for m in (0, -n % predictor.network.divisor)]
        yield Scan(F.pad(image, margins), F.pad(foreground, margins), tuple(manager.spacing))


def _lesion_scores(
    network: SGNet, gate: HardSpatialGate, level: int, scans: Sequence[Scan]
) -> NDArray[np.float64]:
    """Return, for each lesion voxel that the coarser gate admits, the highest score that would admit it."""
    width = 2 * gate.dilation + 1
    found = []
    for scan in scans:
        with torch.inference_mode():
            decisions = network(scan.image).decisions
        score = decisions[level].score
        if level and gate.nested:
            # What the coarser gate shuts out cannot admit its neighbours either.
            score = score.where(on_grid_of(decisions[level - 1].mask, score), -torch.inf)
        reach = F.max_pool3d(score, width, stride=1, padding=gate.dilation)
        on_image = F.interpolate(reach, size=scan.foreground.shape[2:], mode="nearest")
        # Just below, since a score must exceed the threshold.
        found.append(np.nextafter(on_image[scan.foreground].numpy(), -np.inf))
    scores = np.concatenate(found).astype(np.float64)
    return scores[np.isfinite(scores)]


def _figures(network: SGNet, scans: Sequence[Scan]) -> dict[str, Any]:
    counts, dice, found, lesions, false = [], [], 0, 0, 0
    for scan in scans:
        with torch.inference_mode():
            output = network(scan.image)
        predicted = (output.logits.argmax(1) > 0)[0].numpy()
        reference = scan.foreground[0, 0].numpy()
        counts.append(count_gates([each.mask for each in output.decisions], scan.foreground))
        match = match_lesions(*(find_lesions(mask, spacing=scan.spacing) for mask in (predicted, reference)))
        found, lesions = found + int(match.detected.sum()), lesions + match.detected.size
        false += match.false_positives
        dice.append(2 * np.count_nonzero(predicted & reference) / (predicted.sum() + reference.sum()))
    total = sum_counts(counts)
    return {
        "dice": float(np.mean(dice)),
        "lesion_sensitivity": found / lesions,
        "false_positives": false / len(scans),
        "open_fraction": total.open_fraction,
        "admitted_voxel_share": total.admitted_voxel_share,
        "admitted_lesion_share": total.admitted_lesion_share,
    }
