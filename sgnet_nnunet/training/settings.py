"""Settings of a training from environment variables: schedule, precision, mirroring, engine, memory."""

import ctypes
import os
import platform
import random
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from sgnet_nnunet.errors import SGNetError

MIRRORING = "SGNET_MIRRORING"
"""Set to 0, a fold is validated, and the network used, without mirrored copies."""

BFLOAT16 = "SGNET_BF16"
"""Set to 1, a CPU trains in bfloat16."""

TRUST = "SGNET_TRUST"
"""Set to 1, a training that is continued loads checkpoints of any content, as nnU-Net does."""

SEED = "SGNET_SEED"
"""Set to a whole number, a training on a CPU gives the same network each time."""

VALIDATION_ENGINE = "SGNET_VALIDATION_ENGINE"
"""Set to one of `VALIDATION_ENGINES`, a fold is validated with the engine that `sgnet predict` uses."""

VALIDATION_ENGINES = ("auto", "whole", "sparse")


def read_choice(
    name: str, choices: Collection[str], environment: Mapping[str, str] = os.environ
) -> str | None:
    """Return the value of a variable; None where it is not set, or empty; other values are an SGNetError."""
    given = environment.get(name, "")
    if given and given not in choices:
        raise SGNetError(f"{name}={given!r}: must be {' or '.join(choices)}; correct it or unset it")
    return given or None


def read_flag(name: str, *, default: bool, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether a variable is 1 rather than 0; the default where it is not set, or empty."""
    given = read_choice(name, ("0", "1"), environment)
    return default if given is None else given == "1"


def read_seed(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return `SGNET_SEED`, None where it is not set, or empty; no whole number from 0 is an SGNetError."""
    given = environment.get(SEED, "")
    if given and not (given.isascii() and given.isdecimal()):
        raise SGNetError(f"{SEED}={given!r}: must be a whole number of at least 0; correct it or unset it")
    return int(given) if given else None


def seed_generators(*parts: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch from several numbers of at least 0."""
    first, second, third = np.random.SeedSequence(parts).generate_state(3).tolist()
    random.seed(first)
    np.random.seed(second)  # noqa: NPY002 - what nnU-Net draws from
    torch.manual_seed(third)


@dataclass(frozen=True, kw_only=True)
class TrainingSchedule:
    """How long to train: epochs at most, training and validation batches an epoch, and the patience.

    The patience is the number of epochs without a better moving average of the pseudo Dice before the
    training stops early; 0 never stops it early.
    """

    epochs: int = 200
    iters: int = 250
    val_iters: int = 50
    patience: int = 0

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, *, default: "TrainingSchedule | None" = None
    ) -> "TrainingSchedule":
        """Read `SGNET_EPOCHS`, `SGNET_ITERS`, `SGNET_VAL_ITERS` and `SGNET_PATIENCE`, where they are set.

        Raises:
            SGNetError: If a variable is no whole number of at least 1 (patience: 0).
        """
        given = {}
        for field in (one.name for one in fields(cls)):
            name, least = f"SGNET_{field.upper()}", int(field != "patience")
            text = environment.get(name)
            if text is None:
                continue
            given[field] = int(text) if text.strip().isdecimal() else -1
            if given[field] < least:
                raise SGNetError(
                    f"{name}={text!r}: must be a whole number of at least {least}; correct it or unset it"
                )
        return replace(default or cls(), **given)

    def stalled(self, scores: Sequence[float]) -> bool:
        """Return whether none of the last `patience` scores is better than those before."""
        if not self.patience or len(scores) <= self.patience:
            return False
        return max(scores[-self.patience :]) <= max(scores[: -self.patience])


EMULATING = frozenset({"NO AVX", "DEFAULT", "AVX2"})
"""PyTorch's names of the x86 instruction sets in which oneDNN emulates bfloat16, at many times the cost."""


def emulates_bfloat16(machine: str = platform.machine(), capability: str | None = None) -> bool:
    """Return whether this CPU, by its instruction set in PyTorch's words, only emulates bfloat16."""
    x86 = machine.lower() in {"x86_64", "amd64"}
    return x86 and (capability or torch.backends.cpu.get_cpu_capability()) in EMULATING


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The precision of a training's steps: nnU-Net's, or a CPU's autocast to bfloat16.

    nnU-Net uses autocast on CUDA only. Weights, loss and optimiser stay in single precision.
    """

    bfloat16: bool = False

    @classmethod
    def from_environment(
        cls, device: torch.device, environment: Mapping[str, str] = os.environ
    ) -> "Precision":
        """Read `SGNET_BF16`.

        Raises:
            SGNetError: If it is neither 0 nor 1, or 1 and the device is not a CPU.
        """
        bfloat16 = read_flag(BFLOAT16, default=False, environment=environment)
        if bfloat16 and device.type != "cpu":
            raise SGNetError(
                f"{BFLOAT16}=1: requires training on a CPU; the device is {device.type}. Unset it, or add "
                "`-device cpu`"
            )
        return cls(bfloat16=bfloat16)

    def check(self, network: nn.Module) -> None:
        """Refuse a network with instance norms, whose gradients a CPU returns as NaN in bfloat16."""
        if self.bfloat16 and any(isinstance(module, _InstanceNorm) for module in network.modules()):
            raise SGNetError(
                f"{BFLOAT16}=1: {type(network).__name__} has instance norms, which fail in bfloat16 on a CPU "
                "(NaN); unset it to train this network"
            )

    def of_a_step(self) -> AbstractContextManager[object]:
        """Return the context of one step: autocast keeps the weights it has cast until its context ends."""
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.bfloat16 else nullcontext()

    def note(self) -> str:
        """Return the line for the training log."""
        if not self.bfloat16:
            return "Training in the precision that nnU-Net chooses for the device"
        if emulates_bfloat16():
            return (
                f"WARNING: training in bfloat16 ({BFLOAT16}=1), which this CPU emulates: a step takes many "
                f"times as long as in single precision. Unset {BFLOAT16}."
            )
        return (
            f"Training in bfloat16 ({BFLOAT16}=1); faster only where the CPU has instructions for it "
            "(avx512_bf16, AMX)"
        )


KEPT_MEMORY = {
    -3: 2**30,  # M_MMAP_THRESHOLD, the largest block that is kept: a batch's feature map has less
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD, how much unused memory is kept: the most that is accepted
}
"""Options of `mallopt(3)`, in bytes."""


def keep_freed_memory() -> bool:
    """Let this process keep the memory that its tensors free; return whether the C library accepts it.

    By default glibc asks the kernel for every large block and returns it at once. Each step of a training
    then pays for all of its pages again, 40 % of its time on a CPU. Only glibc is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return all(mallopt(name, value) == 1 for name, value in KEPT_MEMORY.items())
