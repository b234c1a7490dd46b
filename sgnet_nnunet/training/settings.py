"""Settings of a training that an environment variable turns on or off."""

import ctypes
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from sgnet_nnunet.errors import SGNetError

CHOICES = {"0": False, "1": True}


def read_switch(
    name: str, meaning: str, *, default: bool, environment: Mapping[str, str] = os.environ
) -> bool:
    """Read a variable that is 1 or 0.

    Args:
        name: The variable.
        meaning: What 1 says, for the error.
        default: What it is where it is not set, or empty.
        environment: Where to read it.

    Raises:
        SGNetError: If it is anything else.
    """
    given = environment.get(name, "")
    if not given:
        return default
    if given not in CHOICES:
        msg = f"{name}={given!r}: must be 1 ({meaning}) or 0; set it again or unset it"
        raise SGNetError(msg)
    return CHOICES[given]


VARIABLE = "SGNET_BF16"

EMULATING = frozenset({"NO AVX", "DEFAULT", "AVX2"})
"""PyTorch's names of the x86 instruction sets in which oneDNN imitates bfloat16, at many times the cost."""


def emulates_bfloat16(
    machine: str = platform.machine(),
    capability: str | None = None,
) -> bool:
    """Tell whether this CPU only imitates bfloat16.

    Args:
        machine: The processor's architecture.
        capability: Its instruction set in PyTorch's words; None to ask PyTorch.
    """
    if machine.lower() not in {"x86_64", "amd64"}:
        return False
    return (capability or torch.backends.cpu.get_cpu_capability()) in EMULATING


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The precision of a training's steps.

    Attributes:
        bfloat16: Whether the steps run under a CPU's autocast to bfloat16, which nnU-Net keeps to CUDA.
            Weights, loss and optimiser stay in single precision.
    """

    bfloat16: bool = False

    @classmethod
    def from_environment(
        cls, device: torch.device, environment: Mapping[str, str] = os.environ
    ) -> "Precision":
        """Read `SGNET_BF16`; not set or 0, everything stays as nnU-Net has it.

        Args:
            device: Where the training runs.
            environment: Where to read it.

        Raises:
            SGNetError: If it is neither 0 nor 1, or 1 and the device no CPU.
        """
        bfloat16 = read_switch(VARIABLE, "a CPU trains in bfloat16", default=False, environment=environment)
        if bfloat16 and device.type != "cpu":
            msg = (
                f"{VARIABLE}=1: is for training on a CPU, and the device is {device.type}; unset it, or add "
                "`-device cpu`"
            )
            raise SGNetError(msg)
        return cls(bfloat16=bfloat16)

    def check(self, network: nn.Module) -> None:
        """Make sure that a network can train in this precision.

        Raises:
            SGNetError: If it has instance norms, whose gradients a CPU returns as NaN in bfloat16.
        """
        if self.bfloat16 and any(isinstance(module, _InstanceNorm) for module in network.modules()):
            msg = (
                f"{VARIABLE}=1: {type(network).__name__} has instance norms, which fail in bfloat16 on a CPU "
                "(NaN); unset it to train this network"
            )
            raise SGNetError(msg)

    def of_a_step(self) -> AbstractContextManager[object]:
        """Return the context of one step.

        Each step needs its own: autocast keeps the weights it has cast until its context ends.
        """
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.bfloat16 else nullcontext()

    def note(self) -> str:
        """Return what the log says of it."""
        if not self.bfloat16:
            return "Training in the precision that nnU-Net chooses for the device"
        if emulates_bfloat16():
            return (
                f"WARNING: training in bfloat16 ({VARIABLE}=1), which this CPU only imitates: a step takes "
                f"many times as long as in single precision. Unset {VARIABLE}."
            )
        return (
            f"Training in bfloat16 ({VARIABLE}=1); faster only where the CPU has instructions for it "
            "(avx512_bf16, AMX)"
        )


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of `mallopt(3)`."""

LARGEST_BLOCK = 2**30
"""Bytes; the largest block that is kept. A feature map of a batch has a few hundred million."""
LARGEST_REST = 2**31 - 1
"""Bytes; how much unused memory is kept, the most that `mallopt` takes."""


def keep_freed_memory() -> bool:
    """Have this process keep what its tensors free, for the next ones; return whether it does from now on.

    By default glibc asks the kernel for every large block and gives it back at once. Each step of a
    training then pays for all of its pages again, which on a CPU was two fifths of its time. Other C
    libraries than glibc are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    options = ((M_MMAP_THRESHOLD, LARGEST_BLOCK), (M_TRIM_THRESHOLD, LARGEST_REST))
    return all(mallopt(name, value) == 1 for name, value in options)
