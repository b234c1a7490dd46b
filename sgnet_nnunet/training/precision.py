"""The precision that a CPU trains in: single, or bfloat16 where the environment asks for it."""

import os
import platform
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.training.switch import read_switch

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
