"""Gate statistics: the share of an image, and of its lesions, that each gate keeps."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from numpy.typing import NDArray
from torch import Tensor

from sgnet_nnunet import former_names
from sgnet_nnunet.files import write_json
from sgnet_nnunet.lesions import find_lesions
from sgnet_nnunet.networks.gates import on_grid_of
from sgnet_nnunet.networks.sgnet import SGNet

SAFE_SHARE = 0.99
"""A warning is logged for a gate that keeps a smaller share of the lesion voxels, or of the lesions."""

VOXELS = (1.0, 1.0, 1.0)
"""Spacing where only voxels are counted."""


class GateCounts(NamedTuple):
    """Voxels and lesions counted at each gate, coarsest first, on the image's grid; each of shape (gates,).

    Open and kept voxels are inside the gate mask, and so is a voxel of a kept lesion. Lesion voxels have
    foreground of any kind.
    """

    voxels: NDArray[np.int64]
    open_voxels: NDArray[np.int64]
    lesion_voxels: NDArray[np.int64]
    kept_lesion_voxels: NDArray[np.int64]
    lesions: NDArray[np.int64]
    kept_lesions: NDArray[np.int64]

    @property
    def open_fraction(self) -> list[float]:
        """Share of all voxels that each gate keeps."""
        return _shares(self.open_voxels, self.voxels)

    @property
    def kept_lesion_voxel_share(self) -> list[float]:
        """Share of the lesion voxels that each gate keeps; NaN if there are none."""
        return _shares(self.kept_lesion_voxels, self.lesion_voxels)

    @property
    def kept_lesion_share(self) -> list[float]:
        """Share of the lesions of which each gate keeps a voxel; NaN if there are none."""
        return _shares(self.kept_lesions, self.lesions)

    @property
    def shares(self) -> tuple[list[float], list[float], list[float]]:
        """What is logged each epoch, in the order of `KEYS`."""
        return self.open_fraction, self.kept_lesion_voxel_share, self.kept_lesion_share

    def text(self, names: Sequence[str]) -> str:
        """Return the line for the training log, given the names of the gates."""
        return "Gates: " + "; ".join(
            f"{name}: open {opened:.1%}, keeps {voxels:.2%} of lesion voxels and {lesions:.2%} of lesions"
            for name, opened, voxels, lesions in zip(names, *self.shares, strict=True)
        )

    def warnings(self, names: Sequence[str]) -> list[str]:
        """Return a warning for each gate that suppresses more of the lesions than is safe."""
        return [
            f"WARNING: the gate at {name} of the resolution suppresses {1 - share:.1%} of the {what}, which "
            "therefore cannot be segmented. Train longer, or plan with a larger `positive_weight`, a lower "
            "`threshold` or a larger `dilation`."
            for what, shares in zip(("lesion voxels", "whole lesions"), self.shares[1:], strict=True)
            for name, share in zip(names, shares, strict=True)
            if share < SAFE_SHARE
        ]


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> list[float]:
    return [float(p / w) if w else math.nan for p, w in zip(part, whole, strict=True)]


def count_gates(masks: Sequence[Tensor], foreground: Tensor) -> GateCounts:
    """Count what each gate keeps of the foreground, boolean, shape (batch, 1, z, y, x).

    The gate masks, boolean, shape (batch, 1, z', y', x'), have a grid each.
    """
    reference = foreground.cpu().numpy()[:, 0]
    lesions = [find_lesions(image, spacing=VOXELS) for image in reference]
    on_image = [on_grid_of(mask, foreground.float()).cpu().numpy()[:, 0] for mask in masks]
    counts = [
        (
            reference.size,
            np.count_nonzero(mask),
            np.count_nonzero(reference),
            np.count_nonzero(mask & reference),
            sum(found.number for found in lesions),
            # Outside lesions the label is 0.
            sum(
                np.count_nonzero(np.unique(found.labels[image]))
                for image, found in zip(mask, lesions, strict=True)
            ),
        )
        for mask in on_image
    ]
    return GateCounts(*np.array(counts, dtype=np.int64).reshape(-1, len(GateCounts._fields)).T)


def sum_counts(counts: Iterable[GateCounts]) -> GateCounts:
    """Return the sum of counts; one at least."""
    return GateCounts(*np.sum([np.stack(one) for one in counts], axis=0))


KEYS = {
    "gate_open_fraction": "open fraction",
    "gate_kept_lesion_voxels": "kept share of lesion voxels",
    "gate_kept_lesions": "kept share of lesions",
}
"""What is logged each epoch, one value a gate, with its label in the plot."""

_PANEL_INCHES = (30, 18)
"""nnU-Net's three panels are 30 x 54 inches; this is one more."""


class GateLogger(LocalLogger):
    """nnU-Net's log with the gate statistics, and one more panel in its progress plot."""

    def __init__(self, gate_names: Sequence[str], *, verbose: bool = False) -> None:
        super().__init__(verbose)
        self.gate_names = list(gate_names)
        self.my_fantastic_logging |= {key: [] for key in KEYS}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue a checkpoint's log; former keys get their present names."""
        log = {former_names.LOG_KEYS.get(key, key): values for key, values in checkpoint.items()}
        super().load_checkpoint({key: [] for key in KEYS} | log)

    def plot_progress_png(self, output_folder: str) -> None:
        """Draw nnU-Net's `progress.png` with a panel for the gates below it."""
        super().plot_progress_png(output_folder)
        if not self.gate_names:
            return
        from PIL import Image  # noqa: PLC0415

        path = Path(output_folder, "progress.png")
        with Image.open(path) as opened:
            above = opened.convert("RGB")
        below = Image.fromarray(self._draw_panel()).convert("RGB")
        below = below.resize((above.width, round(below.height * above.width / below.width)))
        joined = Image.new("RGB", (above.width, above.height + below.height))
        joined.paste(above, (0, 0))
        joined.paste(below, (0, above.height))
        joined.save(path)

    def _draw_panel(self) -> NDArray[np.uint8]:
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


OVERLAP = 0.5
"""Overlap of neighbouring windows: that of nnU-Net's own validation."""


def gates_of_image(network: SGNet, image: Tensor, patch_size: Sequence[int]) -> list[Tensor]:
    """Return where each gate of a network in evaluation mode is open on an image: where any window is.

    The image is preprocessed, shape (channels, z, y, x), on the network's device; the patch size, z, y, x in
    voxels, is the window's. The masks, coarsest first, are boolean, shape (1, 1, z, y, x), on the CPU.
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


def write_gates(path: Path, cases: Mapping[str, GateCounts], names: Sequence[str]) -> None:
    """Write the statistics of each case, and of all cases, as JSON; a share of nothing is null."""

    def figures(counts: GateCounts) -> dict[str, dict[str, float | int | None]]:
        opened, voxels, lesions = counts.shares
        return {
            name: {
                "open_fraction": opened[i],
                "lesion_voxels": int(counts.lesion_voxels[i]),
                "kept_lesion_voxel_share": voxels[i] if counts.lesion_voxels[i] else None,
                "lesions": int(counts.lesions[i]),
                "kept_lesion_share": lesions[i] if counts.lesions[i] else None,
            }
            for i, name in enumerate(names)
        }

    document = {
        "definition": "a gate keeps a voxel if it is open there in any window of the sliding window; it "
        "keeps a lesion, a 26-connected component, if it keeps any of its voxels",
        "all_cases": figures(sum_counts(cases.values())),
        "per_case": {case: figures(counts) for case, counts in cases.items()},
    }
    write_json(path, document)
