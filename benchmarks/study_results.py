"""Scores and tables of the studies.

A row of `cases.jsonl`, or NAME_cases.jsonl, is one test patient of one training: the run, its seed and fold,
the number of parameters, the metrics, which reference lesions are found, the counts at the thresholds of
`study_froc.GRID`, and for each gate how much of the volume is open and how much of the lesions is kept.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd
import study_froc
from study_froc import SIZED
from timing import markdown

if TYPE_CHECKING:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    from sgnet_nnunet.inference.plan import ModelDescription

CASES = "cases.jsonl"
UNGATED = "SGNetNoGateTrainer"
SG_NET_PLANS, UNCLIPPED_PLANS = "nnUNetPlans", "nnUNetUnclippedPlans"
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


def read_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the scores of each test patient of every training that is done."""
    path = folder / CASES
    if path.exists():
        yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def score(
    model: Path,
    *,
    fold: int,
    images: Mapping[str, Sequence[Path]],
    labels: Path,
    predictions: Path,
    device: str,
    bypassed: bool = False,
) -> Iterator[dict[str, Any]]:
    """Predict patients with a fold of the trained model in a folder, and yield the scores of each.

    The images are the files of each patient's channels, by its name; `labels` is the folder of the label
    maps, `predictions` that of the masks, made if needed. Gates that are bypassed are not measured.
    """
    import torch  # noqa: PLC0415 - PyTorch is not needed for the tables

    from sgnet_nnunet.inference.nnunet_adapter import TiledEngine  # noqa: PLC0415
    from sgnet_nnunet.inference.trained_model import load_trained_model  # noqa: PLC0415

    trained = load_trained_model(model, folds=(str(fold),))
    predictor = TiledEngine(trained, device=torch.device(device), step_size=0.75).predictor
    for weights in predictor.list_of_parameters if bypassed else ():
        for name, value in weights.items():
            if name.endswith("bypassed"):
                value.fill_(True)
    predictions.mkdir(parents=True, exist_ok=True)
    parameters = sum(p.numel() for p in trained.network.parameters())
    gated = bool(getattr(trained.network, "gate_names", ())) and not bypassed
    for case, paths in images.items():
        label = labels / f"{case}.nii.gz"
        counts = _predict_case(predictor, trained.description, paths, label, predictions)
        gates = _score_gates(predictor, trained.network, paths, label) if gated else {"gates": []}
        scores = _score_case(label, predictions / label.name)
        yield {"case": case, "parameters": parameters} | scores | counts | gates


def _predict_case(
    predictor: "nnUNetPredictor",
    model: "ModelDescription",
    images: Sequence[Path],
    label: Path,
    predictions: Path,
) -> dict[str, list[int]]:
    """Write a case's mask and, from the same probabilities, its counts; return those of its row."""
    from sgnet_nnunet.evaluation.froc import count_against  # noqa: PLC0415
    from sgnet_nnunet.inference.operating_point import foreground_probability  # noqa: PLC0415
    from sgnet_nnunet.lesions import find_lesions  # noqa: PLC0415
    from sgnet_nnunet.nifti import read_channel  # noqa: PLC0415

    paths = [str(path) for path in images]
    ((mask, probabilities),) = predictor.predict_from_files_sequential([paths], None, save_probabilities=True)
    _, properties = read_channel(images[0], reader=model.reader)
    writer = predictor.plans_manager.image_reader_writer_class()
    writer.write_seg(mask, str(predictions / label.name), properties)
    lesions = find_lesions(mask > 0, spacing=tuple(properties["spacing"]))
    means = lesions.mean_of(foreground_probability(probabilities, model.labels))
    counted = count_against(label, probabilities, model=model, grid=study_froc.GRID)
    return study_froc.write_counts(counts_file(predictions, label), counted, means)


def counts_file(predictions: Path, label: Path) -> Path:
    """Return the file with a case's counts, next to its mask."""
    return predictions / label.name.replace(".nii.gz", "_counts.npz")


def score_sized(
    rows: Sequence[Mapping[str, Any]], *, labels: Path, predictions: Path, results: Path
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a run whose small, unsure lesions are removed from the masks in `predictions`.

    The rule of size and confidence is chosen for each of five groups of the patients on the other ones. The
    masks are written to `results`. Nothing is yielded if the counts of a row are missing.
    """
    from sgnet_nnunet.evaluation.froc import LesionCounts  # noqa: PLC0415
    from sgnet_nnunet.inference.operating_point import is_kept  # noqa: PLC0415
    from sgnet_nnunet.lesions import find_lesions  # noqa: PLC0415

    ordered = sorted(rows, key=lambda row: str(row["case"]))
    files = [labels / f"{row['case']}.nii.gz" for row in ordered]
    if len(files) < study_froc.GROUPS or not all(counts_file(predictions, each).exists() for each in files):
        return
    read = [study_froc.read_counts(counts_file(predictions, label)) for label in files]
    counts = LesionCounts.join([each for each, _ in read])
    rules = study_froc.cross_fitted_rules(counts)
    results.mkdir(parents=True, exist_ok=True)
    for i, (row, label, (_, means)) in enumerate(zip(ordered, files, read, strict=True)):
        image = nib.load(predictions / label.name)
        # Lesions are numbered along z, y, x, as where their means were taken.
        values = np.asarray(image.dataobj).T
        spacing = tuple(float(step) for step in image.header.get_zooms()[::-1])
        lesions = find_lesions(values > 0, spacing=spacing)
        volume, probability = study_froc.GRID.rules[rules[i]]
        kept = np.append(False, is_kept(lesions.volumes_mm3, means, volume, probability))
        mask = np.where(kept[lesions.labels], values, 0).T
        nib.save(nib.Nifti1Image(mask, image.affine, image.header), results / label.name)
        yield {
            **{name: row[name] for name in ("seed", "fold", "case", "parameters")},
            **_score_case(label, results / label.name),
            "found_at": counts.found[i, :, rules[i]].tolist(),
            "false_positives_at": counts.false_positives[i, :, rules[i]].tolist(),
            "rule": [volume, probability],
            "gates": [],
        }


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
        "diameters_mm": match.reference.diameters_mm.round(3).tolist(),
        "found_each": match.detected.astype(int).tolist(),
    }


def _score_gates(
    predictor: "nnUNetPredictor",
    network: Any,  # noqa: ANN401 - an SGNet, whose import takes seconds
    images: Sequence[Path],
    label: Path,
) -> dict[str, Any]:
    """Return each gate's figures on the network's grid, and the lesions that the finest gate suppresses."""
    import torch  # noqa: PLC0415

    from sgnet_nnunet.lesions import find_lesions  # noqa: PLC0415
    from sgnet_nnunet.training.gate_monitor import count_gates, gates_of_image  # noqa: PLC0415

    manager = predictor.configuration_manager
    data, segmentation, _ = manager.preprocessor_class(verbose=False).run_case(
        [str(path) for path in images], str(label), predictor.plans_manager, manager, predictor.dataset_json
    )
    image = torch.from_numpy(data).to(predictor.device)
    masks = gates_of_image(network.to(predictor.device), image, manager.patch_size)
    foreground = torch.from_numpy(segmentation > 0)[None]
    counts = count_gates(masks, foreground)
    lesions = find_lesions(foreground[0, 0].numpy(), spacing=tuple(manager.spacing))
    kept = np.isin(np.arange(1, lesions.number + 1), lesions.labels[masks[-1][0, 0].numpy()])
    counted = ("lesion_voxels", "kept_lesion_voxels", "lesions", "kept_lesions")
    gates = [
        {"gate": gate, "open_fraction": counts.open_fraction[level]}
        | {name: int(getattr(counts, name)[level]) for name in counted}
        for level, gate in enumerate(network.gate_names)
    ]
    return {"gates": gates, "suppressed_diameters_mm": lesions.diameters_mm[~kept].tolist()}


def write_tables(results: Path, name: str) -> None:
    """Write NAME.md from NAME_cases.jsonl and NAME.json."""
    lines = (results / f"{name}_cases.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    document = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
    frame = pd.DataFrame(cases)
    frame["lesion_sensitivity"] = frame["detected"] / frame["lesions"]
    paired = "paired over patients, seeds averaged, with a 95 % BCa bootstrap interval "
    paired += f"({RESAMPLES} resamples) over patients:"
    sections = {
        f"{_describe(document)} Means over the test patients, then over seeds; time of a step and of a case "
        "as a multiple of the ungated network's:": means_table(frame, document["speed"]),
        "Seed by seed:": seeds_table(frame),
        f"Difference to the ungated network of the same plan, else of {SG_NET_PLANS}: {paired}": (
            differences_table(frame, _ungated)
        ),
        f"Difference of the unclipped plan to the clipped one: {paired}": differences_table(frame, _clipped),
        "The gate masks on the test patients, all seeds pooled; a voxel is kept if any window of the sliding "
        "window opens the gate there:": gates_table(cases),
    }
    if document["budget"].get("collections"):
        sections["Dice, patient by patient, seeds averaged:"] = patients_table(frame)
    base = f"{UNGATED}__{SG_NET_PLANS}"
    sections |= dict(study_froc.sections(frame, base))
    blocks = [f"{title}\n\n{markdown(table)}" for title, table in sections.items() if len(table)]
    picture = results / f"{name}_froc.png"
    if study_froc.draw_froc(frame, document.get("thresholds", ()), picture):
        blocks.append(f"![Monotone FROC curves of all networks, seeds pooled]({picture.name})")
    (results / f"{name}.md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")


def _describe(document: Mapping[str, Any]) -> str:
    """Return the budget of a study, and how much of it is done, as sentences."""
    budget = document["budget"]
    patches = budget["epochs"] * budget["iters"] * budget["batch_size"]
    patients = f"{budget['training']} training and {budget['test']} test patients"
    if budget.get("collections"):
        patients = "real patients, each left out once"
    shape = " x ".join(map(str, budget["patch_size"]))
    text = f"Budget: {patients}; {patches:,} patches of {shape} voxels (z, y, x) on a grid of 1 mm."
    done, planned = document.get("done"), document.get("planned")
    return text if done == planned else f"{text} **{done} of {planned} trainings are done.**"


def _by_seed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the means over patients, one row per network and seed, networks in the order of the cases."""
    return frame.groupby(["name", "seed"], sort=False)[list(COLUMNS)].mean()


def means_table(frame: pd.DataFrame, speed: Mapping[str, Any] | None) -> pd.DataFrame:
    """Return the means of every network, with its parameters, seeds and relative times (those of speed.json).

    The frame has a row per patient, and columns `run`, `name`, `seed`, `parameters` and those of `COLUMNS`.
    """
    first = frame.groupby("name", sort=False).first()
    means = _by_seed(frame).groupby("name", sort=False).mean()
    table = pd.DataFrame({"network": means.index})
    table["parameters"] = first["parameters"].map("{:,}".format).to_numpy()
    table["seeds"] = frame.groupby("name", sort=False)["seed"].nunique().to_numpy()
    table["patients"] = frame.groupby("name", sort=False)["case"].nunique().to_numpy()
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


def patients_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the mean Dice of every network, a column per patient."""
    means = frame.pivot_table("dice", index="name", columns="case", sort=False).sort_index(axis=1)
    texts = means.map("{:.3f}".format).where(means.notna(), None)
    return texts.rename_axis(index="network", columns=None).reset_index()


def _ungated(trainer: str, plans: str, runs: Sequence[str]) -> str | None:
    same_plan = f"{UNGATED}__{plans}"
    reference = same_plan if same_plan in runs else f"{UNGATED}__{SG_NET_PLANS}"
    return None if trainer == UNGATED else reference


def _clipped(trainer: str, plans: str, _: Sequence[str]) -> str | None:
    return f"{trainer}__{SG_NET_PLANS}" if plans == UNCLIPPED_PLANS else None


def differences_table(
    frame: pd.DataFrame, reference_of: Callable[[str, str, Sequence[str]], str | None]
) -> pd.DataFrame:
    """Return the paired differences to a reference, on the patients and seeds that both networks have.

    The function returns a network's reference, given its trainer, its plans and the runs there are.
    """
    groups = frame.set_index(["seed", "case"]).groupby("run", sort=False)
    by_run = {str(run): part[SHORT] for run, part in groups}
    names = dict(zip(frame["run"], frame["name"], strict=True))
    rows = []
    for run, name in names.items():
        trainer, _, plans = study_froc.plain_run(run).partition("__")
        reference = reference_of(trainer, plans, list(by_run))
        if reference is None or reference not in by_run or run.endswith(SIZED):
            continue
        common = by_run[run].index.intersection(by_run[reference].index)
        if len(common):
            difference = (by_run[run].loc[common] - by_run[reference].loc[common]).groupby("case").mean()
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
