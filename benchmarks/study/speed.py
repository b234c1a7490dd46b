"""Time of a training step and of a case, every network in turn, so that all meet the same machine."""

import json
import os
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from sgnet_nnunet.training.base_trainer import freeze_batch_norms
from sgnet_nnunet.training.settings import keep_freed_memory
from study.config import DEFAULT_PLANS, MODELS, StudyConfig
from study.data import nnunet_paths

PATCH_SIZE, BATCH_SIZE = (32, 96, 96), 4
"""The plan's own, whatever the study's budget."""

CASE_SIZE = (96, 128, 128)
"""About a brain, in one window, so that no network gains by larger patches."""

REFERENCE = "SGNetNoGateTrainer"


def measure_speed(folder: Path, config: StudyConfig, *, rounds: int) -> None:
    """Write `speed.json`: medians over the rounds, and relative to the ungated network.

    The steps are those of the trainers themselves (forward, loss, backward, AdamW) on one random batch,
    a CPU keeping its memory as in a training.
    nnU-Net's default network is left out: its plan's patch is another.
    """
    os.environ |= nnunet_paths(folder) | {"nnUNet_results": str(folder / "speed")}
    from nnunetv2.run.run_training import get_trainer_from_args  # noqa: PLC0415

    device = torch.device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    batch = _batch()
    image = torch.rand(1, 2, *CASE_SIZE, device=device)
    trainers = {}
    for model in MODELS:
        if model.plans != DEFAULT_PLANS and model.trainer not in trainers:
            trainer = get_trainer_from_args("501", "3d_fullres", 0, model.trainer, model.plans, device=device)
            trainer.initialize()
            trainers[model.trainer] = trainer
    steps: dict[str, list[float]] = {name: [] for name in trainers}
    cases: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(rounds + 1):
        for name, trainer in trainers.items():
            steps[name].append(_seconds(partial(_step, trainer, batch), device))
            cases[name].append(_seconds(partial(_case, trainer, image), device))
    rows = [
        {
            "trainer": name,
            "step_s": statistics.median(steps[name][1:]),
            "case_s": statistics.median(cases[name][1:]),
            "step_relative": _ratio(steps[name], steps[REFERENCE]),
            "case_relative": _ratio(cases[name], cases[REFERENCE]),
        }
        for name in trainers
    ]
    document = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else config.device,
        "compiled": trainers[REFERENCE]._do_i_compile(),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "step": f"batch {BATCH_SIZE} of {PATCH_SIZE} (z, y, x), gates deciding",
        "case": f"one image of {CASE_SIZE}, untrained weights: what a dense run costs",
        "models": rows,
    }
    (folder / "speed.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _batch() -> dict[str, Any]:
    data = torch.rand(BATCH_SIZE, 2, *PATCH_SIZE)
    target = torch.zeros(BATCH_SIZE, 1, *PATCH_SIZE, dtype=torch.int16)
    target[..., 8:20, 30:50, 30:50] = 1
    return {"data": data, "target": target}


def _step(trainer: Any, batch: dict[str, Any]) -> None:  # noqa: ANN401
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.network.train()
    freeze_batch_norms(trainer.network)
    trainer.train_step(batch | {"target": _targets(trainer, batch["target"])})


def _targets(trainer: Any, target: Tensor) -> Tensor | list[Tensor]:  # noqa: ANN401
    """Return the target as the trainer's loss takes it: one at each scale of a deep supervision."""
    if not trainer.enable_deep_supervision:
        return target
    return [
        nn.functional.interpolate(target.float(), scale_factor=tuple(scale)).to(target.dtype)
        for scale in trainer._get_deep_supervision_scales()
    ]


def _case(trainer: Any, image: Tensor) -> None:  # noqa: ANN401
    trainer.set_deep_supervision_enabled(False)
    network: nn.Module = trainer.network.eval()
    with torch.inference_mode(), torch.autocast(image.device.type, enabled=image.device.type == "cuda"):
        network(image)


def _seconds(function: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    start = perf_counter()
    function()
    _wait(device)
    return perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _ratio(times: list[float], reference: list[float]) -> float:
    """Return the median of the ratios within each round, the first round being a warm-up."""
    return statistics.median(mine / theirs for mine, theirs in zip(times[1:], reference[1:], strict=True))
