"""Speed of a training step on a CPU with the memory that its tensors free kept, and returned to the system.

    python benchmarks/kept_memory.py

Steps of SG-Net on a random batch, in fresh processes in turn. Run it on an idle machine.
"""

import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Annotated

import torch
import typer
from timing import in_turn, peak_megabytes
from torch.nn.functional import binary_cross_entropy_with_logits

from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.training.settings import keep_freed_memory


def time_steps(*, keep: bool, batch: tuple[int, ...], steps: int) -> tuple[float, float]:
    """Return the median seconds of steps after a first one, and the process's peak memory in MB.

    The process keeps, from now on, the memory that its tensors free, if it is told so. A batch has the shape
    (patches, channels, z, y, x).

    Raises:
        RuntimeError: If it is to keep its memory and the C library is not glibc.
    """
    if keep and not keep_freed_memory():
        raise RuntimeError("memory can be kept with glibc only; this is another C library")
    network = SGNet(batch[1], 2)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    images, target = torch.rand(batch), torch.zeros(batch[0], 2, *batch[2:])
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        optimiser.zero_grad()
        binary_cross_entropy_with_logits(network(images), target).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), peak_megabytes()


def _in_fresh_process(*, keep: bool, batch: tuple[int, ...], steps: int) -> tuple[float, float]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(time_steps, keep=keep, batch=batch, steps=steps).result()


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each with both kinds of process.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Steps timed in each process.")] = 5,
    shape: Annotated[str, typer.Option(help="Batch: patches,channels,z,y,x.")] = "4,2,32,96,96",
) -> None:
    """Print the seconds of a step and the peak memory of both kinds, and the ratio."""
    run = partial(_in_fresh_process, batch=tuple(map(int, shape.split(","))), steps=steps)
    found = in_turn({"returned": partial(run, keep=False), "kept": partial(run, keep=True)}, rounds)
    medians = {name: statistics.median(seconds for seconds, _ in rows) for name, rows in found.items()}
    for name, rows in found.items():
        peak = max(megabytes for _, megabytes in rows)
        typer.echo(f"memory {name}: {medians[name]:.2f} s a step, peak {peak:.0f} MB")
    typer.echo(f"ratio: {medians['returned'] / medians['kept']:.2f}")


if __name__ == "__main__":
    typer.run(main)
