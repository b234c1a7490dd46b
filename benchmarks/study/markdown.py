"""The study's results as Markdown tables."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Sequence[str]


def to_markdown(results: Mapping[str, Any]) -> str:
    """Return the tables as Markdown, each under a line that says what it holds."""
    models = results["models"]
    sections = (
        ("Means over the test patients, then over seeds:", _means(results)),
        ("Seed by seed:", _seeds(models)),
        (
            "Difference to the ungated network of the same plan, else of nnUNetPlans; paired, 95 % interval:",
            _differences(models),
        ),
        ("The gates on the test patients:", _gates(models)),
        (
            "GateDecision gates at thresholds set on the training patients:",
            _thresholds(results["thresholds"]),
        ),
    )
    tables = ((title, list(rows)) for title, rows in sections)
    return "\n\n".join(f"{title}\n\n{_table(rows)}" for title, rows in tables if len(rows) > 1) + "\n"


def _table(rows: Iterable[Row]) -> str:
    header, *body = rows
    lines = (header, ["---"] * len(header), *body)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _means(results: Mapping[str, Any]) -> Iterable[Row]:
    yield (
        *("network", "parameters", "seeds", "Dice", "precision", "recall", "HD95 mm", "NSD 1 mm"),
        *("lesion sensitivity", "FP per case", "step", "case"),
    )
    speed = {row["trainer"]: row for row in (results["speed"] or {}).get("models", [])}
    for model in results["models"]:
        mean, timing = model["mean"], None if model["bypassed"] else speed.get(model["trainer"])
        yield (
            *(model["name"], f"{model['parameters']:,}", str(model["seeds"])),
            *(f"{mean[name]:.3f}" for name in ("dice", "precision", "recall")),
            *(f"{mean['hd95_mm']:.1f}", f"{mean['nsd_1mm']:.3f}"),
            *(f"{mean['lesion_sensitivity']:.3f}", f"{mean['false_positives']:.2f}"),
            *(f"{timing[key]:.2f}" if timing else "–" for key in ("step_relative", "case_relative")),
        )


def _seeds(models: Iterable[Mapping[str, Any]]) -> Iterable[Row]:
    yield ("network", "Dice", "precision", "lesion sensitivity", "FP per case")
    for model in models:
        yield (
            model["name"],
            *(
                " / ".join(f"{value:.{digits}f}" for value in model["by_seed"][name])
                for name, digits in (
                    ("dice", 3),
                    ("precision", 3),
                    ("lesion_sensitivity", 3),
                    ("false_positives", 2),
                )
            ),
        )


def _differences(models: Iterable[Mapping[str, Any]]) -> Iterable[Row]:
    yield ("network", "Dice", "precision", "lesion sensitivity", "FP per case")
    for model in models:
        if model["against_no_gate"]:
            yield (
                model["name"],
                *(
                    "{mean:+.3f} ({low:+.3f} to {high:+.3f})".format(**model["against_no_gate"][name])
                    for name in ("dice", "precision", "lesion_sensitivity", "false_positives")
                ),
            )


def _gates(models: Iterable[Mapping[str, Any]]) -> Iterable[Row]:
    yield ("network", "gate at", "open", "lesion voxels admitted", "lesions admitted")
    for model in models:
        for name, gate in (model["gates"] or {}).items():
            yield (
                *(model["name"], name, f"{gate['open_fraction']:.4f}"),
                *(f"{gate[key]:.4f}" for key in ("admitted_voxel_share", "admitted_lesion_share")),
            )


def _thresholds(seeds: Mapping[str, Sequence[Mapping[str, Any]]] | None) -> Iterable[Row]:
    yield (
        *("lesion voxels shut out in training", "patients", "Dice", "lesion sensitivity", "FP per case"),
        *("finest gate open", "lesion voxels admitted", "lesions admitted"),
    )
    for rows in zip(*(seeds or {}).values(), strict=True):
        share = rows[0]["shut_out_share"]
        for patients in ("training", "test"):
            figures = [row[patients] for row in rows]
            yield (
                *("the plan's threshold" if share is None else f"{share:g}", patients),
                *(_mean(figures, name, 3) for name in ("dice", "lesion_sensitivity")),
                _mean(figures, "false_positives", 2),
                *(
                    _mean([{name: each[name][-1]} for each in figures], name, 4)
                    for name in ("open_fraction", "admitted_voxel_share", "admitted_lesion_share")
                ),
            )


def _mean(figures: Sequence[Mapping[str, float]], name: str, digits: int) -> str:
    return f"{sum(each[name] for each in figures) / len(figures):.{digits}f}"
