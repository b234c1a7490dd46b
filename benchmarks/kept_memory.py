"""What a training on the CPU gains by keeping the memory that its tensors free.

    python benchmarks/kept_memory.py

Steps of SG-Net on a random batch, in processes of their own that take turns. Run it on an idle machine.
"""

import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated

import torch
import typer
from torch.nn.functional import binary_cross_entropy_with_logits

from sgnet_nnunet.networks.sgnet import SGNet
from sgnet_nnunet.training.settings import keep_freed_memory

LEARNING_RATE = 3e-3


def seconds_of_steps(*, kept: bool, batch: tuple[int, ...], steps: int) -> tuple[list[float], float]:
    """Return the seconds of each step after a first one, and the process's peak memory in MB.

    Args:
        kept: Whether this process, from now on, keeps what its tensors free.
        batch: Shape of the images: patches, channels, z, y, x.
        steps: Number of steps timed.

    Raises:
        RuntimeError: If it is to keep its memory and cannot.
    """
    if kept and not keep_freed_memory():
        msg = "memory is kept with glibc only; this is another C library"
        raise RuntimeError(msg)
    network = SGNet(batch[1], 2)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    images, target = torch.rand(batch), torch.zeros(batch[0], 2, *batch[2:])
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        optimiser.zero_grad()
        binary_cross_entropy_with_logits(network(images), target).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        seconds.append(time.perf_counter() - start)
    return seconds[1:], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(*, batch: tuple[int, ...], steps: int, rounds: int) -> dict[bool, tuple[float, float]]:
    """Return the median seconds of a step and the peak MB, without the memory kept and with it."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    peaks: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds):
        for kept in (False, True):
            # What a process has kept, it has for good: each gets a fresh one.
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                times, peak = pool.submit(seconds_of_steps, kept=kept, batch=batch, steps=steps).result()
            seconds[kept] += times
            peaks[kept].append(peak)
    return {kept: (statistics.median(seconds[kept]), max(peaks[kept])) for kept in (False, True)}


def main(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each with a process of both kinds.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Steps timed in each process.")] = 5,
    patches: Annotated[int, typer.Option(min=1, help="Patches of 32 x 96 x 96 voxels in a batch.")] = 4,
) -> None:
    """Print a step's seconds with the memory given back and kept, and their ratio."""
    figures = measure(batch=(patches, 2, 32, 96, 96), steps=steps, rounds=rounds)
    for kept, (seconds, peak) in figures.items():
        typer.echo(f"memory {'kept' if kept else 'given back'}: {seconds:.2f} s a step, peak {peak:.0f} MB")
    typer.echo(f"ratio: {figures[False][0] / figures[True][0]:.2f}")


if __name__ == "__main__":
    typer.run(main)
