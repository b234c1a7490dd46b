"""The phantom study: train every network on the same phantoms and compare them.

    python benchmarks/phantom_study.py run study_output --budget cpu
    python benchmarks/phantom_study.py report study_output benchmarks/results

`run` can be stopped and started again: what is done is kept.
"""

import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import SimpleITK as sitk  # noqa: N813
import typer
from study_results import SCORES, collect, run_folder, score_run, write_tables
from timing import in_turn, seconds

from sgnet_nnunet.dataset.convert import convert
from sgnet_nnunet.demo import run_command
from sgnet_nnunet.parallel import run_jobs
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.population import write_phantoms

if TYPE_CHECKING:
    from torch import Tensor

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
logger = logging.getLogger("phantom_study")

DATASET = "Dataset501_BrainMetsLung"
SG_NET_PLANS, TVERSKY_PLANS = "nnUNetPlans", "nnUNetTverskyPlans"
NOTEBOOK_PLANS, DEFAULT_PLANS = "nnUNetNotebookPlans", "nnUNetDefaultPlans"
BYPASSED = "-bypassed"
"""Suffix of the run folders of networks that are tested with their gates bypassed."""

FALSE_POSITIVE_WEIGHT = 0.7
"""That of `TVERSKY_PLANS`; Dice corresponds to 0.5."""

TRAINING_SEED, TEST_SEED = 1, 3
POPULATION = PhantomConfig(
    extra_lesions_median=5, extra_lesions_sigma=0.4, diameter_median=9, diameter_sigma=0.5
)
"""About six lesions per patient, as small as the default's.

With the larger lesions of `sgnet demo` the ungated network of a first trial had less than one false positive
per case, too few to tell networks apart.
"""

VAL_ITERS = 4
TIMED_PATCH, TIMED_BATCH = (32, 96, 96), 4
"""The plan's own patch (z, y, x) and batch, whatever the budget of the study."""

TIMED_CASE = (96, 128, 128)
"""About the size of a brain, in one window, so that no network gains from larger patches."""

UNGATED = "SGNetNoGateTrainer"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network of the study.

    Attributes:
        name: Name in the tables.
        trainer: nnU-Net's `-tr`.
        plans: nnU-Net's `-p`.
        seeds: Largest number of seeds; None for the study's.
        bypassed: Whether another model's weights are tested with their gates bypassed.
        bfloat16: Whether it can train in bfloat16 on a CPU, where instance norms return NaN.
    """

    name: str
    trainer: str
    plans: str = SG_NET_PLANS
    seeds: int | None = None
    bypassed: bool = False
    bfloat16: bool = True

    @property
    def training(self) -> str:
        """Name of the run folder of the training that the weights come from."""
        return f"{self.trainer}__{self.plans}"

    @property
    def run(self) -> str:
        """Name of the run folder of the predictions and scores."""
        return self.training + (BYPASSED if self.bypassed else "")


MODELS = (
    Model(name="SG-Net, hard spatial gates", trainer="SGNetTrainer"),
    Model(name="the same weights, gates bypassed", trainer="SGNetTrainer", bypassed=True),
    Model(name="SG-Net, no gate", trainer=UNGATED),
    Model(name="SG-Net, skip gate", trainer="SGNetSkipGateTrainer"),
    Model(name="SG-Net, soft gate", trainer="SGNetSoftGateTrainer"),
    Model(name="SG-Net, deep supervision", trainer="SGNetDeepSupervisionTrainer"),
    Model(name="baseline U-Net", trainer="BaselineUNetTrainer", bfloat16=False),
    Model(name="baseline ResU-Net", trainer="BaselineResUNetTrainer", bfloat16=False),
    Model(name="baseline Attention U-Net", trainer="BaselineAttentionUNetTrainer", bfloat16=False),
    Model(name="SG-Net, notebook's training", trainer="SGNetNotebookTrainer", plans=NOTEBOOK_PLANS, seeds=1),
    Model(name="nnU-Net's default", trainer="nnUNetTrainer", plans=DEFAULT_PLANS, seeds=1, bfloat16=False),
    Model(name="SG-Net, hard spatial gates, Tversky", trainer="SGNetTrainer", plans=TVERSKY_PLANS),
    Model(
        name="those weights, gates bypassed, Tversky",
        trainer="SGNetTrainer",
        plans=TVERSKY_PLANS,
        bypassed=True,
    ),
    Model(name="SG-Net, no gate, Tversky", trainer=UNGATED, plans=TVERSKY_PLANS),
)


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The budget.

    Attributes:
        training: Patients to train on.
        validation: Patients of nnU-Net's validation fold.
        test: Held-out patients.
        shrink: Voxels of the phantoms averaged into one along each axis; 2 gives a grid of 2 mm.
        patch_size: z, y, x in voxels.
        batch_size: Patches in a batch.
        epochs: Epochs of a training.
        iters: Batches in an epoch.
        seeds: Trainings of each network.
        device: nnU-Net's `-device`.
        bfloat16: Whether a CPU trains in bfloat16; predictions stay in float32. A GPU trains in nnU-Net's
            half precision.
        default_memory_gb: `-gpu_memory_target` of nnU-Net's own plan.
    """

    training: int = 24
    validation: int = 2
    test: int = 16
    shrink: int = 1
    patch_size: tuple[int, int, int] = (32, 96, 96)
    batch_size: int = 4
    epochs: int = 100
    iters: int = 250
    seeds: int = 3
    device: str = "cuda"
    bfloat16: bool = False
    default_memory_gb: float = 8.0

    def save(self, folder: Path) -> None:
        """Write `config.json` into the study's folder."""
        text = json.dumps(asdict(self), indent=2) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "StudyConfig":
        """Read `config.json` of a study's folder."""
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(**values | {"patch_size": tuple(values["patch_size"])})


_CPU = StudyConfig(batch_size=2, epochs=25, iters=40, device="cpu", bfloat16=True, default_memory_gb=1.0)
_SMOKE = replace(
    _CPU, training=2, validation=1, test=2, shrink=3, patch_size=(16, 32, 32), epochs=2, iters=2, seeds=2,
    bfloat16=False, default_memory_gb=0.25,
)  # fmt: skip
BUDGETS = {
    "gpu": StudyConfig(),
    "gpu-short": StudyConfig(epochs=25, iters=60, bfloat16=True, default_memory_gb=1.0),
    "cpu": replace(_CPU, shrink=2, patch_size=(32, 48, 48), default_memory_gb=0.25),
    "cpu-1mm": _CPU,
    "smoke": _SMOKE,
}
"""`gpu` has the plan's own grid, patch and batch, `gpu-short` the same for minutes; `cpu` fits two cores;
`cpu-1mm` has the plan's grid and patch, for a few networks at a time; `smoke` tests the study. Except for
`gpu`, nnU-Net's default has a plan whose patch is about as large as the others' (56 x 80 x 64 at 1 mm)."""


def prepare(folder: Path, config: StudyConfig) -> None:
    """Make, convert, plan and preprocess the phantoms, unless the folder has them.

    Raises:
        SGNetError: If a stage fails.
    """
    if (folder / "data.done").exists():
        return
    workers = os.cpu_count() or 1
    raw = folder / "nnUNet_raw" / DATASET
    for part, patients, seed in (
        ("Tr", config.training + config.validation, TRAINING_SEED),
        ("Ts", config.test, TEST_SEED),
    ):
        collection = folder / f"phantoms{part}"
        write_phantoms(collection, patients=patients, seed=seed, workers=workers, config=POPULATION)
        converted = convert(collection, folder / f"converted{part}", workers=workers).dataset_folder
        _shrink(converted, raw, part, config.shrink)
    shutil.copy(folder / "convertedTr" / DATASET / "dataset.json", raw)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").glob("*.nii.gz"))
    split = {"train": cases[: config.training], "val": cases[config.training :]}
    (raw / "splits_final.json").write_text(json.dumps([split]), encoding="utf-8")
    _plan(folder, config, workers)
    (folder / "data.done").touch()


def _shrink(source: Path, target: Path, part: str, factor: int) -> None:
    """Copy images and labels, averaged onto a grid coarser by `factor`; labels by majority."""
    for kind in ("images", "labels"):
        out = target / f"{kind}{part}"
        out.mkdir(parents=True, exist_ok=True)
        for path in sorted((source / f"{kind}Tr").glob("*.nii.gz")):
            if factor == 1:
                shutil.copy(path, out)
                continue
            image = sitk.BinShrink(sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32), [factor] * 3)
            if kind == "labels":
                image = sitk.Cast(image >= 0.5, sitk.sitkUInt8)  # noqa: PLR2004
            sitk.WriteImage(image, str(out / path.name))


def _plan(folder: Path, config: StudyConfig, workers: int) -> None:
    spacing = ("-overwrite_target_spacing", *[str(float(config.shrink))] * 3)
    processes = ("-npfp", str(workers), "-np", str(workers))
    for name, planner, options in (
        (SG_NET_PLANS, "SGNetPlanner", spacing),
        (NOTEBOOK_PLANS, "SGNetNotebookPlanner", spacing),
        (DEFAULT_PLANS, "ExperimentPlanner", ("-gpu_memory_target", str(config.default_memory_gb))),
    ):
        command = ("nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "3d_fullres", *processes)
        run_command(
            (*command, "-pl", planner, "-overwrite_plans_name", name, *options),
            environment=nnunet_paths(folder),
            log=folder / f"{name}.log",
        )
    preprocessed = folder / "nnUNet_preprocessed" / DATASET
    patches = {"patch_size": list(config.patch_size), "batch_size": config.batch_size}
    _derive(preprocessed, SG_NET_PLANS, SG_NET_PLANS, patches)
    _derive(preprocessed, NOTEBOOK_PLANS, NOTEBOOK_PLANS, patches)
    _derive(preprocessed, SG_NET_PLANS, TVERSKY_PLANS, {"false_positive_weight": FALSE_POSITIVE_WEIGHT})


def _derive(preprocessed: Path, source: str, name: str, changes: dict[str, object]) -> None:
    """Write a plan for the same preprocessed data that differs from another one by `changes`."""
    plans = json.loads((preprocessed / f"{source}.json").read_text(encoding="utf-8"))
    plans["plans_name"] = name
    plans["configurations"]["3d_fullres"] |= changes
    (preprocessed / f"{name}.json").write_text(json.dumps(plans, indent=2), encoding="utf-8")


def nnunet_paths(folder: Path) -> dict[str, str]:
    """Return nnU-Net's three path variables below the study's folder, and create the folders."""
    paths = {name: folder / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    for path in paths.values():
        path.mkdir(parents=True, exist_ok=True)
    return {name: str(path) for name, path in paths.items()}


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="Work folder of the study; about 2 GB.")],
    budget: Annotated[str, typer.Option(help=f"One of {', '.join(BUDGETS)}.")] = "cpu",
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds; the budget's by default.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Networks to train, such as SGNetTrainer__nnUNetPlans.")
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
    config = _configure(folder, budget, seeds=seeds, device=device)
    prepare(folder, config)
    # Gates are bypassed in networks that have been trained.
    for bypassed in (False, True):
        jobs = [
            (folder, model, seed)
            for seed in range(config.seeds)
            for model in MODELS
            if model.bypassed == bypassed
            and model.run in (only or [model.run])
            and seed < (model.seeds or config.seeds)
            and not (run_folder(folder, model.run, seed) / SCORES).exists()
        ]
        for done, ((_, model, seed), _) in enumerate(
            run_jobs(start_training, jobs, workers=workers), start=1
        ):
            logger.info("%d of %d: %s, seed %d", done, len(jobs), model.name, seed)


def _configure(folder: Path, budget: str, *, seeds: int | None, device: str | None) -> StudyConfig:
    """Return the configuration of the folder, or that of the budget, with the options given; save it."""
    from sgnet_nnunet.training.settings import emulates_bfloat16  # noqa: PLC0415 - PyTorch takes seconds

    if (folder / "config.json").exists():
        config = StudyConfig.load(folder)
    else:
        config = BUDGETS[budget]
        config = replace(config, bfloat16=config.bfloat16 and not emulates_bfloat16())
    config = replace(config, seeds=seeds or config.seeds, device=device or config.device)
    config.save(folder)
    return config


def start_training(job: tuple[Path, Model, int]) -> None:
    """Train and score one network in a process of its own, which starts from its seed."""
    folder, model, seed = job
    target = run_folder(folder, model.run, seed)
    target.mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": "1"} if StudyConfig.load(folder).device == "cpu" else {}
    with (target / "log.txt").open("w", encoding="utf-8") as log:
        subprocess.run(  # noqa: S603
            [sys.executable, __file__, "train", str(folder), model.run, str(seed)],
            env=os.environ | threads,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )


@app.command(hidden=True)
def train(folder: Path, run: str, seed: int) -> None:
    """Train one network from one seed, predict the test patients and score them.

    A run with bypassed gates takes the weights of the training it belongs to.
    """
    config = StudyConfig.load(folder)
    model = next(model for model in MODELS if model.run == run)
    target = run_folder(folder, run, seed)
    target.mkdir(parents=True, exist_ok=True)
    os.environ |= nnunet_paths(folder) | {
        "nnUNet_results": str(run_folder(folder, model.training, seed)),
        "SGNET_EPOCHS": str(config.epochs),
        "SGNET_ITERS": str(config.iters),
        "SGNET_VAL_ITERS": str(VAL_ITERS),
        "SGNET_PATIENCE": "0",
    }
    if config.device == "cpu":
        os.environ["nnUNet_n_proc_DA"] = "0"  # noqa: SIM112 - the cores are the network's
    # nnU-Net reads its paths when it is imported.
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: PLC0415

    from sgnet_nnunet.inference.nnunet_adapter import TiledEngine  # noqa: PLC0415
    from sgnet_nnunet.inference.trained_model import load_trained_model  # noqa: PLC0415
    from sgnet_nnunet.training.settings import Precision  # noqa: PLC0415

    np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loaders draw from it
    torch.manual_seed(seed)
    device = torch.device(config.device)
    trainer = get_trainer_from_args("501", "3d_fullres", 0, model.trainer, model.plans, device=device)
    if model.trainer == "nnUNetTrainer":
        _shorten(trainer, config)
    checkpoint = Path(trainer.output_folder, "checkpoint_final.pth")
    if checkpoint.exists() or model.bypassed:
        trainer.load_checkpoint(str(checkpoint))
    else:
        if config.device == "cpu" and config.bfloat16 and model.bfloat16:
            trainer.precision = Precision(bfloat16=True)
        trainer.run_training()
    trained = load_trained_model(Path(trainer.output_folder_base), folds=("0",))
    predictor = TiledEngine(trained, device=device, step_size=0.75).predictor
    if model.bypassed:
        for name, value in predictor.list_of_parameters[0].items():
            if name.endswith("bypassed"):
                value.fill_(True)
    raw, predictions = folder / "nnUNet_raw" / DATASET, target / "predictions"
    predictions.mkdir(exist_ok=True)
    predictor.predict_from_files_sequential(str(raw / "imagesTs"), str(predictions))
    score_run(trainer, raw, predictions, target / SCORES, gates=not model.bypassed)


def _shorten(trainer: Any, config: StudyConfig) -> None:  # noqa: ANN401
    """Give nnU-Net's own trainer as many patches as the others see."""
    patches = config.iters * config.batch_size
    trainer.num_epochs = config.epochs
    trainer.num_iterations_per_epoch = round(patches / trainer.configuration_manager.batch_size)
    trainer.num_val_iterations_per_epoch = VAL_ITERS


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
            "step_s": statistics.median(found[f"{name} step"]),
            "case_s": statistics.median(found[f"{name} case"]),
            "step_relative": _ratio(found[f"{name} step"], found[f"{UNGATED} step"]),
            "case_relative": _ratio(found[f"{name} case"], found[f"{UNGATED} case"]),
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


def _ratio(times: list[float], reference: list[float]) -> float:
    """Return the median of the ratios within each round."""
    return statistics.median(mine / theirs for mine, theirs in zip(times, reference, strict=True))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The study's folder.")],
    results: Annotated[Path, typer.Argument(help="Output folder.")],
    name: Annotated[str, typer.Option(help="Name of the files.")] = "phantom_study",
) -> None:
    """Write each case (NAME_cases.jsonl), the budget and speeds (NAME.json) and the tables (NAME.md)."""
    folder = folder.resolve()
    results.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps(row, allow_nan=False) for row in collect(folder, {m.run: m.name for m in MODELS})]
    (results / f"{name}_cases.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    timed = folder / "speed.json"
    document = {
        "budget": asdict(StudyConfig.load(folder)),
        "speed": json.loads(timed.read_text(encoding="utf-8")) if timed.exists() else None,
    }
    (results / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    write_tables(results, name)


@app.command()
def tables(
    results: Annotated[Path, typer.Argument(help="Folder with the results.")],
    name: Annotated[str, typer.Option(help="Name of the files.")] = "phantom_study",
) -> None:
    """Write the tables of committed results again, from NAME_cases.jsonl and NAME.json."""
    write_tables(results, name)


if __name__ == "__main__":
    app()
