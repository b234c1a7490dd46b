"""Several patients in one command: what a patient takes once everything is running."""

import os
import statistics
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from inference_speed.commands import STOCK_FAST, commands_of, predicting
from inference_speed.names import EXPORTED, TRAINED
from inference_speed.patient import SHAPE, write_padded
from inference_speed.rounds import in_turn
from inference_speed.subject import Subject


def measure_batch(
    subject: Subject, *, rounds: int, stock_rounds: int, patients: int, stock_patients: int
) -> dict[str, Any]:
    """Time batches in fresh processes, each once a round.

    Args:
        subject: The model and the patients, who come again under other names.
        rounds: Rounds of our batches.
        stock_rounds: Rounds of nnU-Net's.
        patients: Patients of the largest batch.
        stock_patients: Patients of nnU-Net's, which takes no less for each the more there are.
    """
    commands = commands_of(subject)
    sizes = [size for size in (1, 5) if size < patients]
    batches = [(EXPORTED, size) for size in (*sizes, patients)]
    batches += [(TRAINED, patients), (STOCK_FAST, stock_patients)]
    ways = {
        f"{way}, {size}": predicting(
            subject, commands[way], write_batch(subject, size), f"batch_{number}_{size}"
        )
        for number, (way, size) in enumerate(batches)
    }
    names = dict(zip(ways, batches, strict=True))
    found = in_turn(
        ways, {name: stock_rounds if way == STOCK_FAST else rounds for name, (way, _) in names.items()}
    )
    return {
        "distinct": len(subject.cases),
        "rows": [
            {
                "way": names[name][0],
                "patients": names[name][1],
                "seconds": statistics.median(spent.seconds for spent in rounds_of),
                "peak_mb": max(spent.peak_mb for spent in rounds_of),
                "rounds": [spent.seconds for spent in rounds_of],
            }
            for name, rounds_of in found.items()
        ],
    }


def write_batch(subject: Subject, size: int) -> Path:
    """Return a folder of so many patients, padded, who are links to those there are."""
    folder, padded = subject.work / f"batch_{size}", subject.work / "padded"
    if not padded.exists():
        for paths in subject.cases.values():
            write_padded(paths, padded, SHAPE)
    folder.mkdir(exist_ok=True)
    for number, case in enumerate(islice(cycle(subject.cases), size)):
        for channel, path in enumerate(subject.cases[case]):
            link = folder / f"patient{number:03d}_{channel:04d}{subject.ending}"
            if not link.exists():
                os.link(padded / path.name, link)
    return folder
