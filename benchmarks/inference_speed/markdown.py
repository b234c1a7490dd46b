"""The results as Markdown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from inference_speed.bars import rows_of_bars

Row = Sequence[str]
Figures = Mapping[str, Any]


def to_markdown(results: Mapping[str, Figures]) -> str:
    """Return the tables of the parts that have been measured, each under a line that says what it holds."""
    bars = list(rows_of_bars(results))
    blocks, machine = [table(bars)] if len(bars) > 1 else [], ""
    for part, figures in results.items():
        if machine != (machine := _machine(figures)):
            blocks.append(machine)
        how = f"`{figures['command']}`, at a load of {figures['load_before']:.1f}"
        blocks += [f"## {part.capitalize()}", how, _SECTIONS[part](figures)]
    return "\n\n".join(blocks) + "\n"


def table(rows: Iterable[Row]) -> str:
    """Return rows as a table, the first of them its head."""
    header, *body = rows
    lines = (header, ["---"] * len(header), *body)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _machine(figures: Figures) -> str:
    machine = figures["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['cpu']}, pinned to {machine['cores']} cores, {machine['threads']} threads; "
        f"Python {machine['python']}, {versions}."
    )


def _network(figures: Figures) -> str:
    _, *shape = figures["shape"]
    patch = figures["default_patch_size"]
    own = f" The default network's own plan has patches of {_times(patch)}." if patch else ""
    title = (
        f"The network stage of one patient, {_times(shape)} voxels (z, y, x), {_million(shape):.2f} million, "
        f"of which {figures['brain_share']:.0%} brain; the finest gate is open at "
        f"{figures['open_share']:.2%}. Medians.{own}"
    )
    return f"{title}\n\n{table(_timed_rows(figures, memory=False))}"


def _patient(figures: Figures) -> str:
    title = (
        f"One patient from a cold start to the mask on disk: {figures['channels']} files of "
        f"{_times(figures['shape_xyz'])} voxels (x, y, z). Medians; the memory is the largest."
    )
    return f"{title}\n\n{table(_timed_rows(figures, memory=True))}"


def _timed_rows(figures: Figures, *, memory: bool) -> Iterable[Row]:
    """Yield each way's time, and how many times faster than each of nnU-Net's ours is."""
    faster = figures["times_faster"]
    references = list(next(iter(faster.values()), {}))
    yield (
        *("way", "seconds", "rounds"),
        *(("peak MB", "processes") if memory else ()),
        *(f"times faster than {reference}" for reference in references),
    )
    for row in figures["rows"]:
        ratios = faster.get(row["name"], {})
        yield (
            *(row["name"], f"{row['seconds']:.3g}", str(len(row["rounds"]))),
            *((f"{row['peak_mb']:.0f}", str(row["processes"])) if memory else ()),
            *(f"{ratios[name]:.1f}" if name in ratios else "–" for name in references),
        )


def _agreement(figures: Figures) -> str:
    compared, scored = table(_compared(figures)), list(_scored(figures))
    title = (
        "Logits and masks on the network's grid. Largest difference of a logit where the gates decide alike; "
        "ties are voxels where they do not. nnU-Net's sliding window has step 0.5 and does not mirror, its "
        f"tiles are {_times(figures['patch_size'])} voxels (z, y, x), or one as large as the image."
    )
    against = f"\n\nAgainst the reference:\n\n{table(scored)}" if len(scored) > 1 else ""
    return f"{title}\n\n{compared}{against}\n\n![Where the masks differ](difference.png)"


def _compared(figures: Figures) -> Iterable[Row]:
    yield ("patient", "compared", "result")
    for row in figures["cases"]:
        name = row["case"]
        for runtime in ("openvino", "torch"):
            same = "the same bits" if row[f"sparse_is_whole_{runtime}"] else "DIFFERENT"
            yield (name, f"sparse and whole, {runtime}", same)
        for key, what in (
            ("openvino_to_torch", "OpenVINO f32 and torch"),
            ("torch_to_dense", "sparse torch and one dense pass"),
        ):
            found = row[key]
            yield (
                *(name, what),
                f"{found['largest']:.1e}; {found['ties']} ties; {found['voxels']} voxels of the mask differ",
            )
        for key, what in (
            ("bf16", "sparse bf16 and f32"),
            ("one_tile", "sparse and nnU-Net's one tile"),
            ("tiles", "sparse and nnU-Net's tiles"),
        ):
            if row[key] is not None:
                yield (name, what, f"Dice {row[key]['dice']:.4f}; {row[key]['voxels']} voxels differ")


def _scored(figures: Figures) -> Iterable[Row]:
    first = True
    for row in figures["cases"]:
        for way, scores in (row["scores"] or {}).items():
            if first:
                yield ("patient", "way", *scores)
                first = False
            yield (row["case"], way, *(f"{value:.3f}" for value in scores.values()))


def _batch(figures: Figures) -> str:
    title = f"Several patients in one command, {figures['distinct']} distinct ones in turn. Medians."
    return f"{title}\n\n{table(_batches(figures))}"


def _batches(figures: Figures) -> Iterable[Row]:
    yield ("way", "patients", "seconds", "seconds a patient", "rounds", "peak MB")
    for row in figures["rows"]:
        yield (
            *(row["way"], str(row["patients"]), f"{row['seconds']:.1f}"),
            *(f"{row['seconds'] / row['patients']:.2f}", str(len(row["rounds"])), f"{row['peak_mb']:.0f}"),
        )


def _growth(figures: Figures) -> str:
    title = (
        f"Time against voxels: a typical piece of the patient, repeated; {figures['way']}. Medians. From 1 "
        f"million voxels on the time per voxel varies by a factor of {figures['time_per_voxel_spread']:.2f}."
    )
    lesions = "Time against lesions: copies of one lesion in the patient without its own."
    return (
        f"{title}\n\n{table(_sizes(figures['voxels']))}\n\n{lesions}\n\n{table(_lesions(figures['lesions']))}"
    )


def _sizes(rows: Iterable[Figures]) -> Iterable[Row]:
    yield ("million voxels", "z, y, x", "open", "seconds", "ns a voxel", "rounds", "peak MB")
    for row in rows:
        voxels = _million(row["shape"])
        yield (
            *(f"{voxels:.2f}", _times(row["shape"]), f"{row['open_share']:.2%}", f"{row['seconds']:.3g}"),
            *(f"{1000 * row['seconds'] / voxels:.0f}", str(len(row["rounds"])), f"{row['peak_mb']:.0f}"),
        )


def _lesions(rows: Iterable[Figures]) -> Iterable[Row]:
    yield ("lesions", "open", "seconds", "rounds")
    for row in rows:
        yield (
            *(str(row["lesions"]), f"{row['open_share']:.2%}"),
            *(f"{row['seconds']:.3g}", str(len(row["rounds"]))),
        )


def _memory(figures: Figures) -> str:
    title = (
        f"{figures['channels']} files of {_times(figures['shape_xyz'])} voxels (x, y, z) at 1 mm, "
        f"{figures['command_line']}. The masks differ in {figures['voxels_that_differ']} voxels; the mask "
        f"has {figures['mask_voxels']}."
    )
    return f"{title}\n\n{table(_budgets(figures['rows']))}"


def _budgets(rows: Iterable[Figures]) -> Iterable[Row]:
    yield ("--max-memory", "seconds", "peak MB")
    for row in rows:
        yield (row["name"], f"{row['seconds']:.1f}", f"{row['peak_mb']:.0f}")


def _million(shape: Sequence[int]) -> float:
    z, y, x = shape
    return z * y * x / 1e6


def _times(lengths: Sequence[int]) -> str:
    return "x".join(str(length) for length in lengths)


_SECTIONS: Mapping[str, Callable[[Figures], str]] = {
    "network": _network,
    "agreement": _agreement,
    "patient": _patient,
    "batch": _batch,
    "growth": _growth,
    "memory": _memory,
}
