"""False positives at equal lesion sensitivity: counts at thresholds and rules, tables, and the FROC figure.

The counts of a case at every threshold and rule of `GRID` are next to its mask, in CASE_counts.npz. A row of
`cases.jsonl` has those at the thresholds, nothing removed, as `found_at` and `false_positives_at`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sgnet_nnunet.evaluation.froc import Counted, Froc, LesionCounts, MonotoneFroc, SearchGrid
from sgnet_nnunet.evaluation.statistics import (
    Floats,
    Resampling,
    SeededEstimate,
    Statistics,
    estimate_over_seeds,
)

GRID = SearchGrid(thresholds=(0.001, 0.003, 0.01, *SearchGrid().thresholds, 0.99, 0.997, 0.999))
"""Further out than `sgnet tune` looks: networks differ in how sure they are, and each has to reach 95 %."""

SENSITIVITIES = (0.85, 0.9, 0.95)
CHOSEN_AT = 0.9
"""Sensitivity at which a rule of size and confidence has to have few false positives."""

SIZED, SIZED_NAME = "+size", " + size and confidence"
"""Suffix of the runs whose small, unsure lesions are removed, and that of their names."""

BYPASSED = "-bypassed"
"""Suffix of the runs in which a network is tested with its gates bypassed."""


def plain_run(run: str) -> str:
    """Return the run of a run whose gates are bypassed, or whose lesions are removed: its network."""
    return run.removesuffix(SIZED).removesuffix(BYPASSED)


GROUPS = 5
LARGE_MM = 5.0
RESAMPLING = Resampling(seed=0)
MEASURES = {
    **{f"FP at {100 * share:.0f} %": 2 for share in SENSITIVITIES},
    "partial area": 3,
    "Dice": 3,
    "FP at 0.5": 2,
}
"""Names and digits of what the tables compare; the last is at nnU-Net's own threshold."""


def write_counts(path: Path, counted: Counted, means: Floats) -> dict[str, list[int]]:
    """Write a case's counts and the mean probabilities of its mask's lesions, and return its row's part."""
    counts = counted.at_grid
    np.savez_compressed(
        path,
        lesions=counts.lesions,
        found=counts.found.astype(np.uint16),
        false_positives=counts.false_positives.astype(np.uint16),
        means=means.astype(np.float32),
    )
    return {f"{name}_at": getattr(counts, name)[0, :, 0].tolist() for name in ("found", "false_positives")}


def read_counts(path: Path) -> tuple[LesionCounts, Floats]:
    """Return a case's counts, shape (1, thresholds, rules), and the mean probabilities of its lesions."""
    with np.load(path) as file:
        counts = (file[name].astype(np.intp) for name in ("lesions", "found", "false_positives"))
        return LesionCounts(*counts), file["means"].astype(np.float64)


def choose_rule(counts: LesionCounts) -> int:
    """Return the index of the rule with the fewest false positives at `CHOSEN_AT`.

    Among equals, and where none reaches it, the one with the largest partial area; then the first, which
    removes the least. The counts have shape (cases, thresholds, rules).
    """
    curves = [
        MonotoneFroc.of(LesionCounts(counts.lesions, counts.found[..., i], counts.false_positives[..., i]))
        for i in range(counts.found.shape[-1])
    ]
    false = [np.nan_to_num(each.false_positives_at(CHOSEN_AT)[0], nan=np.inf) for each in curves]
    return int(np.lexsort([[-each.partial_area()[0] for each in curves], false])[0])


def cross_fitted_rules(counts: LesionCounts) -> NDArray[np.intp]:
    """Return each case's rule, chosen on the other four of five groups of the cases, shape (cases,)."""
    groups = np.arange(counts.cases) % GROUPS
    chosen = {group: choose_rule(counts.of(groups != group)) for group in np.unique(groups).tolist()}
    return np.array([chosen[group] for group in groups.tolist()])


def of_training(rows: pd.DataFrame) -> Statistics:
    """Return the `MEASURES` of one training as functions of the weights of its cases, the rows."""
    per_case = rows[["dice", "false_positives"]].to_numpy(np.float64)
    counts = counts_of(rows)

    def statistics(weights: Floats) -> Floats:
        found: Floats = np.full((len(weights), len(SENSITIVITIES) + 1), np.nan)
        if counts is not None:
            curves = MonotoneFroc.of(counts, weights)
            reached = [curves.false_positives_at(share) for share in SENSITIVITIES]
            found = np.column_stack([*reached, curves.partial_area()])
        return np.hstack([found, weights @ per_case / weights.sum(axis=1, keepdims=True)])

    return statistics


def counts_of(rows: pd.DataFrame) -> LesionCounts | None:
    """Return the counts of rows at the thresholds, shape (rows, thresholds); None if a row has none."""
    columns = ["found_at", "false_positives_at"]
    if not set(columns) <= set(rows) or rows[columns].isna().to_numpy().any():
        return None
    found, false = (np.array(rows[column].tolist()) for column in columns)
    return LesionCounts(rows["lesions"].to_numpy(), found, false)


def _seeds(rows: pd.DataFrame, cases: Sequence[str]) -> list[Statistics]:
    by_seed = (part.set_index("case").loc[list(cases)] for _, part in rows.groupby("seed"))
    return [of_training(part) for part in by_seed]


def _common_cases(*runs: pd.DataFrame) -> list[str]:
    """Return the cases that every seed of every run has, sorted."""
    trainings = (set(part["case"]) for rows in runs for _, part in rows.groupby("seed"))
    return sorted(set.intersection(*trainings))


def estimates(
    frame: pd.DataFrame, reference: str = "", *, drawn: int | None = None
) -> Iterator[tuple[str, pd.DataFrame, list[SeededEstimate]]]:
    """Yield each run's name, rows and `MEASURES`, less those of a reference run if one is named.

    The frame has a row per patient; the runs that have no patient in common with the reference are left out.
    """
    base = frame[frame["run"] == reference]
    for run, rows in frame.groupby("run", sort=False):
        both = (rows, base) if reference else (rows,)
        cases = _common_cases(*both) if all(map(len, both)) and run != reference else []
        if cases:
            trainings, *others = (_seeds(each, cases) for each in both)
            found = estimate_over_seeds(
                trainings, *others, patients=len(cases), resampling=RESAMPLING, drawn=drawn
            )
            yield str(rows["name"].iloc[0]), rows, found


def levels_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the `MEASURES` of every network with their intervals."""
    return pd.DataFrame(
        {"network": name, "seeds": _seeds_text(rows), **_texts(found, "")}
        for name, rows, found in estimates(frame)
    )


def _seeds_text(rows: pd.DataFrame) -> str:
    number = rows["seed"].nunique()
    return str(number) if number > 1 else "1 (interval over patients alone)"


def equal_table(frame: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the differences of every network to the reference, and the large lesions that are lost.

    These are the lesions that the reference finds at nnU-Net's own threshold and the run does not, in the
    trainings of the same seed; and those that the run itself finds without its gates or its rule.
    """
    runs = set(frame["run"])
    table = []
    for name, rows, found in estimates(frame, reference):
        run = str(rows["run"].iloc[0])
        without = run.removesuffix(SIZED) if run.endswith(SIZED) else f"{run}{BYPASSED}"
        lost = {"of its own": lost_lesions(frame, run, without) if without in runs else None}
        lost = {"of the reference's": lost_lesions(frame, run, reference)} | lost
        texts = _texts(found, "+") | {f"lost {key}": number for key, number in lost.items()}
        table.append({"network": name, "seeds": _seeds_text(rows), **texts})
    return pd.DataFrame(table)


def _texts(found: Sequence[SeededEstimate], sign: str) -> dict[str, str | None]:
    """Return estimates with their intervals as text; None where the rows have no counts."""
    texts: dict[str, str | None] = {}
    for (title, digits), each in zip(MEASURES.items(), found, strict=True):
        style, interval = f"{sign}.{digits}f", each.interval
        text = f"{interval.low:{style}} to {interval.high:{style}}" if interval.method else interval.reason
        texts[title] = None if np.isnan(each.value) else f"{each.value:{style}} ({text})"
    return texts


def lost_lesions(frame: pd.DataFrame, run: str, reference: str) -> str | None:
    """Return how many lesions of `LARGE_MM` or more a run does not find, of those that its reference finds.

    None if the rows do not say which lesions are found.
    """
    index = ["seed", "case"]
    if not {"found_each", "diameters_mm"} <= set(frame):
        return None
    both, base = (frame[frame["run"] == name].set_index(index) for name in (run, reference))
    joined = both.join(base, rsuffix="_base", how="inner").dropna(subset=["found_each", "found_each_base"])
    if joined.empty:
        return None
    found, found_base, diameters = (
        np.concatenate([np.asarray(each, dtype=np.float64) for each in joined[column]])
        for column in ("found_each", "found_each_base", "diameters_mm")
    )
    large = (diameters >= LARGE_MM) & (found_base > 0)
    return f"{np.count_nonzero(large & (found == 0))} of {np.count_nonzero(large)}"


def power_table(frame: pd.DataFrame, reference: str, *, drawn: int | None = None) -> pd.DataFrame:
    """Return the smallest differences to the reference that would be shown with a power of 80 %.

    They are for the seeds of the rows, and for as many patients or the number `drawn`.
    """
    table = []
    for name, rows, found in estimates(frame, reference, drawn=drawn):
        row: dict[str, str | None] = {"network": name, "seeds": _seeds_text(rows)}
        for (title, digits), each in zip(MEASURES.items(), found, strict=True):
            row[title] = f"{each.detectable:.{digits}f}" if each.interval.method else None
        table.append(row)
    return pd.DataFrame(table)


def without_counts(frame: pd.DataFrame) -> list[str]:
    """Return the networks with rows that were scored before counts were kept."""
    parts = frame.groupby("name", sort=False)
    return [str(name) for name, rows in parts if counts_of(rows) is None]


def draw_froc(frame: pd.DataFrame, thresholds: Sequence[float], path: Path) -> bool:
    """Draw the monotone curves of all networks, seeds pooled, as PNG; return whether there are any."""
    from sgnet_nnunet.report.figures import MARKERS, MODEL_COLOURS, froc_plot, save  # noqa: PLC0415

    curves: dict[str, Froc] = {}
    look: dict[str, dict[str, str]] = {}
    for name, rows in frame[~frame["run"].str.endswith(SIZED)].groupby("name", sort=False):
        if (counts := counts_of(rows)) is None or not counts.total_lesions:
            continue
        place = len(curves)
        # The monotone curves are what the tables read; at low thresholds merged lesions turn the others back.
        false, sensitivity = (each[0] for each in vars(MonotoneFroc.of(counts)).values())
        order = np.lexsort((-counts.sensitivity, counts.false_positives_per_case))
        curves[str(name)] = Froc(np.append(1.0, np.array(thresholds)[order]), sensitivity, false)
        # From the ninth network on the colours repeat, with other markers.
        marker = MARKERS[(place + place // len(MODEL_COLOURS)) % len(MARKERS)]
        look[str(name)] = {"color": MODEL_COLOURS[place % len(MODEL_COLOURS)], "marker": marker}
    if curves:
        save(froc_plot(curves, look=look), path)
    return bool(curves)


def sections(frame: pd.DataFrame, reference: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield title and table of what is compared at equal lesion sensitivity; the frame as of `estimates`."""
    intervals = "95 % intervals over patients and seeds"
    missing = without_counts(frame)
    note = (
        f" No counts at thresholds were kept of {', '.join(missing)}: `study.py score --again`."
        if missing
        else ""
    )
    title = (
        "At equal lesion sensitivity: false positives a case where 85, 90 and 95 % of the lesions are found, "
        "partial area of the FROC curve (mean sensitivity from 0 to 8 false positives a case), with "
        f"{intervals} (bootstrap, {RESAMPLING.number} resamples). {SIZED_NAME.strip()!r}: small, unsure "
        "lesions are removed by a rule that was chosen on the other four of five groups of the test patients."
    )
    yield title + note, levels_table(frame)
    if reference not in set(frame["run"]):
        return
    named = str(frame.loc[frame["run"] == reference, "name"].iloc[0])
    title = (
        f"Difference to {named}, paired, with {intervals}; and lost lesions of {LARGE_MM:g} mm or more: "
        "not found at nnU-Net's own threshold, but found by the reference of the same seed, or by the run "
        "itself without its gates or its rule:"
    )
    yield title, equal_table(frame, reference)
    title = f"The smallest difference to {named} that this study shows with a power of 80 %:"
    yield title, power_table(frame, reference)
