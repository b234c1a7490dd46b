"""The gates in nnU-Net's log and progress plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.training.logging.nnunet_logger import LocalLogger

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
