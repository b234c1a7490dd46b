"""Scores and tables of the phantom study.

A row of NAME_cases.jsonl is one test patient of one training: the run, its name in the tables, the seed,
the number of parameters, the metrics, and for each gate how much of the volume is open and how much of the
lesions is kept.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from timing import markdown

SCORES = "scores.json"
UNGATED = "SGNetNoGateTrainer"
SG_NET_PLANS = "nnUNetPlans"
RESAMPLES = 2000
COLUMNS = {
    "dice": ("Dice", 3),
    "precision": ("precision", 3),
    "recall": ("recall", 3),
    "hd95_mm": ("HD95 mm", 1),
    "nsd_1mm": ("NSD 1 mm", 3),
    "lesion_sensitivity": ("lesion sensitivity", 3),
    "false_positives": ("FP per case", 2),
}
"""Name and digits of each metric in the tables."""

SHORT = ["dice", "precision", "lesion_sensitivity", "false_positives"]
"""The metrics that the tables of seeds and of differences show."""


def run_folder(folder: Path, run: str, seed: int) -> Path:
    """Return the folder of one training's results."""
    return folder / "runs" / f"seed{seed}" / run


def score_run(
    trainer: Any,  # noqa: ANN401 - nnU-Net has no types
    raw: Path,
    predictions: Path,
    target: Path,
    *,
    gates: bool = True,
) -> None:
    """Write the scores of every test patient, and its gate masks' contents, to a JSON file.

    Args:
        trainer: nnU-Net's trainer with the trained network.
        raw: Folder of the study's raw data.
        predictions: Folder of the masks.
        target: The file.
        gates: Whether to measure the gates; bypassed ones are left out.
    """
    from sgnet_nnunet.files import write_text  # noqa: PLC0415
    from sgnet_nnunet.networks.sgnet import SGNet  # noqa: PLC0415 - PyTorch is not needed for the tables

    # A network that nnU-Net compiled for a GPU is wrapped; SG-Net's trainers keep the one inside.
    network = getattr(trainer, "sgnet", trainer.network)
    gates = gates and isinstance(network, SGNet) and bool(network.gate_names)
    trainer.set_deep_supervision_enabled(False)
    trainer.network.eval()
    cases: dict[str, dict[str, Any]] = {}
    for path in sorted((raw / "labelsTs").glob("*.nii.gz")):
        name = path.name.removesuffix(".nii.gz")
        cases[name] = _score_case(path, predictions / path.name)
        cases[name] |= _score_gates(trainer, raw, name) if gates else {"gates": []}
    parameters = sum(p.numel() for p in network.parameters())
    write_text(target, json.dumps({"parameters": parameters, "cases": cases}, indent=1) + "\n")


def _score_case(reference: Path, prediction: Path) -> dict[str, Any]:
    from sgnet_nnunet.evaluation.lesion_metrics import lesions_of  # noqa: PLC0415
    from sgnet_nnunet.evaluation.pairs import MaskPair  # noqa: PLC0415
    from sgnet_nnunet.evaluation.registry import find_metric  # noqa: PLC0415

    image = nib.load(reference)
    predicted, true = (np.asarray(each.dataobj) > 0 for each in (nib.load(prediction), image))
    pair = MaskPair(predicted, true, affine=image.affine)
    columns = ("dice", "precision", "recall", "hd95_mm", "nsd_1mm")
    metrics = ("dice", "precision", "recall", "hd95_directed_mm", "nsd_1mm")
    match = lesions_of(pair)
    return {
        **{column: find_metric(name)(pair) for column, name in zip(columns, metrics, strict=True)},
        "lesions": len(match.detected),
        "detected": int(match.detected.sum()),
        "false_positives": match.false_positives,
    }


def _score_gates(trainer: Any, raw: Path, name: str) -> dict[str, Any]:  # noqa: ANN401
    """Return each gate's figures on the network's grid, and the lesions that the finest gate suppresses."""
    import torch  # noqa: PLC0415

    from sgnet_nnunet.evaluation.lesion_metrics import find_lesions  # noqa: PLC0415
    from sgnet_nnunet.training.gate_monitor import count_gates, gates_of_image  # noqa: PLC0415

    manager = trainer.configuration_manager
    data, segmentation, _ = manager.preprocessor_class(verbose=False).run_case(
        [str(raw / f"imagesTs/{name}_{channel:04d}.nii.gz") for channel in range(2)],
        str(raw / f"labelsTs/{name}.nii.gz"),
        trainer.plans_manager, manager, trainer.dataset_json,
    )  # fmt: skip
    masks = gates_of_image(trainer.sgnet, torch.from_numpy(data).to(trainer.device), manager.patch_size)
    foreground = torch.from_numpy(segmentation > 0)[None]
    counts = count_gates(masks, foreground)
    lesions = find_lesions(foreground[0, 0].numpy(), spacing=tuple(manager.spacing))
    kept = np.isin(np.arange(1, lesions.number + 1), lesions.labels[masks[-1][0, 0].numpy()])
    gates = [
        {
            "gate": gate,
            "open_fraction": counts.open_fraction[level],
            "lesion_voxels": int(counts.lesion_voxels[level]),
            "kept_lesion_voxels": int(counts.kept_lesion_voxels[level]),
            "lesions": int(counts.lesions[level]),
            "kept_lesions": int(counts.kept_lesions[level]),
        }
        for level, gate in enumerate(trainer.sgnet.gate_names)
    ]
    return {"gates": gates, "suppressed_diameters_mm": lesions.diameters_mm[~kept].tolist()}


def collect(folder: Path, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the scores of each test patient of every training that has any.

    Args:
        folder: The study's folder.
        names: Name in the tables of each run, in their order.
    """
    for run, name in names.items():
        for path in sorted(folder.glob(f"runs/seed*/{run}/{SCORES}")):
            document = json.loads(path.read_text(encoding="utf-8"))
            seed = int(path.parts[-3].removeprefix("seed"))
            origin = {"run": run, "name": name, "seed": seed, "parameters": document["parameters"]}
            for case, scores in document["cases"].items():
                yield origin | {"case": case} | scores


def write_tables(results: Path, name: str) -> None:
    """Write NAME.md from NAME_cases.jsonl and NAME.json."""
    lines = (results / f"{name}_cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    document = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
    frame = pd.DataFrame(cases)
    frame["lesion_sensitivity"] = frame["detected"] / frame["lesions"]
    budget = document["budget"]
    patches = budget["epochs"] * budget["iters"] * budget["batch_size"]
    shape = " x ".join(map(str, budget["patch_size"]))
    sections = {
        f"Budget: {budget['training']} training and {budget['test']} test patients; {patches:,} patches "
        f"of {shape} voxels (z, y, x) on a grid of {budget['shrink']} mm. Means over the test patients, then "
        "over seeds; time of a step and of a case as a multiple of the ungated network's:": (
            means_table(frame, document["speed"])
        ),
        "Seed by seed:": seeds_table(frame),
        "Difference to the ungated network of the same plan, else of nnUNetPlans: paired over patients, "
        f"seeds averaged, with a 95 % BCa bootstrap interval ({RESAMPLES} resamples) over patients:": (
            differences_table(frame)
        ),
        "The gate masks on the test patients, all seeds pooled; a voxel is kept if any window of the sliding "
        "window opens the gate there:": gates_table(cases),
    }
    blocks = [f"{title}\n\n{markdown(table)}" for title, table in sections.items() if len(table)]
    (results / f"{name}.md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def _by_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the means over patients, one row per network and seed, networks in the order of the cases."""
    return frame.groupby(["name", "seed"], sort=False)[list(COLUMNS)].mean()


def means_table(frame: pd.DataFrame, speed: Mapping[str, Any] | None) -> pd.DataFrame:
    """Return the means of every network, with its parameters, seeds and relative times.

    Args:
        frame: Columns of `COLUMNS`, `run`, `name`, `seed` and `parameters`; one row per patient.
        speed: Content of the study's speed.json, or None.
    """
    first = frame.groupby("name", sort=False).first()
    means = _by_seed(frame).groupby("name", sort=False).mean()
    table = pd.DataFrame({"network": means.index})
    table["parameters"] = first["parameters"].map("{:,}".format).to_numpy()
    table["seeds"] = frame.groupby("name", sort=False)["seed"].nunique().to_numpy()
    for column, (title, digits) in COLUMNS.items():
        table[title] = means[column].map(f"{{:.{digits}f}}".format).to_numpy()
    times = {row["trainer"]: row for row in (speed or {"models": []})["models"]}
    for kind in ("step", "case"):
        # Runs are named TRAINER__PLANS, with a suffix if their gates are bypassed.
        found = [times.get(run.split("__")[0]) if run.endswith("Plans") else None for run in first["run"]]
        table[kind] = [f"{row[f'{kind}_relative']:.2f}" if row else None for row in found]
    return table


def seeds_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the means of each seed, separated by slashes."""
    by_seed = _by_seed(frame)
    table = pd.DataFrame({"network": frame["name"].unique()})
    for column in SHORT:
        title, digits = COLUMNS[column]
        text = by_seed[column].map(f"{{:.{digits}f}}".format)
        table[title] = text.groupby("name", sort=False).agg(" / ".join).to_numpy()
    return table


def differences_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the paired differences to the ungated network over the seeds that both networks have."""
    runs = frame["run"].unique()
    rows = []
    for name, run in frame[["name", "run"]].drop_duplicates().itertuples(index=False):
        trainer, plans = run.removesuffix("-bypassed").split("__")
        same_plan = f"{UNGATED}__{plans}"
        reference = same_plan if same_plan in runs else f"{UNGATED}__{SG_NET_PLANS}"
        own, other = frame[frame["run"] == run], frame[frame["run"] == reference]
        common = sorted(set(own["seed"]) & set(other["seed"]))
        if trainer == UNGATED or not common:
            continue
        mine, theirs = (
            each[each["seed"].isin(common)].groupby("case")[SHORT].mean() for each in (own, other)
        )
        difference = mine - theirs
        rows.append({"network": name} | {COLUMNS[c][0]: _with_interval(difference[c]) for c in SHORT})
    return pd.DataFrame(rows)


def _with_interval(differences: "pd.Series[float]") -> str:
    """Return the mean difference and its interval as text."""
    from scipy import stats  # noqa: PLC0415

    values = differences.dropna().to_numpy()
    low = high = values[0]
    if np.ptp(values):
        rng = np.random.default_rng(0)
        low, high = stats.bootstrap((values,), np.mean, n_resamples=RESAMPLES, rng=rng).confidence_interval
    return f"{values.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def gates_table(cases: list[dict[str, Any]]) -> pd.DataFrame:
    """Return how much of the volume each gate opens, and of the lesions it keeps, by network."""
    gates = [{"name": case["name"]} | gate for case in cases for gate in case["gates"]]
    if not gates:
        return pd.DataFrame()
    grouped = pd.DataFrame(gates).groupby(["name", "gate"], sort=False)
    total, fraction = grouped.sum(), grouped["open_fraction"].mean()
    table = fraction.map("{:.4f}".format).rename("open").reset_index()
    for title, column in {"lesion voxels kept": "lesion_voxels", "lesions kept": "lesions"}.items():
        share = total[f"kept_{column}"] / total[column]
        table[title] = share.map("{:.4f}".format).to_numpy()
    suppressed = total["lesions"] - total["kept_lesions"]
    table["lesions suppressed"] = [f"{n} of {of}" for n, of in zip(suppressed, total["lesions"], strict=True)]
    return table.rename(columns={"name": "network", "gate": "gate at"})
