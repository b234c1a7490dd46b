"""The phantom study: train every network on the same phantoms and compare them.

    python benchmarks/phantom_study.py run study_output --budget cpu
    python benchmarks/phantom_study.py report study_output benchmarks/results

`run` can be stopped and started again: what is done is kept.
"""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from study.config import BUDGETS, MODELS, Model, StudyConfig, for_this_cpu, overridden
from study.data import DATASET, nnunet_paths, prepare
from study.markdown import to_markdown
from study.speed import measure_speed
from study.summary import case_rows, summarise
from study.train import SCORES, run_folder

from sgnet_nnunet.parallel import run_jobs

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
logger = logging.getLogger("phantom_study")

Job = tuple[Path, Model, int]


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="Where the study works; about 2 GB.")],
    budget: Annotated[str, typer.Option(help=f"One of {', '.join(BUDGETS)}.")] = "cpu",
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds; the budget's by default.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Networks to train, such as SGNetTrainer__nnUNetPlans.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("-device", help="cpu or cuda; the budget's by default.")
    ] = None,
    workers: Annotated[int, typer.Option("-np", min=1, help="Trainings side by side.")] = 1,
) -> None:
    """Make the data, then train and score whatever is missing, seed by seed."""
    if unknown := set(only or ()) - {model.run for model in MODELS}:
        raise typer.BadParameter(f"no such network: {', '.join(unknown)}", param_hint="--only")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    config = StudyConfig.load(path) if path.exists() else for_this_cpu(BUDGETS[budget])
    config = overridden(config, seeds=seeds, device=device)
    config.save(path)
    prepare(folder, config)
    # Gates are held open once their trainings are there.
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
        for done, ((_, model, seed), _) in enumerate(run_jobs(train, jobs, workers=workers), start=1):
            logger.info("%d of %d: %s, seed %d", done, len(jobs), model.name, seed)


def train(job: Job) -> None:
    """Train and score one network in a process of its own."""
    folder, model, seed = job
    target = run_folder(folder, model.run, seed)
    target.mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": "1"} if StudyConfig.load(folder / "config.json").device == "cpu" else {}
    with (target / "log.txt").open("w", encoding="utf-8") as log:
        subprocess.run(  # noqa: S603
            [sys.executable, "-m", "study.train", str(folder), model.run, str(seed)],
            cwd=Path(__file__).parent,
            env=os.environ | threads,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
        )


@app.command()
def speed(
    folder: Annotated[Path, typer.Argument(help="The study's folder.")],
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each timing every network once.")] = 7,
) -> None:
    """Time a training step and a case of every network, side by side; run it on an idle machine."""
    measure_speed(folder.resolve(), StudyConfig.load(folder / "config.json"), rounds=rounds)


@app.command()
def thresholds(folder: Annotated[Path, typer.Argument(help="The study's folder.")]) -> None:
    """Ask what the gates of every trained `SGNetTrainer` would admit at other thresholds."""
    folder = folder.resolve()
    os.environ |= nnunet_paths(folder)
    # nnU-Net reads its paths when it is imported.
    from study.thresholds import measure_thresholds  # noqa: PLC0415

    runs = sorted(folder.glob(f"runs/seed*/{MODELS[0].run}/{DATASET}/SGNetTrainer__*"))
    raw = folder / "nnUNet_raw" / DATASET
    rows = {run.parts[-4]: measure_thresholds(run, raw) for run in runs}
    (folder / "thresholds.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The study's folder.")],
    results: Annotated[Path, typer.Argument(help="Where the tables go.")],
    name: Annotated[str, typer.Option(help="Name of the files.")] = "phantom_study",
) -> None:
    """Write the summary (NAME.json), its tables (NAME.md) and each case (NAME_cases.jsonl)."""
    config = StudyConfig.load(folder / "config.json")
    summary = summarise(folder.resolve(), config)
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (results / f"{name}.md").write_text(to_markdown(summary), encoding="utf-8")
    rows = (json.dumps(row, allow_nan=False) + "\n" for row in case_rows(folder.resolve(), config))
    (results / f"{name}_cases.jsonl").write_text("".join(rows), encoding="utf-8")


if __name__ == "__main__":
    app()
