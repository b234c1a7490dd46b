"""Where a training's time goes: SG-Net, the same without gates, and nnU-Net's default network and plan.

    python benchmarks/training.py benchmarks/results
    python benchmarks/training.py results_of_a_gpu -device cuda

Side by side in one run, on phantoms it makes itself: the parts of a step, the cost of each transform and
what a worker delivers, the two benchmark trainers, and preprocessing. Run it on an idle machine; on a CPU
nnU-Net's default network takes about as long as all the rest.
"""

import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from training_speed.data import environment_of, prepare

from sgnet_nnunet.files import write_text

logger = logging.getLogger("training")


def main(
    results: Annotated[Path, typer.Argument(help="Where `training.json` and `training.md` go.")],
    device: Annotated[str, typer.Option("-device", help="cpu, or cuda.")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the medians count, so at least 5.")] = 5,
    iters: Annotated[
        int | None, typer.Option(min=1, help="Batches in an epoch of the benchmark trainers; 3, cuda: 250.")
    ] = None,
    batches: Annotated[int, typer.Option(min=1, help="Batches of each round of augmentation.")] = 12,
    patients: Annotated[int, typer.Option(min=2, help="Phantoms.")] = 3,
    memory_gb: Annotated[float, typer.Option(help="nnU-Net's default plan's -gpu_memory_target.")] = 8,
    default: Annotated[
        bool, typer.Option(help="With the step of nnU-Net's default network: half of the time on a CPU.")
    ] = True,
    folder: Annotated[
        Path | None, typer.Option(help="Folder for the data, kept and used again; else a temporary one.")
    ] = None,
) -> None:
    """Measure and write the results."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    with tempfile.TemporaryDirectory() as temporary:
        root = (folder or Path(temporary)).resolve()
        root.mkdir(parents=True, exist_ok=True)
        prepare(root, patients=patients, memory_gb=memory_gb)
        logger.info("data made")
        os.environ |= environment_of(root) | {"nnUNet_n_proc_DA": "0"}
        # nnU-Net reads its paths when it is imported.
        import torch  # noqa: PLC0415
        from training_speed.augmentation import measure_augmentation  # noqa: PLC0415
        from training_speed.contestants import LOADERS, steppers  # noqa: PLC0415
        from training_speed.epochs import measure_epochs  # noqa: PLC0415
        from training_speed.machine import describe_machine  # noqa: PLC0415
        from training_speed.markdown import to_markdown  # noqa: PLC0415
        from training_speed.preprocessing import measure_preprocessing  # noqa: PLC0415
        from training_speed.steps import measure_steps  # noqa: PLC0415

        where = torch.device(device)
        if where.type == "cuda" and not torch.cuda.is_available():
            msg = "no CUDA device was found; leave it out to measure the CPU"
            raise typer.BadParameter(msg, param_hint="-device")
        document = {
            "command": " ".join(["python", "benchmarks/training.py", *sys.argv[1:]]),
            "rounds": rounds,
            "machine": describe_machine(where),
            "preprocessing": measure_preprocessing(root, rounds=rounds),
        }
        logger.info("preprocessing timed")
        document["augmentation"] = measure_augmentation(LOADERS, rounds=rounds, batches=batches)
        logger.info("augmentation timed")
        document["steps"] = measure_steps(
            steppers(where, default=default),
            where,
            rounds=rounds,
            on_round=lambda number: logger.info("steps: round %d", number),
        )
        document["epochs"] = measure_epochs(root, device, iters=iters or (250 if device == "cuda" else 3))
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / "training.json", json.dumps(document, indent=1) + "\n")
    write_text(results / "training.md", to_markdown(document))


if __name__ == "__main__":
    typer.run(main)
