"""The time of an epoch of SG-Net by nnU-Net's rules: the fastest of five epochs.

`benchmark_result.json` has the format of nnU-Net's `nnUNetTrainerBenchmark_5epochs`, for nnU-Net's scripts.
nnU-Net's trainers require a GPU and a network with deep supervision; these run on a CPU too.
"""

import json
import platform
import re
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch

from sgnet_nnunet.files import write_text
from sgnet_nnunet.training.sgnet_trainer import SGNetTrainer

RESULT_FILE = "benchmark_result.json"
EPOCHS = 5
CRASHED = "Training has ended due to an error. Check your logs for more information."
"""The text that nnU-Net writes."""


class SGNetTrainerBenchmark_5epochs(SGNetTrainer):  # noqa: N801
    """Time five epochs of `SGNetTrainer`, and save nothing but their times.

    On a CPU, shorten the epochs by `SGNET_ITERS` and `SGNET_VAL_ITERS`, which the result records.
    """

    def set_up(self) -> None:
        """Train five epochs, and save no checkpoint."""
        super().set_up()
        self.disable_checkpointing = True
        self.set_schedule(replace(self.schedule, epochs=EPOCHS, patience=0))

    def run_training(self) -> None:
        """Train, and write the seconds of the fastest epoch, or that the training failed."""
        try:
            super().run_training()
        except RuntimeError:
            self._write(CRASHED)
            raise
        starts = self.logger.get_value("epoch_start_timestamps", step=None)
        ends = self.logger.get_value("epoch_end_timestamps", step=None)
        self._write(min(end - start for start, end in zip(starts, ends, strict=True)))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Do nothing: the network of five epochs is not evaluated."""

    def _write(self, fastest_epoch: float | str) -> None:
        if self.local_rank != 0:
            return
        result = {
            "torch_version": torch.__version__,
            "cudnn_version": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "gpu_name": device_name(self.device),
            "fastest_epoch": fastest_epoch,
            "num_gpus": torch.distributed.get_world_size() if self.is_ddp else 1,
            "hostname": platform.node(),
        }
        key = "__".join(
            str(result[name]).replace(" ", "")
            for name in ("hostname", "cudnn_version", "torch_version", "gpu_name")
        )
        settings = {
            "iterations": self.schedule.iters,
            "validation_iterations": self.schedule.val_iters,
            "bfloat16": self.precision.bfloat16,
        }
        path = Path(self.output_folder, RESULT_FILE)
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        results[f"{key}__num_gpus_{result['num_gpus']}"] = result | settings
        write_text(path, json.dumps(results, indent=4) + "\n")


class SGNetTrainerBenchmark_5epochs_noDataLoading(SGNetTrainerBenchmark_5epochs):  # noqa: N801
    """Time `SGNetTrainer` without loading and augmentation: each step gets the same batch of noise."""

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return two endless repetitions of the batch."""
        size, labels = self.configuration_manager.patch_size, self.label_manager
        data = torch.rand(self.batch_size, self.num_input_channels, *size, device=self.device)
        channels = len(labels.foreground_regions) + labels.has_ignore_label if labels.has_regions else 1
        highest = 1 if labels.has_regions else max(labels.foreground_labels)
        targets = []
        for scale in self._get_deep_supervision_scales():
            shape = (self.batch_size, channels, *(round(n * s) for n, s in zip(size, scale, strict=True)))
            targets.append(torch.randint(highest + 1, shape, device=self.device, dtype=torch.int16))
        batch = {"data": data, "target": targets}
        return repeat(batch), repeat(batch)


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or of the CPU with the threads that PyTorch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def cpu_name() -> str:
    """Return the CPU's model, as the operating system reports it."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()
