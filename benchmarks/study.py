"""The studies: every network on the same patients, compared on patients that none was trained on.

    python benchmarks/study.py phantoms study_output/phantoms
    sgnet study benchmarks/studies/cpu.yaml                        # trains; goes on where it was stopped
    python benchmarks/study.py score benchmarks/studies/cpu.yaml   # what is trained and has no scores
    python benchmarks/study.py report benchmarks/studies/cpu.yaml benchmarks/results
    python benchmarks/study.py power benchmarks/results/phantom_study_1mm_cases.jsonl --patients 64

The other studies are `precision`, `gpu`, `gpu_short`, and `real`, which leaves each patient of a collection
out once.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from functools import partial
from itertools import chain, product
from operator import truediv
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import typer
from study_froc import BYPASSED, GRID, SIZED, SIZED_NAME, plain_run, power_table
from study_results import (
    CASES,
    SG_NET_PLANS,
    UNCLIPPED_PLANS,
    UNGATED,
    read_rows,
    score,
    score_sized,
    write_tables,
)
from timing import in_turn, markdown, seconds

from sgnet_nnunet.dataset.convert import convert
from sgnet_nnunet.demo import nnunet_paths
from sgnet_nnunet.files import atomic_path, write_json
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.population import write_phantoms
from sgnet_nnunet.study.study_file import Network, StudyFile, read_study

if TYPE_CHECKING:
    from torch import Tensor

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
logger = logging.getLogger("study")

DATASET = "Dataset501_BrainMetsLung"
DEFAULT_PLANS = "nnUNetDefaultPlans"
TRAINING_SEED, TEST_SEED = 1, 3
POPULATION = PhantomConfig(
    extra_lesions_median=5, extra_lesions_sigma=0.4, diameter_median=9, diameter_sigma=0.5
)
"""About six lesions per patient, as small as the default's. Those of `sgnet demo` are larger, and leave too
few false positives to tell networks apart."""

TIMED_PATCH, TIMED_BATCH = (32, 96, 96), 4
"""The plan's own patch (z, y, x) and batch, whatever the budget of the study."""

TIMED_CASE = (96, 128, 128)
"""About the size of a brain, in one window, so that no network gains from larger patches."""

GATED_TRAINER = "SGNetTrainer"
GATED = f"{GATED_TRAINER}__{SG_NET_PLANS}"
NAMES = {
    GATED: "SG-Net, hard spatial gates",
    f"SGNetTrainer__{UNCLIPPED_PLANS}": "SG-Net, hard spatial gates, unclipped",
    f"{UNGATED}__{SG_NET_PLANS}": "SG-Net, no gate",
    f"{UNGATED}__{UNCLIPPED_PLANS}": "SG-Net, no gate, unclipped",
    f"SGNetSkipGateTrainer__{SG_NET_PLANS}": "SG-Net, skip gate",
    f"SGNetSoftGateTrainer__{SG_NET_PLANS}": "SG-Net, soft gate",
    f"SGNetDeepSupervisionTrainer__{SG_NET_PLANS}": "SG-Net, deep supervision",
    f"BaselineUNetTrainer__{SG_NET_PLANS}": "baseline U-Net",
    f"BaselineResUNetTrainer__{SG_NET_PLANS}": "baseline ResU-Net",
    f"BaselineAttentionUNetTrainer__{SG_NET_PLANS}": "baseline Attention U-Net",
    f"SGNetNotebookTrainer__{SG_NET_PLANS}": "SG-Net, notebook's training",
    f"ShortNNUNetTrainer__{DEFAULT_PLANS}": "nnU-Net's default",
    "SGNetTrainer__BiccPlans": "SG-Net, BiCC 0.5",
    "SGNetTrainer__BiccHeavyPlans": "SG-Net, BiCC 0.75",
    "SGNetTrainer__TopKPlans": "SG-Net, top-k BCE",
    "SGNetTrainer__OwnFalsePositivesPlans": "SG-Net, patches at its false positives",
    "SGNetTrainer__OpenLossPlans": "SG-Net, closed from 20 %, loss of what is open",
    "SGNetTrainer__LesionWeightedPlans": "SG-Net, gates by lesion",
    "SGNetTrainer__HardestNegativesPlans": "SG-Net, gates' hardest background",
}
"""Names in the tables by run, a network's trainer and plans."""

StudyPath = Annotated[Path, typer.Argument(metavar="STUDY.YAML", help="The study.", exists=True)]


@app.command()
def phantoms(
    folder: Annotated[Path, typer.Argument(help="Output folder; about 2 GB.")],
    training: Annotated[int, typer.Option(min=1, help="Phantoms to train on.")] = 24,
    validation: Annotated[int, typer.Option(min=1, help="Phantoms of nnU-Net's validation fold.")] = 2,
    test: Annotated[int, typer.Option(min=1, help="Phantoms that are held out.")] = 64,
    workers: Annotated[int, typer.Option("-np", min=1, help="Processes.")] = os.cpu_count() or 1,
) -> None:
    """Make the raw data set of the phantom studies, unless that is done."""
    raw = folder / DATASET
    if (raw / "splits_final.json").exists():
        return
    for part, patients, seed in (("Tr", training + validation, TRAINING_SEED), ("Ts", test, TEST_SEED)):
        source = folder / f"patients{part}"
        write_phantoms(source, patients=patients, seed=seed, workers=workers, config=POPULATION)
        converted = convert(source, folder / f"converted{part}", workers=workers).dataset_folder
        for kind in ("images", "labels"):
            shutil.copytree(converted / f"{kind}Tr", raw / f"{kind}{part}", dirs_exist_ok=True)
    shutil.copy(folder / "convertedTr" / DATASET / "dataset.json", raw)
    cases = names_of(raw / "labelsTr")
    write_json(raw / "splits_final.json", [{"train": cases[:training], "val": cases[training:]}])


def names_of(labels: Path) -> list[str]:
    """Return the names of the cases of a folder of label maps, sorted."""
    return sorted(path.name.removesuffix(".nii.gz") for path in labels.glob("*.nii.gz"))


def folds_of(work: Path) -> list[list[str]]:
    """Return the test cases of each fold: the patient left out, or all test phantoms."""
    raw = work / "nnUNet_raw" / DATASET
    if (raw / "labelsTs").exists():
        return [names_of(raw / "labelsTs")]
    splits = json.loads((raw / "splits_final.json").read_text(encoding="utf-8"))
    return [split["val"] for split in splits]


def run_of(network: Network) -> str:
    """Return a network's name in the scores."""
    return f"{network.trainer}__{network.plans}"


def trainings(file: StudyFile) -> Iterator[tuple[Network, int, int, Path]]:
    """Yield network, seed, fold and folder of every training of a study."""
    for seed, network, fold in product(file.study.seeds, file.study.networks, file.folds):
        yield network, seed, fold, file.work / f"results/seed{seed}" / DATASET / network.model


@app.command(name="score")
def score_study(
    study: StudyPath,
    again: Annotated[bool, typer.Option(help="Also those without counts at thresholds, if trained.")] = False,
) -> None:
    """Test every trained network that has no scores yet on the test patients of its fold."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    file = read_study(study)
    os.environ |= nnunet_paths(file.work)
    if again:
        _drop_rows_without_counts(file)
    done = {(row["run"], row["seed"], row["fold"]) for row in read_rows(file.work)}
    for network, seed, fold, model in trainings(file):
        run = run_of(network)
        if (run, seed, fold) in done or not (model / f"fold_{fold}/checkpoint_final.pth").is_file():
            continue
        rows = _test(file, model, run, seed, fold)
        if network.trainer == GATED_TRAINER:
            rows += _test(file, model, run + BYPASSED, seed, fold)
        _append(file.work, rows)
        logger.info("%s, seed %d, fold %d", run, seed, fold)
    _score_sized(file)


def _drop_rows_without_counts(file: StudyFile) -> None:
    """Remove the rows that were scored before counts were kept, of the trainings that can be tested again."""
    trained = {
        (run_of(network), seed, fold)
        for network, seed, fold, model in trainings(file)
        if (model / f"fold_{fold}/checkpoint_final.pth").is_file()
    }
    rows = [
        row
        for row in read_rows(file.work)
        if "found_at" in row or (plain_run(row["run"]), row["seed"], row["fold"]) not in trained
    ]
    with atomic_path(file.work / CASES) as partial:
        partial.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows), encoding="utf-8")


def _score_sized(file: StudyFile) -> None:
    """Score each run whose folds are all done once more, without its small, unsure lesions."""
    trained: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in read_rows(file.work):
        trained.setdefault((row["run"], row["seed"]), []).append(row)
    for (run, seed), rows in trained.items():
        folds = {row["fold"] for row in rows}
        done = run.endswith(SIZED) or (run + SIZED, seed) in trained
        if done or not (None in folds or folds >= set(file.folds)):
            continue
        test = file.work / "test" / f"seed{seed}"
        scores = score_sized(rows, labels=_labels(file), predictions=test / run, results=test / (run + SIZED))
        _append(file.work, [{"run": run + SIZED} | row for row in scores])


def _test(file: StudyFile, model: Path, run: str, seed: int, fold: int | None) -> list[dict[str, Any]]:
    """Return the scores of a trained model on the test patients of its fold, or of all for fold 0."""
    labels, folds = _labels(file), folds_of(file.work)
    images = labels.with_name(labels.name.replace("labels", "images"))
    cases = list(chain(*folds)) if fold is None else folds[fold]
    scores = score(
        model,
        fold=fold or 0,
        images={case: sorted(images.glob(f"{case}_????.nii.gz")) for case in cases},
        labels=labels,
        predictions=file.work / "test" / f"seed{seed}" / run,
        device="cuda" if file.study.device == "cuda" else "cpu",
        bypassed=run.endswith(BYPASSED),
    )
    return [{"run": run, "seed": seed, "fold": fold} | row for row in scores]


def _labels(file: StudyFile) -> Path:
    """Return the folder of the test patients' label maps."""
    raw = file.work / "nnUNet_raw" / DATASET
    return raw / "labelsTs" if (raw / "labelsTs").exists() else raw / "labelsTr"


def _append(work: Path, rows: list[dict[str, Any]]) -> None:
    with (work / CASES).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


@app.command()
def external(
    study: StudyPath,
    model: Annotated[Path, typer.Argument(help="A trained model's folder, TRAINER__PLANS__CONFIGURATION.")],
    name: Annotated[str, typer.Option(help="Its name in the tables.")] = "SG-Net, trained on phantoms",
    seed: Annotated[int, typer.Option(help="Its seed.")] = 1,
) -> None:
    """Test fold 0 of a model that was trained elsewhere on all test patients."""
    file = read_study(study)
    _append(file.work, _test(file, model, name, seed, None))
    _score_sized(file)


@app.command()
def speed(
    study: StudyPath,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each timing every network once.")] = 7,
) -> None:
    """Time a training step and a case of every network in turn, and write speed.json; on an idle machine.

    The steps are those of the trainers (forward, loss, backward, optimiser) on one random batch, the cases
    one dense pass. nnU-Net's default network is left out: its plan's patch is another.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    file = read_study(study)
    folder = file.work
    os.environ |= nnunet_paths(folder) | {"nnUNet_results": str(folder / "speed")}
    import torch  # noqa: PLC0415
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: PLC0415

    from sgnet_nnunet.training.settings import keep_freed_memory  # noqa: PLC0415

    device = torch.device("cuda" if file.study.device == "cuda" else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    image = torch.rand(1, 2, *TIMED_CASE, device=device)
    trainers, functions = {}, {}
    networks = [each for each in file.study.networks if each.plans != DEFAULT_PLANS]
    for name, plans in {network.trainer: network.plans for network in networks}.items():
        trainer = get_trainer_from_args("501", "3d_fullres", 0, name, plans, device=device)
        trainer.initialize()
        trainers[name] = trainer
        functions[f"{name} step"] = partial(seconds, partial(_step, trainer, _batch(trainer)), device)
        functions[f"{name} case"] = partial(seconds, partial(_case, trainer, image), device)
    found = {name: times[1:] for name, times in in_turn(functions, rounds + 1).items()}
    rows = [
        {
            "trainer": name,
            "step_s": median(found[f"{name} step"]),
            "case_s": median(found[f"{name} case"]),
            "step_relative": median(map(truediv, found[f"{name} step"], found[f"{UNGATED} step"])),
            "case_relative": median(map(truediv, found[f"{name} case"], found[f"{UNGATED} case"])),
        }
        for name in trainers
    ]
    document = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "compiled": trainers[UNGATED]._do_i_compile(),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "step": f"batch {TIMED_BATCH} of {TIMED_PATCH} (z, y, x), gates enabled",
        "case": f"one image of {TIMED_CASE}, untrained weights, one dense pass",
        "models": rows,
    }
    (folder / "speed.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _batch(trainer: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a random batch as the trainer's loss takes it: one target per scale of a deep supervision."""
    import torch  # noqa: PLC0415
    from torch.nn.functional import interpolate  # noqa: PLC0415

    target = torch.zeros(TIMED_BATCH, 1, *TIMED_PATCH, dtype=torch.int16)
    target[..., 8:20, 30:50, 30:50] = 1
    targets: Tensor | list[Tensor] = target
    if trainer.enable_deep_supervision:
        scales = trainer._get_deep_supervision_scales()
        targets = [interpolate(target.float(), scale_factor=tuple(s)).to(target.dtype) for s in scales]
    return {"data": torch.rand(TIMED_BATCH, 2, *TIMED_PATCH), "target": targets}


def _step(trainer: Any, batch: dict[str, Any]) -> None:  # noqa: ANN401
    from sgnet_nnunet.training.base_trainer import freeze_batch_norms  # noqa: PLC0415

    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.network.train()
    freeze_batch_norms(trainer.network)
    trainer.train_step(batch)


def _case(trainer: Any, image: "Tensor") -> None:  # noqa: ANN401
    import torch  # noqa: PLC0415

    trainer.set_deep_supervision_enabled(False)
    network = trainer.network.eval()
    with torch.inference_mode(), torch.autocast(image.device.type, enabled=image.device.type == "cuda"):
        network(image)


@app.command()
def report(
    study: StudyPath,
    results: Annotated[Path, typer.Argument(help="Output folder.")],
    name: Annotated[str, typer.Option(help="Name of the files.")] = "phantom_study",
) -> None:
    """Write each case (NAME_cases.jsonl), the budget (NAME.json), the tables and a figure (NAME.md)."""
    results.mkdir(parents=True, exist_ok=True)
    file = read_study(study)
    rows = list(read_rows(file.work))
    runs = list(dict.fromkeys([*NAMES, *(plain_run(row["run"]) for row in rows)]))
    rows.sort(key=lambda row: (runs.index(plain_run(row["run"])), row["run"], row["seed"], row["case"]))
    named = [{"name": name_of(row["run"])} | row for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in named)
    (results / f"{name}_cases.jsonl").write_text(text, encoding="utf-8")
    timed = file.work / "speed.json"
    planned = {(run_of(network), seed, fold) for network, seed, fold, _ in trainings(file)}
    document = {
        "budget": budget_of(file),
        "planned": len(planned),
        "done": len(planned & {(row["run"], row["seed"], row["fold"]) for row in rows}),
        "thresholds": GRID.thresholds,
        "speed": json.loads(timed.read_text(encoding="utf-8")) if timed.exists() else None,
    }
    write_json(results / f"{name}.json", document)
    write_tables(results, name)


def name_of(run: str) -> str:
    """Return the name of a run in the tables."""
    plain = plain_run(run)
    bypassed = ", bypassed in the test" if BYPASSED in run else ""
    return NAMES.get(plain, plain) + bypassed + (SIZED_NAME if run.endswith(SIZED) else "")


@app.command()
def power(
    cases: Annotated[Path, typer.Argument(help="A study's NAME_cases.jsonl, the pilot.", exists=True)],
    patients: Annotated[
        int | None, typer.Option(min=2, help="Planned test patients; all by default.")
    ] = None,
) -> None:
    """Print the smallest differences to the ungated network that are shown with a power of 80 %.

    They are for as many seeds as the pilot has.
    """
    frame = pd.DataFrame(map(json.loads, cases.read_text(encoding="utf-8").splitlines()))
    typer.echo(markdown(power_table(frame, f"{UNGATED}__{SG_NET_PLANS}", drawn=patients)))


def budget_of(file: StudyFile) -> dict[str, Any]:
    """Return what the tables say of a study: its patients and the length of its trainings."""
    study, plan = file.study, file.study.plans[SG_NET_PLANS]
    raw = file.work / "nnUNet_raw" / DATASET
    splits = json.loads((raw / "splits_final.json").read_text(encoding="utf-8"))
    return {
        "training": len(splits[0]["train"]),
        "validation": len(splits[0]["val"]),
        "test": len(folds_of(file.work)[0]),
        "collections": [folder.name for folder in file.collections],
        "patch_size": plan.patch_size,
        "batch_size": plan.batch_size,
        "epochs": study.epochs,
        "iters": study.iterations,
        "seeds": len(study.seeds),
        "device": study.device,
    }


if __name__ == "__main__":
    app()
