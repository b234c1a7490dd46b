"""Where the time of a training goes: SG-Net, the same without gates, and nnU-Net's default network and plan.

    python benchmarks/training.py benchmarks/results
    python benchmarks/training.py RESULTS -device cuda

Three parts in one run, on phantoms: the phases of a training step, the transforms of one loading worker, and
preprocessing. Run it on an idle machine. On a CPU, nnU-Net's default network takes about as long as all the
rest; `--no-default` leaves it out.
"""

import json
import logging
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import typer
from timing import (
    describe_machine,
    in_turn,
    machine_line,
    markdown,
    median_of,
    now,
    peak_megabytes,
    reset_peak,
    seconds,
)

from sgnet_nnunet.dataset.convert import convert
from sgnet_nnunet.demo import nnunet_paths, run_command
from sgnet_nnunet.files import write_text
from sgnet_nnunet.phantom.population import write_phantoms

if TYPE_CHECKING:
    import torch

DATASET = "Dataset501_BrainMetsLung"
DEFAULT_PLANS = "nnUNetDefaultPlans"
PHASES = ("transfer", "forward", "loss", "backward", "optimiser")
"""In the order of a training step; the backward pass includes clipping the gradients."""

SPACING = (1.25, 0.9, 0.9)
"""z, y, x in mm, assigned to a case of 1 mm, so that preprocessing resamples every axis."""

PLANS = {"SGNetPlanner": "nnUNetPlans", "nnU-Net's ExperimentPlanner": DEFAULT_PLANS}

logger = logging.getLogger("benchmark")


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training that is compared."""

    name: str  # name in the tables
    trainer: str  # nnU-Net's `-tr`
    plans: str = "nnUNetPlans"  # nnU-Net's `-p`
    bfloat16: bool = False  # whether it trains in bfloat16 (CPU only)
    # largest number of patches computed on a CPU; the times are scaled to the batch
    cpu_patches: int | None = None


SG_NET = Training(name="SG-Net", trainer="SGNetTrainer")
BFLOAT16 = Training(name="SG-Net, bfloat16", trainer="SGNetTrainer", bfloat16=True)
NO_GATE = Training(name="SG-Net, no gate", trainer="SGNetNoGateTrainer")
DEFAULT = Training(name="nnU-Net's default", trainer="nnUNetTrainer", plans=DEFAULT_PLANS, cpu_patches=1)


def prepare(folder: Path, *, patients: int, memory_gb: float) -> None:
    """Make phantoms at 1 mm, planned by our planner and by nnU-Net's, unless the folder has them.

    There are at least 2 patients of about 100 MB; the last one is for validation. `memory_gb` is
    `-gpu_memory_target` of nnU-Net's own plan.

    Raises:
        SGNetError: If a command fails.
    """
    if (folder / "data.done").exists():
        return
    workers = os.cpu_count() or 1
    environment = nnunet_paths(folder)
    write_phantoms(folder / "phantoms", patients=patients, seed=1, workers=workers)
    converted = convert(folder / "phantoms", folder / "nnUNet_raw", workers=workers).dataset_folder
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (converted / "labelsTr").iterdir())
    write_text(converted / "splits_final.json", json.dumps([{"train": cases[:-1], "val": cases[-1:]}]))
    command = ("nnUNetv2_plan_and_preprocess", "-d", "501", "-c", "3d_fullres")
    processes = ("-npfp", str(workers), "-np", str(workers))
    default = ("-overwrite_plans_name", DEFAULT_PLANS, "-gpu_memory_target", str(memory_gb))
    for planner, more in (("SGNetPlanner", ()), ("ExperimentPlanner", default)):
        arguments = (*command, *processes, "-pl", planner, *more)
        run_command(arguments, environment=environment, log=folder / f"{planner}.log")
    (folder / "data.done").touch()


def make_trainer(training: Training, device: "torch.device") -> Any:  # noqa: ANN401 - nnU-Net has no types
    """Return an initialised trainer, ready for a step."""
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: PLC0415 - after the paths are set

    from sgnet_nnunet.training.settings import Precision  # noqa: PLC0415

    trainer = get_trainer_from_args(DATASET, "3d_fullres", 0, training.trainer, training.plans, device=device)
    if training.bfloat16:
        trainer.precision = Precision(bfloat16=True)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.network.train()
    return trainer


def make_loader(trainer: Any, *, stock: bool = False) -> Any:  # noqa: ANN401
    """Return an initialised trainer's loader of augmented training batches, or nnU-Net's for it (`stock`).

    The process has to have `nnUNet_n_proc_DA=0`.
    """
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer  # noqa: PLC0415

    if not stock:
        return trainer.get_dataloaders()[0].data_loader
    trainer.get_training_transforms = nnUNetTrainer.get_training_transforms
    try:
        return nnUNetTrainer.get_dataloaders(trainer)[0].data_loader
    finally:
        del trainer.get_training_transforms


class StepClock:
    """Times the phases of a training's steps with hooks on its network, loss and optimiser."""

    def __init__(self, training: Training, device: "torch.device") -> None:
        self.training = training
        self.trainer = make_trainer(training, device)
        batch = make_loader(self.trainer).generate_train_batch()
        planned = len(batch["data"])
        limit = training.cpu_patches if device.type == "cpu" else None
        self.patches = min(planned, limit or planned)
        self.scale = planned / self.patches
        self.batch = {key: _first(batch[key], self.patches) for key in ("data", "target")}
        self._marks: list[float] = []
        self.trainer.network.register_forward_pre_hook(self._mark)
        self.trainer.network.register_forward_hook(self._mark)
        self.trainer.loss.register_forward_hook(self._mark)
        self.trainer.optimizer.register_step_pre_hook(self._mark)

    def _mark(self, *_: object) -> None:
        self._marks.append(now(self.trainer.device))

    def step(self) -> dict[str, float]:
        """Train on the batch once; return the seconds of each phase and of the `step`, and `peak_mb`."""
        reset_peak(self.trainer.device)
        self._marks = []
        self._mark()
        self.trainer.train_step(self.batch)
        self._mark()
        lengths = np.diff(self._marks) * self.scale
        return {
            **dict(zip(PHASES, lengths.tolist(), strict=True)),
            "step": float(lengths.sum()),
            "peak_mb": peak_megabytes(self.trainer.device),
        }


def _first(value: Any, patches: int) -> Any:  # noqa: ANN401
    return [part[:patches] for part in value] if isinstance(value, list) else value[:patches]


def measure_steps(
    trainings: tuple[Training, ...], device: "torch.device", *, rounds: int
) -> list[dict[str, Any]]:
    """Time a step of every training in turn, after a warm-up; medians in seconds per planned batch."""
    clocks = [StepClock(training, device) for training in trainings]
    found = in_turn({clock.training.name: clock.step for clock in clocks}, rounds + 1)
    return [
        {
            "name": clock.training.name,
            "parameters": sum(p.numel() for p in clock.trainer.network.parameters()),
            "patch_size": [int(n) for n in clock.trainer.configuration_manager.patch_size],
            "batch_size": int(clock.trainer.batch_size),
            "patches_computed": clock.patches,
            "seconds": median_of(found[clock.training.name][1:]),
        }
        for clock in clocks
    ]


class LoaderClock:
    """Times the batches of one of nnU-Net's loaders, and each of its transforms, which it wraps in place."""

    def __init__(self, loader: Any) -> None:  # noqa: ANN401
        self.loader = loader
        self.spent: defaultdict[str, float] = defaultdict(float)
        for transform in loader.transforms.transforms:
            name = type(getattr(transform, "transform", transform)).__name__
            # Not `__call__`, which Python looks up in the class.
            for part in ("look_ahead", "get_parameters", "apply"):
                if hasattr(transform, part):
                    setattr(transform, part, self._timed(name, getattr(transform, part)))

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            start = perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.spent[name] += perf_counter() - start

        return timed

    def measure(self, batches: int) -> dict[str, float]:
        """Return milliseconds per patch: `total`, `loading` and each transform."""
        self.spent.clear()
        start = perf_counter()
        for _ in range(batches):
            self.loader.generate_train_batch()
        total = perf_counter() - start
        scale = 1000 / (batches * self.loader.batch_size)
        transforms = {name: value * scale for name, value in self.spent.items()}
        loading = (total - sum(self.spent.values())) * scale
        return {"total": total * scale, "loading": loading, **transforms}


def measure_augmentation(*, rounds: int, batches: int) -> list[dict[str, Any]]:
    """Time one loading worker with one thread: SG-Net, the same with nnU-Net's loading, nnU-Net's default."""
    import torch  # noqa: PLC0415

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    ours, default = (make_trainer(training, cpu) for training in (SG_NET, DEFAULT))
    clocks = {
        SG_NET.name: LoaderClock(make_loader(ours)),
        f"{SG_NET.name}, nnU-Net's loading": LoaderClock(make_loader(ours, stock=True)),
        DEFAULT.name: LoaderClock(make_loader(default)),
    }
    found = in_turn({name: partial(clock.measure, batches) for name, clock in clocks.items()}, rounds + 1)
    torch.set_num_threads(threads)
    return [
        {
            "name": name,
            "batch_size": int(clock.loader.batch_size),
            "milliseconds": median_of(found[name][1:]),
        }
        for name, clock in clocks.items()
    ]


def measure_preprocessing(folder: Path, *, rounds: int) -> dict[str, Any]:
    """Time the preprocessing of one case in memory under both plans; median seconds."""
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient  # noqa: PLC0415
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415

    raw = folder / "nnUNet_raw" / DATASET
    description = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    label = min((raw / "labelsTr").glob("*.nii.gz"))
    case = label.name.removesuffix(".nii.gz")
    images = sorted(str(path) for path in (raw / "imagesTr").glob(f"{case}_*.nii.gz"))
    data, _ = NibabelIOWithReorient().read_images(images)
    segmentation, _ = NibabelIOWithReorient().read_seg(str(label))

    def measure(plans_name: str) -> float:
        plans = PlansManager(str(folder / "nnUNet_preprocessed" / DATASET / f"{plans_name}.json"))
        configuration = plans.get_configuration("3d_fullres")
        run = configuration.preprocessor_class(verbose=False).run_case_npy
        properties = {"spacing": list(SPACING)}
        return seconds(partial(run, data, segmentation, properties, plans, configuration, description))

    found = in_turn({planner: partial(measure, name) for planner, name in PLANS.items()}, rounds)
    return {
        "shape": [int(n) for n in data.shape],
        "seconds": {planner: statistics.median(times) for planner, times in found.items()},
    }


def to_markdown(results: Mapping[str, Any]) -> str:
    """Return the machine, the command and the tables as Markdown."""
    rounds, cores = results["rounds"], results["machine"]["cores"]
    preprocessing = results["preprocessing"]
    shape, spacing = (" x ".join(map(str, lengths)) for lengths in (preprocessing["shape"], SPACING))
    planners = pd.DataFrame(preprocessing["seconds"].items(), columns=["planner", "seconds"])
    sections = {
        f"A training step in seconds per planned batch, medians of {rounds} rounds:": (
            _steps_table(results["steps"])
        ),
        f"One patch by one loading worker with one thread in ms, medians of {rounds} rounds. The last row "
        f"is the shortest step that {cores} workers on {cores} cores can feed:": (
            _augmentation_table(results["augmentation"], cores)
        ),
        f"Preprocessing one case of {shape} voxels (channel, z, y, x) from {spacing} mm to 1 mm:": (
            planners.round(2)
        ),
    }
    tables = [f"{title}\n\n{markdown(table)}" for title, table in sections.items()]
    blocks = ["# Speed of training", machine_line(results["machine"]), f"`{results['command']}`", *tables]
    return "\n\n".join(blocks) + "\n"


def _steps_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    times = pd.DataFrame(frame["seconds"].tolist())
    table = frame[["name"]].rename(columns={"name": "network"})
    table["parameters"] = frame["parameters"].map("{:,}".format)
    patch = frame["patch_size"].map(lambda size: " x ".join(map(str, size)))
    table["batch"] = frame["batch_size"].astype(str) + " of " + patch
    table["patches computed"] = frame["patches_computed"]
    for phase in (*PHASES, "step"):
        table[phase] = times[phase].map("{:.3f}".format)
    table["peak MB"] = times["peak_mb"].map("{:.0f}".format)
    return table


def _augmentation_table(rows: list[dict[str, Any]], cores: int) -> pd.DataFrame:
    table = pd.DataFrame({row["name"]: row["milliseconds"] for row in rows}).fillna(0.0)
    table = table.sort_values(table.columns[0], ascending=False)
    table.loc["shortest step"] = [row["milliseconds"]["total"] * row["batch_size"] / cores for row in rows]
    return table.map("{:.2f}".format).rename_axis("").reset_index()


def main(
    results: Annotated[Path, typer.Argument(help="Where `training.json` and `training.md` go.")],
    device: Annotated[str, typer.Option("-device", help="cpu, or cuda.")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians count.")] = 5,
    batches: Annotated[int, typer.Option(min=1, help="Batches of each round of augmentation.")] = 12,
    patients: Annotated[int, typer.Option(min=2, help="Phantoms.")] = 3,
    memory_gb: Annotated[float, typer.Option(help="nnU-Net's default plan's -gpu_memory_target.")] = 8,
    default: Annotated[bool, typer.Option(help="Time the step of nnU-Net's default network.")] = True,
    folder: Annotated[Path | None, typer.Option(help="Work folder, kept; else a temporary one.")] = None,
) -> None:
    """Measure and write the results."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory() as temporary:
        root = (folder or Path(temporary)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        prepare(root, patients=patients, memory_gb=memory_gb)
        # nnU-Net reads its paths when it is imported.
        os.environ |= nnunet_paths(root) | {"nnUNet_n_proc_DA": "0"}
        import torch  # noqa: PLC0415

        where = torch.device(device)
        if where.type == "cuda" and not torch.cuda.is_available():
            raise typer.BadParameter("no CUDA device found; use -device cpu", param_hint="-device")
        trainings = (SG_NET, *((BFLOAT16,) if where.type == "cpu" else ()), NO_GATE)
        document = {
            "command": " ".join(["python", "benchmarks/training.py", *sys.argv[1:]]),
            "rounds": rounds,
            "machine": describe_machine(where),
            "preprocessing": measure_preprocessing(root, rounds=rounds),
            "augmentation": measure_augmentation(rounds=rounds, batches=batches),
            "steps": measure_steps((*trainings, *((DEFAULT,) if default else ())), where, rounds=rounds),
        }
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / "training.json", json.dumps(document, indent=1) + "\n")
    write_text(results / "training.md", to_markdown(document))
    typer.echo(to_markdown(document))


if __name__ == "__main__":
    typer.run(main)
