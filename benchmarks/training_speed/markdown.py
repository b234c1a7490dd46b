"""The results as Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from training_speed.steps import PARTS

Row = Sequence[str]


def to_markdown(results: Mapping[str, Any]) -> str:
    """Return the machine and the tables, each under a line that says what it holds."""
    rounds = results["rounds"]
    sections = (
        (f"A training step in seconds, the planned batch, medians of {rounds} rounds:", _steps(results)),
        (f"A patch by one worker in ms, one thread, medians of {rounds} rounds:", _patches(results)),
        ("The share of the speed without loading that a training reaches:", _epochs(results)),
        (_preprocessing_title(results), _preprocessing(results)),
    )
    tables = [f"{title}\n\n{_table(rows)}" for title, rows in sections]
    return "\n\n".join([_machine(results), *tables]) + "\n"


def _machine(results: Mapping[str, Any]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads; device: "
        f"{machine['device']}; Python {machine['python']}, {versions}. Command: `{results['command']}`."
    )


def _table(rows: Iterable[Row]) -> str:
    header, *body = rows
    lines = (header, ["---"] * len(header), *body)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _steps(results: Mapping[str, Any]) -> Iterable[Row]:
    yield (
        "network",
        "parameters",
        "batch of patches (z, y, x)",
        *PARTS,
        "step",
        "ms per 10⁶ voxels",
        "peak MB",
    )
    for row in results["steps"]:
        z, y, x = row["patch_size"]
        million = row["batch_size"] * z * y * x / 1e6
        scaled = (
            "" if row["patches_computed"] == row["batch_size"] else f", {row['patches_computed']} computed"
        )
        yield (
            *(row["name"], f"{row['parameters']:,}", f"{row['batch_size']} of {z}x{y}x{x}{scaled}"),
            *(f"{row['seconds'][part]:.3f}" for part in (*PARTS, "step")),
            *(f"{1000 * row['seconds']['step'] / million:.0f}", f"{row['peak_mb']:.0f}"),
        )


def _patches(results: Mapping[str, Any]) -> Iterable[Row]:
    rows = results["augmentation"]
    cores = results["machine"]["cores"]
    names = dict.fromkeys(name for row in rows for name in row["milliseconds"])
    yield ("", *(row["name"] for row in rows))
    for name in names:
        yield (name, *(f"{row['milliseconds'].get(name, 0):.2f}" for row in rows))
    yield ("patches/s of one worker", *(f"{1000 / row['milliseconds']['total']:.1f}" for row in rows))
    yield (
        f"ms of the shortest step that {cores} workers, {cores} cores, can feed",
        *(f"{row['milliseconds']['total'] * row['batch_size'] / cores:.0f}" for row in rows),
    )


def _epochs(results: Mapping[str, Any]) -> Iterable[Row]:
    epochs = results["epochs"]
    yield ("trainer", "fastest of five epochs, s", "training batches", "workers")
    for name, result in epochs["results"].items():
        yield (name, f"{result['fastest_epoch']:.2f}", str(result["iterations"]), str(epochs["workers"]))
    yield ("share", f"{epochs['share_of_speed']:.3f}", "", "")


def _preprocessing_title(results: Mapping[str, Any]) -> str:
    found = results["preprocessing"]
    shape, spacing = ("x".join(str(n) for n in found[key]) for key in ("shape", "spacing_mm"))
    return f"Preprocessing a case of {shape} voxels (channel, z, y, x) from {spacing} mm to 1 mm, seconds:"


def _preprocessing(results: Mapping[str, Any]) -> Iterable[Row]:
    yield ("planner", "whole case", "its resampling")
    for name, found in results["preprocessing"]["planners"].items():
        yield (name, f"{found['total']:.2f}", f"{found['resampling']:.2f}")
