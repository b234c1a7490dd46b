"""What the gates let through: open fractions, and the share of the lesions they admit."""

import json
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from numpy.typing import NDArray
from torch import Tensor

from sgnet_nnunet.evaluation.lesion_metrics import find_lesions
from sgnet_nnunet.files import atomic_path
from sgnet_nnunet.networks.gates import on_grid_of
from sgnet_nnunet.networks.sgnet import SGNet

SAFE_SHARE = 0.99
"""A gate that admits less of the lesion voxels, or of the lesions, deserves a warning."""

VOXELS = (1.0, 1.0, 1.0)
"""Spacing where only voxels are counted."""


@dataclass(frozen=True)
class GateCounts:
    """Voxels and lesions counted at each gate, coarsest first, all on the image's grid.

    Attributes:
        voxels: Voxels, shape (gates,).
        open_voxels: Voxels that the gate admits.
        lesion_voxels: Voxels with foreground of any kind.
        admitted_voxels: Of these, the admitted ones.
        lesions: Lesions.
        admitted_lesions: Lesions with an admitted voxel.
    """

    voxels: NDArray[np.int64]
    open_voxels: NDArray[np.int64]
    lesion_voxels: NDArray[np.int64]
    admitted_voxels: NDArray[np.int64]
    lesions: NDArray[np.int64]
    admitted_lesions: NDArray[np.int64]

    def __add__(self, other: "GateCounts") -> "GateCounts":
        """Return the counts of both."""
        return GateCounts(*(mine + yours for mine, yours in zip(self._all, other._all, strict=True)))

    @property
    def _all(self) -> tuple[NDArray[np.int64], ...]:
        return (
            self.voxels,
            self.open_voxels,
            self.lesion_voxels,
            self.admitted_voxels,
            self.lesions,
            self.admitted_lesions,
        )

    @property
    def open_fraction(self) -> list[float]:
        """Share of all voxels that each gate admits."""
        return _shares(self.open_voxels, self.voxels)

    @property
    def admitted_voxel_share(self) -> list[float]:
        """Share of the lesion voxels that each gate admits; NaN if there are none."""
        return _shares(self.admitted_voxels, self.lesion_voxels)

    @property
    def admitted_lesion_share(self) -> list[float]:
        """Share of the lesions of which each gate admits a voxel; NaN if there are none."""
        return _shares(self.admitted_lesions, self.lesions)


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> list[float]:
    return [float(p / w) if w else float("nan") for p, w in zip(part, whole, strict=True)]


def count_gates(admitted: Sequence[Tensor], foreground: Tensor) -> GateCounts:
    """Count what each gate admits.

    Args:
        admitted: Where each gate is open, boolean, shape (batch, 1, z', y', x') on its own grid.
        foreground: Boolean, shape (batch, 1, z, y, x).
    """
    masks = [on_grid_of(mask, foreground.float()).cpu().numpy()[:, 0] for mask in admitted]
    reference = foreground.cpu().numpy()[:, 0]
    found = [find_lesions(image, spacing=VOXELS) for image in reference]
    gates = np.ones(len(masks), dtype=np.int64)

    def per_gate(counts: list[int]) -> NDArray[np.int64]:
        return np.array(counts, dtype=np.int64)

    return GateCounts(
        voxels=gates * reference.size,
        open_voxels=per_gate([int(np.count_nonzero(mask)) for mask in masks]),
        lesion_voxels=gates * np.count_nonzero(reference),
        admitted_voxels=per_gate([int(np.count_nonzero(mask & reference)) for mask in masks]),
        lesions=gates * sum(lesions.number for lesions in found),
        admitted_lesions=per_gate(
            [
                sum(
                    np.unique(lesions.labels[image & (lesions.labels > 0)]).size
                    for image, lesions in zip(mask, found, strict=True)
                )
                for mask in masks
            ]
        ),
    )


def warnings_of(counts: GateCounts, names: Sequence[str]) -> list[str]:
    """Say in plain words which gate shuts out more of the lesions than is safe."""
    warnings = []
    for what, shares in (
        ("lesion voxels", counts.admitted_voxel_share),
        ("whole lesions", counts.admitted_lesion_share),
    ):
        warnings += [
            f"WARNING: the gate at {name} of the resolution shuts out {1 - share:.1%} of the {what}; "
            "what it shuts out cannot be segmented. Train longer, or plan with a larger "
            "`positive_weight`, a lower `threshold` or a larger `dilation`."
            for name, share in zip(names, shares, strict=True)
            if share < SAFE_SHARE
        ]
    return warnings


KEYS = {
    "gate_open_fraction": "open fraction",
    "gate_admitted_voxels": "admitted share of lesion voxels",
    "gate_admitted_lesions": "admitted share of lesions",
}
"""What is logged each epoch, one value a gate, and what the plot calls it."""

_PANEL_INCHES = (30, 18)
"""nnU-Net's three panels are 30 x 54 inches; this is one more."""


class GateLogger(LocalLogger):
    """nnU-Net's log with the gates' figures, and one more panel in its progress plot.

    Args:
        gate_names: The gates, coarsest first.
        verbose: nnU-Net's.
    """

    def __init__(self, gate_names: Sequence[str], *, verbose: bool = False) -> None:
        super().__init__(verbose)
        self.gate_names = list(gate_names)
        self.my_fantastic_logging |= {key: [] for key in KEYS}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over a checkpoint's log."""
        super().load_checkpoint({key: [] for key in KEYS} | checkpoint)

    def plot_progress_png(self, output_folder: str) -> None:
        """Draw nnU-Net's `progress.png` and put a panel with the gates below it."""
        super().plot_progress_png(output_folder)
        if self.gate_names:
            _append_panel(Path(output_folder, "progress.png"), self._draw_panel())

    def _draw_panel(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
        from matplotlib.figure import Figure  # noqa: PLC0415

        figure = Figure(figsize=_PANEL_INCHES, layout="tight")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for (key, label), style in zip(KEYS.items(), ("-", "--", ":"), strict=True):
            values = np.array(self.my_fantastic_logging[key], dtype=float)
            for i, name in enumerate(self.gate_names):
                axes.plot(values[:, i], style, color=f"C{i}", linewidth=4, label=f"{label}, {name}")
        axes.set(xlabel="epoch", ylabel="share", ylim=(-0.02, 1.02))
        axes.legend(loc=(0, 1), ncols=len(KEYS), fontsize=20)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())


def _append_panel(path: Path, panel: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    from PIL import Image  # noqa: PLC0415

    with Image.open(path) as opened:
        above = opened.convert("RGB")
    below = Image.fromarray(panel).convert("RGB")
    below = below.resize((above.width, round(below.height * above.width / below.width)))
    joined = Image.new("RGB", (above.width, above.height + below.height))
    joined.paste(above, (0, 0))
    joined.paste(below, (0, above.height))
    joined.save(path)


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
        masks = [on_grid_of(decision.mask, windows) for decision in network(windows).decisions]
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
