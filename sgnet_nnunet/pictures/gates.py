"""The gates of a case in one picture: what comes in, what each gate admits, what comes out."""

from pathlib import Path

import numpy as np

from sgnet_nnunet.inference.gates import GatedCase
from sgnet_nnunet.io.atomic import atomic_path
from sgnet_nnunet.pictures.slices import (
    GATE_COLOUR,
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    dark_figure,
    draw_contour,
    draw_name,
    draw_scan,
    radiological_slice,
)

CHANNELS = ("T1ce", "FLAIR")


def draw_gates(case: GatedCase, path: Path) -> None:
    """Draw T1ce, FLAIR, every gate and the prediction, on the axial slice with the most tumour.

    A gate is drawn over the first channel: dark where it is closed. The truth is green, the
    prediction red.

    Args:
        case: What `inference.gates.look_at_case` returns.
        path: PNG file to write.
    """
    channels = [channel.transpose(2, 1, 0) for channel in case.image]
    prediction = case.prediction.transpose(2, 1, 0)
    truth = None if case.truth is None else case.truth.transpose(2, 1, 0)
    k = int(np.argmax((prediction if truth is None else truth).sum(axis=(0, 1))))
    aspect = case.spacing[1] / case.spacing[2]
    panels = len(channels) + len(case.gates) + 1
    columns = -(-panels // 2)
    figure, grid = dark_figure(rows=2, columns=columns)
    axes = list(grid.flat)
    for spare in axes[panels:]:
        spare.axis("off")
    for i, channel in enumerate(channels):
        title = CHANNELS[i] if i < len(CHANNELS) else f"channel {i}"
        draw_scan(axes[i], channel, k, title=title, aspect=aspect)
        if truth is not None:
            draw_contour(axes[i], truth, k, colour=TRUTH_COLOUR)
    for panel, (name, gate) in zip(axes[len(channels) :], case.gates.items(), strict=False):
        opened = gate.transpose(2, 1, 0)
        draw_scan(panel, channels[0], k, title=f"gate at {name}: {gate.mean():.1%} open", aspect=aspect)
        closed = np.where(radiological_slice(opened, k), np.nan, 1.0)
        panel.imshow(closed, cmap="gray", vmin=1, vmax=2, alpha=0.65, aspect=aspect)
        draw_contour(panel, opened, k, colour=GATE_COLOUR)
    last = axes[panels - 1]
    draw_scan(last, channels[0], k, title="prediction", aspect=aspect)
    draw_contour(last, prediction, k, colour=PREDICTION_COLOUR)
    draw_name(axes[0], case.name)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=110)
