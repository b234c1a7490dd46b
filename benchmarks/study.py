"""The studies: train every network on the same patients and compare them.

    python benchmarks/study.py run study_output --budget cpu                          # on phantoms
    python benchmarks/study.py report study_output benchmarks/results
    python benchmarks/study.py run real_output --budget real --collection COLLECTION  # leave-one-out

`run` can be stopped and started again: each finished training appends its scores to `cases.jsonl` in the
study's folder. `report` works at any time.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, product
from operator import truediv
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from study_results import CASES, SG_NET_PLANS, UNCLIPPED_PLANS, UNGATED, read_rows, score, write_tables
from timing import in_turn, seconds

from sgnet_nnunet.dataset.convert import convert
from sgnet_nnunet.demo import nnunet_paths, run_command
from sgnet_nnunet.files import write_json
from sgnet_nnunet.parallel import run_jobs
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.population import write_phantoms

if TYPE_CHECKING:
    from torch import Tensor

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
logger = logging.getLogger("study")

DATASET = "Dataset501_BrainMetsLung"
DEFAULT_PLANS = "nnUNetDefaultPlans"
BYPASSED = "-bypassed"
"""Suffix of the runs in which a network is tested with its gates bypassed."""

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


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network of the study."""

    name: str  # name in the tables
    trainer: str  # nnU-Net's `-tr`
    plans: str = SG_NET_PLANS  # nnU-Net's `-p`
    bypassed: str = ""  # name of the same weights tested with their gates bypassed; empty if they are not

    @property
    def run(self) -> str:
        """Name of its run folders."""
        return f"{self.trainer}__{self.plans}"


MODELS = (
    Model(
        name="SG-Net, hard spatial gates",
        trainer="SGNetTrainer",
        bypassed="SG-Net, hard spatial gates, bypassed in the test",
    ),
    Model(name="SG-Net, hard spatial gates, unclipped", trainer="SGNetTrainer", plans=UNCLIPPED_PLANS),
    Model(name="SG-Net, no gate", trainer=UNGATED),
    Model(name="SG-Net, no gate, unclipped", trainer=UNGATED, plans=UNCLIPPED_PLANS),
    Model(name="SG-Net, skip gate", trainer="SGNetSkipGateTrainer"),
    Model(name="SG-Net, soft gate", trainer="SGNetSoftGateTrainer"),
    Model(name="SG-Net, deep supervision", trainer="SGNetDeepSupervisionTrainer"),
    Model(name="baseline U-Net", trainer="BaselineUNetTrainer"),
    Model(name="baseline ResU-Net", trainer="BaselineResUNetTrainer"),
    Model(name="baseline Attention U-Net", trainer="BaselineAttentionUNetTrainer"),
    Model(name="SG-Net, notebook's training", trainer="SGNetNotebookTrainer"),
    Model(name="nnU-Net's default", trainer="nnUNetTrainer", plans=DEFAULT_PLANS),
)
NAMES = {m.run: m.name for m in MODELS} | {m.run + BYPASSED: m.bypassed for m in MODELS if m.bypassed}
"""Names in the tables by run."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The budget."""

    # folders of real patients in the collection's layout, of which each is left out once, for testing; none
    # for phantoms
    collections: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()  # runs to train; none for all of `MODELS`
    # phantoms to train on; `validation` are nnU-Net's validation fold, `test` are held out
    training: int = 24
    validation: int = 2
    test: int = 48
    patch_size: tuple[int, int, int] = (32, 96, 96)  # z, y, x in voxels
    batch_size: int = 4  # patches in a batch
    epochs: int = 100  # epochs of a training
    # batches in an epoch; `val_iters` of its validation, which only the notebook's schedule uses
    iters: int = 250
    val_iters: int = 4
    seeds: int = 3  # trainings of each network
    device: str = "cuda"  # nnU-Net's `-device`
    # whether a CPU trains in bfloat16; predictions stay in float32. A GPU trains in nnU-Net's half precision
    bfloat16: bool = False
    default_memory_gb: float = 8.0  # `-gpu_memory_target` of nnU-Net's own plan

    def save(self, folder: Path) -> None:
        """Write `config.json` into the study's folder."""
        write_json(folder / "config.json", asdict(self))

    @classmethod
    def load(cls, folder: Path) -> "StudyConfig":
        """Read `config.json` of a study's folder."""
        values: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(**values | {key: tuple(values[key]) for key in ("collections", "networks", "patch_size")})


_CPU = StudyConfig(batch_size=2, epochs=25, iters=40, device="cpu", bfloat16=True, default_memory_gb=1.0)
BUDGETS = {
    "gpu": StudyConfig(),
    "gpu-short": StudyConfig(epochs=25, iters=60, bfloat16=True, default_memory_gb=1.0),
    "cpu": _CPU,
    "real": replace(_CPU, networks=tuple(NAMES)[:4], batch_size=4, epochs=20, iters=25, val_iters=1),
    "smoke": replace(
        _CPU, training=2, validation=1, test=2, patch_size=(16, 32, 32), epochs=2, iters=2, seeds=2,
        bfloat16=False, default_memory_gb=0.25,
    ),
}  # fmt: skip
"""`gpu` has the plan's own patch and batch, `gpu-short` the same for minutes; `cpu` fits two cores; `real` is
for collections of a few patients; `smoke` tests the study. Except for `gpu`, nnU-Net's default has a plan
whose patch is about as large as the others' (56 x 80 x 64)."""


def prepare(folder: Path, config: StudyConfig) -> None:
    """Make the phantoms or take the collections, convert, plan and preprocess them, unless that is done.

    Raises:
        SGNetError: If a stage fails.
    """
    if (folder / "data.done").exists():
        return
    workers = os.cpu_count() or 1
    raw = folder / "nnUNet_raw" / DATASET
    for collection in config.collections:
        shutil.copytree(collection, folder / "patientsTr", dirs_exist_ok=True)
    parts = (("Tr", config.training + config.validation, TRAINING_SEED), ("Ts", config.test, TEST_SEED))
    for part, patients, seed in parts[:1] if config.collections else parts:
        source = folder / f"patients{part}"
        if not config.collections:
            write_phantoms(source, patients=patients, seed=seed, workers=workers, config=POPULATION)
        converted = convert(source, folder / f"converted{part}", workers=workers).dataset_folder
        for kind in ("images", "labels"):
            shutil.copytree(converted / f"{kind}Tr", raw / f"{kind}{part}", dirs_exist_ok=True)
    shutil.copy(folder / "convertedTr" / DATASET / "dataset.json", raw)
    cases = names_of(raw / "labelsTr")
    splits = [{"train": cases[: config.training], "val": cases[config.training :]}]
    if config.collections:
        splits = [{"train": [case for case in cases if case != one], "val": [one]} for one in cases]
    write_json(raw / "splits_final.json", splits)
    _plan(folder, config, workers)
    (folder / "data.done").touch()


def names_of(labels: Path) -> list[str]:
    """Return the names of the cases of a folder of label maps, sorted."""
    return sorted(path.name.removesuffix(".nii.gz") for path in labels.glob("*.nii.gz"))


def folds_of(folder: Path) -> list[list[str]]:
    """Return the test cases of each fold: the patient left out, or all test phantoms."""
    raw = folder / "nnUNet_raw" / DATASET
    if (raw / "labelsTs").exists():
        return [names_of(raw / "labelsTs")]
    splits = json.loads((raw / "splits_final.json").read_text(encoding="utf-8"))
    return [split["val"] for split in splits]


def _plan(folder: Path, config: StudyConfig, workers: int) -> None:
    """Write the plans that the networks need, and preprocess."""
    processes = ("-npfp", str(workers), "-np", str(workers))
    for name, planner, options in (
        (SG_NET_PLANS, "SGNetPlanner", ()),
        (UNCLIPPED_PLANS, "SGNetUnclippedPlanner", ()),
        (DEFAULT_PLANS, "ExperimentPlanner", ("-gpu_memory_target", str(config.default_memory_gb))),
    ):
        if name not in {model.plans for model, _, _ in trainings(config, 1)}:
            continue
        command = ("nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "3d_fullres", *processes)
        run_command(
            (*command, "-pl", planner, "-overwrite_plans_name", name, *options),
            environment=nnunet_paths(folder),
            log=folder / f"{name}.log",
        )
        if name != DEFAULT_PLANS:
            path = folder / "nnUNet_preprocessed" / DATASET / f"{name}.json"
            plans = json.loads(path.read_text(encoding="utf-8"))
            patches = {"patch_size": list(config.patch_size), "batch_size": config.batch_size}
            plans["configurations"]["3d_fullres"] |= patches
            write_json(path, plans)


def trainings(config: StudyConfig, folds: int) -> list[tuple[Model, int, int]]:
    """Return the network, seed and fold of every training in their order.

    A trainer's plans are trained in turn on each fold, so that a study that is stopped can compare them.
    """
    trainers = list(dict.fromkeys(model.trainer for model in MODELS))
    models = [model for model in MODELS if model.run in (config.networks or [model.run])]
    jobs = product(models, range(1, config.seeds + 1), range(folds))
    return sorted(jobs, key=lambda job: (job[1], trainers.index(job[0].trainer), job[2]))


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="Work folder of the study; about 2 GB.")],
    budget: Annotated[str, typer.Option(help=f"One of {', '.join(BUDGETS)}.")] = "cpu",
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds; the budget's by default.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Networks to train, such as SGNetTrainer__nnUNetPlans.")
    ] = None,
    collection: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of real patients, each left out once, in place of phantoms.", exists=True),
    ] = None,
    device: Annotated[
        str | None, typer.Option("-device", help="cpu or cuda; the budget's by default.")
    ] = None,
    workers: Annotated[int, typer.Option("-np", min=1, help="Trainings at the same time.")] = 1,
) -> None:
    """Make the data, then train and score whatever is missing, seed by seed."""
    if unknown := set(only or ()) - {model.run for model in MODELS}:
        raise typer.BadParameter(f"no such network: {', '.join(unknown)}", param_hint="--only")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    collections = tuple(str(path.resolve()) for path in collection or ())
    config = _configure(folder, budget, seeds=seeds, device=device, collections=collections)
    prepare(folder, config)
    done = {(row["run"], row["seed"], row["fold"]) for row in read_rows(folder)}
    jobs = [
        (folder, model, seed, fold)
        for model, seed, fold in trainings(config, len(folds_of(folder)))
        if model.run in (only or [model.run]) and (model.run, seed, fold) not in done
    ]
    finished = enumerate(run_jobs(start_training, jobs, workers=workers), start=1)
    for count, ((_, model, seed, fold), _) in finished:
        logger.info("%d of %d: %s, seed %d, fold %d", count, len(jobs), model.name, seed, fold)


def _configure(
    folder: Path, budget: str, *, seeds: int | None, device: str | None, collections: tuple[str, ...] = ()
) -> StudyConfig:
    """Return the configuration of the folder, or that of the budget, with the options given; save it."""
    from sgnet_nnunet.training.settings import emulates_bfloat16  # noqa: PLC0415 - PyTorch takes seconds

    if (folder / "config.json").exists():
        config = StudyConfig.load(folder)
    else:
        config = replace(BUDGETS[budget], collections=collections)
        config = replace(config, bfloat16=config.bfloat16 and not emulates_bfloat16())
    config = replace(config, seeds=seeds or config.seeds, device=device or config.device)
    config.save(folder)
    return config


def run_folder(folder: Path, run: str, seed: int) -> Path:
    """Return the folder of one network's results from one seed; made if needed."""
    target = folder / "runs" / f"seed{seed}" / run
    target.mkdir(parents=True, exist_ok=True)
    return target


def start_training(job: tuple[Path, Model, int, int]) -> None:
    """Train and score one network in a process of its own, which starts from its seed."""
    folder, model, seed, fold = job
    threads = {"OMP_NUM_THREADS": "1"} if StudyConfig.load(folder).device == "cpu" else {}
    with (run_folder(folder, model.run, seed) / f"log{fold}.txt").open("w", encoding="utf-8") as log:
        subprocess.run(  # noqa: S603
            [sys.executable, __file__, "train", str(folder), model.run, str(seed), str(fold)],
            env=threads | os.environ,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )


@app.command(hidden=True)
def train(folder: Path, run: str, seed: int, fold: int) -> None:
    """Train one network from one seed, predict the test patients of its fold and score them."""
    config = StudyConfig.load(folder)
    model = next(model for model in MODELS if model.run == run)
    os.environ |= nnunet_paths(folder) | {
        "nnUNet_results": str(run_folder(folder, run, seed)),
        "SGNET_EPOCHS": str(config.epochs),
        "SGNET_ITERS": str(config.iters),
        "SGNET_VAL_ITERS": str(config.val_iters),
        "SGNET_PATIENCE": "0",
    }
    if config.device == "cpu":
        os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - the cores are the network's
    # nnU-Net reads its paths when it is imported.
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: PLC0415

    from sgnet_nnunet.training.settings import Precision  # noqa: PLC0415

    np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loaders draw from it
    torch.manual_seed(seed)
    device = torch.device(config.device)
    trainer = get_trainer_from_args("501", "3d_fullres", fold, model.trainer, model.plans, device=device)
    if model.trainer == "nnUNetTrainer":
        _shorten(trainer, config)
    if not Path(trainer.output_folder, "checkpoint_final.pth").exists():
        # On a CPU instance norms, those of the other networks, return NaN in bfloat16.
        if config.device == "cpu" and config.bfloat16 and model.trainer.startswith("SGNet"):
            trainer.precision = Precision(bfloat16=True)
        trainer.run_training()
    rows = _test(folder, trainer.output_folder_base, run, seed, fold)
    if model.bypassed:
        rows += _test(folder, trainer.output_folder_base, run + BYPASSED, seed, fold)
    _append(folder, rows)


def _test(folder: Path, model: Path | str, run: str, seed: int, fold: int | None) -> list[dict[str, Any]]:
    """Return the scores of a trained model on the test patients of its fold, or of all for fold 0."""
    raw, folds = folder / "nnUNet_raw" / DATASET, folds_of(folder)
    part = "Ts" if (raw / "labelsTs").exists() else "Tr"
    cases = list(chain(*folds)) if fold is None else folds[fold]
    scores = score(
        Path(model),
        fold=fold or 0,
        images={case: sorted((raw / f"images{part}").glob(f"{case}_????.nii.gz")) for case in cases},
        labels=raw / f"labels{part}",
        predictions=run_folder(folder, run, seed) / "predictions",
        device=StudyConfig.load(folder).device,
        bypassed=run.endswith(BYPASSED),
    )
    return [{"run": run, "seed": seed, "fold": fold} | row for row in scores]


def _append(folder: Path, rows: list[dict[str, Any]]) -> None:
    with (folder / CASES).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


@app.command()
def external(
    folder: Annotated[Path, typer.Argument(help="The study's folder.")],
    model: Annotated[Path, typer.Argument(help="A trained model's folder, TRAINER__PLANS__CONFIGURATION.")],
    name: Annotated[str, typer.Option(help="Its name in the tables.")] = "SG-Net, trained on phantoms",
    seed: Annotated[int, typer.Option(help="Its seed.")] = 1,
) -> None:
    """Test fold 0 of a model that was trained elsewhere on all test patients."""
    folder = folder.resolve()
    _append(folder, _test(folder, model, name, seed, None))


def _shorten(trainer: Any, config: StudyConfig) -> None:  # noqa: ANN401
    """Give nnU-Net's own trainer as many patches as the others see."""
    patches = config.iters * config.batch_size
    trainer.num_epochs = config.epochs
    trainer.num_iterations_per_epoch = round(patches / trainer.configuration_manager.batch_size)
    trainer.num_val_iterations_per_epoch = config.val_iters


@app.command()
def speed(
    folder: Annotated[Path, typer.Argument(help="The study's folder.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each timing every network once.")] = 7,
) -> None:
    """Time a training step and a case of every network in turn, and write speed.json; on an idle machine.

    The steps are those of the trainers (forward, loss, backward, optimiser) on one random batch, the cases
    one dense pass. nnU-Net's default network is left out: its plan's patch is another.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = folder.resolve()
    config = StudyConfig.load(folder)
    os.environ |= nnunet_paths(folder) | {"nnUNet_results": str(folder / "speed")}
    import torch  # noqa: PLC0415
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: PLC0415

    from sgnet_nnunet.training.settings import keep_freed_memory  # noqa: PLC0415

    device = torch.device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    image = torch.rand(1, 2, *TIMED_CASE, device=device)
    trainers, functions = {}, {}
    for name, plans in {m.trainer: m.plans for m in MODELS if m.plans != DEFAULT_PLANS}.items():
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
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else config.device,
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
    folder: Annotated[Path, typer.Argument(help="The study's folder.")],
    results: Annotated[Path, typer.Argument(help="Output folder.")],
    name: Annotated[str, typer.Option(help="Name of the files.")] = "phantom_study",
) -> None:
    """Write each case (NAME_cases.jsonl), the budget and speeds (NAME.json) and the tables (NAME.md)."""
    folder = folder.resolve()
    results.mkdir(parents=True, exist_ok=True)
    config, rows = StudyConfig.load(folder), list(read_rows(folder))
    runs = list(dict.fromkeys([*NAMES, *(row["run"] for row in rows)]))
    rows.sort(key=lambda row: (runs.index(row["run"]), row["seed"], row["case"]))
    named = [{"name": NAMES.get(row["run"], row["run"])} | row for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in named)
    (results / f"{name}_cases.jsonl").write_text(text, encoding="utf-8")
    timed = folder / "speed.json"
    planned = {(m.run, seed, fold) for m, seed, fold in trainings(config, len(folds_of(folder)))}
    document = {
        "budget": asdict(config) | {"collections": [Path(path).name for path in config.collections]},
        "planned": len(planned),
        "done": len(planned & {(row["run"], row["seed"], row["fold"]) for row in rows}),
        "speed": json.loads(timed.read_text(encoding="utf-8")) if timed.exists() else None,
    }
    write_json(results / f"{name}.json", document)
    write_tables(results, name)


if __name__ == "__main__":
    app()
