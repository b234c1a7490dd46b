"""From the scores of all trainings to the results of the study."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from study.config import MODELS, SG_NET_PLANS, Model, StudyConfig
from study.train import SCORES, run_folder

UNGATED = "SGNetNoGateTrainer"
RESAMPLES = 2000
SMALLEST_LESION_MM = 5.0
"""The smallest lesion that no gate may shut out."""

Case = Mapping[str, Any]

PER_CASE: Mapping[str, Callable[[Case], float]] = {
    "dice": lambda case: case["dice"],
    "precision": lambda case: case["precision"],
    "recall": lambda case: case["recall"],
    "hd95_mm": lambda case: case["hd95_mm"],
    "nsd_1mm": lambda case: case["nsd_1mm"],
    "lesion_sensitivity": lambda case: case["detected"] / case["lesions"],
    "false_positives": lambda case: case["false_positives"],
}


def summarise(folder: Path, config: StudyConfig) -> dict[str, Any]:
    """Return the study's results: each model's means over seeds, and its differences to no gate."""
    runs = _read_runs(folder, config)
    models = [
        {"name": model.name, "trainer": model.trainer, "plans": model.plans, "bypassed": model.bypassed}
        | _summary(found := list(by_seed.values()))
        | _gate_summary(found)
        | {"against_no_gate": _differences(runs, model)}
        for model, by_seed in runs.items()
    ]
    return {
        "budget": asdict(config),
        "definitions": {
            "means": "over the test patients of a seed, then over seeds; dice to false_positives",
            "interval": f"95 %, paired bootstrap over patients ({RESAMPLES} resamples, BCa); common seeds",
            "gates": "a voxel is admitted if any window of the sliding window admits it",
            "thresholds": "set on the training patients, gate by gate; whole images in one window",
        },
        "models": models,
        "speed": _read(folder / "speed.json"),
        "thresholds": _read(folder / "thresholds.json"),
    }


def case_rows(folder: Path, config: StudyConfig) -> Iterable[dict[str, Any]]:
    """Yield the scores of each test patient, of every network and seed.

    They are what the summary is made of, for whoever wants other statistics.
    """
    for model, by_seed in _read_runs(folder, config).items():
        for seed, run in by_seed.items():
            for case, scores in run["cases"].items():
                origin = {"run": model.run, "seed": seed, "parameters": run["parameters"], "case": case}
                yield origin | scores


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _read_runs(folder: Path, config: StudyConfig) -> dict[Model, dict[int, dict[str, Any]]]:
    """Return the scores of every network that has any, by seed."""
    runs: dict[Model, dict[int, dict[str, Any]]] = {}
    for model in MODELS:
        for seed in range(config.seeds):
            if run := _read(run_folder(folder, model.run, seed) / SCORES):
                runs.setdefault(model, {})[seed] = run
    return runs


def _per_patient(runs: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """Return each score of each patient, averaged over the seeds; shape (patients,)."""
    return {
        name: np.nanmean([[read(case) for case in run["cases"].values()] for run in runs], axis=0)
        for name, read in PER_CASE.items()
    }


def _summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    by_seed = {
        name: [float(np.nanmean([read(case) for case in run["cases"].values()])) for run in runs]
        for name, read in PER_CASE.items()
    }
    return {
        "parameters": runs[0]["parameters"],
        "seeds": len(runs),
        "mean": {name: float(np.mean(values)) for name, values in by_seed.items()},
        "by_seed": by_seed,
    }


def _gate_summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = runs[0]["gates"]
    if not names:
        return {"gates": None}
    gates = [case["gates"] for run in runs for case in run["cases"].values()]

    def share(part: str, whole: str, level: int) -> float:
        return sum(gate[part][level] for gate in gates) / sum(gate[whole][level] for gate in gates)

    shut_out = sorted(diameter for gate in gates for diameter in gate["shut_out_diameters_mm"])
    return {
        "gates": {
            name: {
                "open_fraction": float(np.mean([gate["open_fraction"][level] for gate in gates])),
                "admitted_voxel_share": share("admitted_voxels", "lesion_voxels", level),
                "admitted_lesion_share": share("admitted_lesions", "lesions", level),
            }
            for level, name in enumerate(names)
        },
        "lesions_shut_out": len(shut_out),
        "lesions_shut_out_of_5mm_or_more": sum(d >= SMALLEST_LESION_MM for d in shut_out),
        "shut_out_diameters_mm": shut_out,
    }


def _differences(
    runs: Mapping[Model, Mapping[int, Mapping[str, Any]]], model: Model
) -> dict[str, dict[str, float]] | None:
    """Return the differences to the ungated network of the same plan, else to that of SG-Net's plan.

    Only the seeds that both have count: a lucky or unlucky one of either alone would pass for a difference.
    """
    ungated = {other.plans: other for other in runs if other.trainer == UNGATED}
    reference = ungated.get(model.plans, ungated.get(SG_NET_PLANS))
    if reference is None or reference is model:
        return None
    seeds = runs[model].keys() & runs[reference].keys()
    if not seeds:
        return None
    own, others = (_per_patient([runs[each][seed] for seed in seeds]) for each in (model, reference))
    result = {}
    for name in PER_CASE:
        difference = own[name] - others[name]
        difference = difference[np.isfinite(difference)]
        interval = stats.bootstrap(
            (difference,), np.mean, n_resamples=RESAMPLES, rng=np.random.default_rng(0)
        ).confidence_interval if np.ptp(difference) else (difference[0], difference[0])  # fmt: skip
        low, high = interval
        result[name] = {"mean": float(difference.mean()), "low": float(low), "high": float(high)}
    return result
