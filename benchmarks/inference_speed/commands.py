"""The commands that predict a folder: ours and nnU-Net's."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from inference_speed.names import EXPORTED, TRAINED
from inference_speed.processes import Spent, run_measured
from inference_speed.subject import Subject
from sgnet_nnunet.inference.runtimes import supports_bf16

EXPORTED_BF16 = "sgnet predict, exported model, bf16"
STOCK = "nnUNetv2_predict, its defaults"
STOCK_FAST = "nnUNetv2_predict, --disable_tta -step_size 0.75"
STOCK_WAYS = (STOCK, STOCK_FAST)


def commands_of(subject: Subject) -> dict[str, list[str | Path]]:
    """Return each way's command, without its input and output; bf16 only where the CPU has it."""
    stock: list[str | Path] = ["nnUNetv2_predict_from_modelfolder", "-m", subject.model]
    stock += ["-f", subject.fold, "-device", "cpu"]
    bf16: list[str | Path] = ["sgnet", "predict", "-m", subject.exported, "--precision", "bf16"]
    commands: dict[str, list[str | Path]] = {
        EXPORTED: ["sgnet", "predict", "-m", subject.exported],
        **({EXPORTED_BF16: bf16} if supports_bf16() else {}),
        TRAINED: ["sgnet", "predict", "-m", subject.model, "-f", subject.fold, "-device", "cpu"],
        STOCK: stock,
        STOCK_FAST: [*stock, "--disable_tta", "-step_size", "0.75"],
    }
    return commands


def predicting(
    subject: Subject, command: Sequence[str | Path], images: Path, name: str
) -> Callable[[], Spent]:
    """Return a function that runs a command on a folder of images.

    Args:
        subject: For its working folder.
        command: One of `commands_of`.
        images: The folder.
        name: Name of the folder of masks and of the log.
    """
    output = subject.work / "masks" / name
    return partial(
        run_measured, [*command, "-i", images, "-o", output], log=subject.work / "logs" / f"{name}.log"
    )


def rows_of(found: Mapping[str, Sequence[Spent]]) -> list[dict[str, Any]]:
    """Return each way's medians, and its rounds."""
    return [
        {
            "name": name,
            "seconds": statistics.median(spent.seconds for spent in rounds),
            "peak_mb": max(spent.peak_mb for spent in rounds),
            "processes": max(spent.processes for spent in rounds),
            "rounds": [spent.seconds for spent in rounds],
        }
        for name, rounds in found.items()
    ]
