"""A training step, taken apart: transfer, forward, loss, backward, optimiser."""

from collections.abc import Callable
from typing import Any

import torch

from training_speed.contestants import Contestant, make_loader, make_trainer
from training_speed.machine import median_of, now, peak_megabytes, reset_peak

PARTS = ("transfer", "forward", "loss", "backward", "optimiser")
"""In the order of a step; the backward pass includes the gradients' clipping."""


class StepClock:
    """Times the parts of a trainer's own `train_step`, told apart by hooks.

    Args:
        trainer: An initialised trainer.
    """

    def __init__(self, trainer: Any) -> None:  # noqa: ANN401
        self.trainer = trainer
        self._marks: list[float] = []
        trainer.network.register_forward_pre_hook(self._mark)
        trainer.network.register_forward_hook(self._mark)
        trainer.loss.register_forward_hook(self._mark)
        trainer.optimizer.register_step_pre_hook(self._mark)

    def _mark(self, *_: object) -> None:
        self._marks.append(now(self.trainer.device))

    def step(self, batch: dict[str, Any]) -> dict[str, float]:
        """Train on a batch; return the seconds of each of `PARTS`, and of the `step`."""
        self._marks = []
        self._mark()
        self.trainer.train_step(batch)
        self._mark()
        ends = dict(zip(PARTS, self._marks[1:], strict=True))
        starts = dict(zip(PARTS, self._marks, strict=False))
        parts = {part: ends[part] - starts[part] for part in PARTS}
        return parts | {"step": self._marks[-1] - self._marks[0]}


def measure_steps(
    contestants: tuple[Contestant, ...],
    device: torch.device,
    *,
    rounds: int,
    on_round: Callable[[int], object] = lambda _: None,
) -> list[dict[str, Any]]:
    """Time a step of every contestant in turn, so that all meet the same machine; one round warms up.

    Returns:
        For each contestant the medians in seconds a planned batch, with the batch and the peak memory.
    """
    runners = [_Runner(contestant, device) for contestant in contestants]
    for number in range(rounds + 1):
        for runner in runners:
            runner.run(keep=number > 0)
        on_round(number)
    return [runner.row() for runner in runners]


class _Runner:
    def __init__(self, contestant: Contestant, device: torch.device) -> None:
        self.contestant = contestant
        self.trainer = make_trainer(contestant, device)
        self.batch = make_loader(self.trainer).generate_train_batch()
        planned = len(self.batch["data"])
        self.patches = min(planned, contestant.cpu_patches or planned) if device.type == "cpu" else planned
        self.scale = planned / self.patches
        self.batch = {key: _first(self.batch[key], self.patches) for key in ("data", "target")}
        self.clock = StepClock(self.trainer)
        self.times: list[dict[str, float]] = []
        self.peaks: list[float] = []

    def run(self, *, keep: bool) -> None:
        reset_peak(self.trainer.device)
        times = self.clock.step(self.batch)
        if keep:
            self.times.append({part: value * self.scale for part, value in times.items()})
            self.peaks.append(peak_megabytes(self.trainer.device) or 0)

    def row(self) -> dict[str, Any]:
        configuration = self.trainer.configuration_manager
        return {
            "name": self.contestant.name,
            "trainer": self.contestant.trainer,
            "parameters": sum(p.numel() for p in self.trainer.network.parameters()),
            "patch_size": [int(n) for n in configuration.patch_size],
            "batch_size": int(self.trainer.batch_size),
            "patches_computed": self.patches,
            "seconds": median_of(self.times),
            "steps_s": [times["step"] for times in self.times],
            "peak_mb": max(self.peaks),
        }


def _first(value: Any, patches: int) -> Any:  # noqa: ANN401
    return [part[:patches] for part in value] if isinstance(value, list) else value[:patches]
