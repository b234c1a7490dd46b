"""What was asked of the predictions, and what was measured."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from inference_speed.names import EXPORTED, SPARSE, SPARSE_BF16, STOCK, STOCK_FAST, TRAINED

Figures = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A limit.

    Attributes:
        part: The part of the benchmark that has the figure.
        what: What is limited, with its unit.
        limit: The limit.
        find: Returns the figure, or None where there is none, as of bf16 on a CPU without it.
        at_least: Whether more is better.
    """

    part: str
    what: str
    limit: float
    find: Callable[[Figures], float | None]
    at_least: bool = False

    def is_met_by(self, found: float) -> bool:
        """Whether a figure is on the right side of the limit."""
        return found >= self.limit if self.at_least else found <= self.limit


def rows_of_bars(results: Mapping[str, Figures]) -> Iterator[tuple[str, str, str, str]]:
    """Yield a table of the bars whose part has been measured: what, its limit, its figure, met or not."""
    yield ("what", "bar", "measured", "")
    for bar in BARS:
        found = bar.find(results[bar.part]) if bar.part in results else None
        if found is not None:
            limit = f"{'≥' if bar.at_least else '≤'} {bar.limit:g}"
            yield (bar.what, limit, f"{found:.4g}", "met" if bar.is_met_by(found) else "MISSED")


def _value(name: str, key: str) -> Callable[[Figures], float | None]:
    return lambda figures: next((row[key] for row in figures["rows"] if row["name"] == name), None)


def _faster(than: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures["times_faster"].get(SPARSE, {}).get(than)


def _each(way: str) -> Callable[[Figures], float | None]:
    """Return what finds the seconds a patient of a way's largest batch."""

    def find(figures: Figures) -> float | None:
        batches = [row for row in figures["rows"] if row["way"] == way]
        largest = max(batches, key=lambda row: row["patients"], default=None)
        return None if largest is None else largest["seconds"] / largest["patients"]

    return find


def _dice(key: str) -> Callable[[Figures], float | None]:
    """Return what finds the lowest Dice of a comparison, over the patients."""
    return lambda figures: min(
        (case[key]["dice"] for case in figures["cases"] if case[key] is not None), default=None
    )


def _unequal(figures: Figures) -> float:
    keys = ("sparse_is_whole_openvino", "sparse_is_whole_torch")
    return sum(not case[key] for case in figures["cases"] for key in keys)


def _logits(figures: Figures) -> float:
    return max(case["openvino_to_torch"]["largest"] for case in figures["cases"])


def _beyond_ties(figures: Figures) -> float:
    """Return the most voxels whose mask differs in a patient, beyond those that a tie explains."""
    compared = [case["openvino_to_torch"] for case in figures["cases"]]
    return max(max(found["voxels"] - found["ties"], 0) for found in compared)


BARS = (
    Bar(part="network", what="network stage, f32, s", limit=0.5, find=_value(SPARSE, "seconds")),
    Bar(part="network", what="network stage, bf16, s", limit=0.3, find=_value(SPARSE_BF16, "seconds")),
    Bar(part="network", what=f"f32, times faster: {STOCK}", limit=150, find=_faster(STOCK), at_least=True),
    Bar(
        part="network",
        what=f"f32, times faster: {STOCK_FAST}",
        limit=15,
        find=_faster(STOCK_FAST),
        at_least=True,
    ),
    Bar(part="agreement", what="sparse and whole with other bits, patients", limit=0, find=_unequal),
    Bar(part="agreement", what="OpenVINO f32 and torch, logits", limit=1e-3, find=_logits),
    Bar(part="agreement", what="the same, voxels of the mask but ties", limit=0, find=_beyond_ties),
    Bar(part="agreement", what="bf16 and f32, Dice", limit=0.998, find=_dice("bf16"), at_least=True),
    Bar(
        part="agreement",
        what="nnU-Net without tile borders, Dice",
        limit=0.999,
        find=_dice("one_tile"),
        at_least=True,
    ),
    Bar(part="patient", what="a patient, cold start to mask, s", limit=6, find=_value(EXPORTED, "seconds")),
    Bar(part="patient", what="its memory, MB", limit=2500, find=_value(EXPORTED, "peak_mb")),
    Bar(part="batch", what="a patient in a batch, exported model, s", limit=2.5, find=_each(EXPORTED)),
    Bar(part="batch", what="a patient in a batch, trained model, s", limit=2.5, find=_each(TRAINED)),
    Bar(
        part="growth",
        what="time per voxel from 1 million voxels on, largest to smallest",
        limit=1.3,
        find=lambda figures: figures["time_per_voxel_spread"],
    ),
    Bar(
        part="memory",
        what="memory of the large image, share of its budget",
        limit=1,
        find=lambda figures: figures["rows"][0]["peak_mb"] / figures["budget_mb"],
    ),
    Bar(
        part="memory",
        what="voxels of its mask that a budget changes",
        limit=0,
        find=lambda figures: figures["voxels_that_differ"],
    ),
)
