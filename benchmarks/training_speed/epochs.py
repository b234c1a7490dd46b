"""A real training's share of the speed without loading, by nnU-Net's benchmark format."""

import json
import os
from pathlib import Path
from typing import Any

from sgnet_nnunet.demo import run_command
from sgnet_nnunet.training.benchmark_trainers import RESULT_FILE
from training_speed.data import DATASET, environment_of

TRAINERS = ("SGNetTrainerBenchmark_5epochs", "SGNetTrainerBenchmark_5epochs_noDataLoading")


def measure_epochs(folder: Path, device: str, *, iters: int) -> dict[str, Any]:
    """Run the two benchmark trainers; return their results and the share.

    Args:
        folder: The data's folder.
        device: nnU-Net's `-device`.
        iters: Batches of an epoch; one validation batch comes on top.

    Raises:
        SGNetError: If a training fails.
    """
    workers = str(os.cpu_count() or 1)
    environment = environment_of(folder) | {
        "SGNET_ITERS": str(iters),
        "SGNET_VAL_ITERS": "1",
        "nnUNet_n_proc_DA": os.environ.get("SGNET_BENCHMARK_WORKERS", workers),
    }
    results = {}
    for trainer in TRAINERS:
        run_command(
            ("nnUNetv2_train", "501", "3d_fullres", "0", "-tr", trainer, "-device", device),
            environment=environment,
            log=folder / f"{trainer}.log",
        )
        fold = folder / "nnUNet_results" / DATASET / f"{trainer}__nnUNetPlans__3d_fullres" / "fold_0"
        (results[trainer],) = json.loads((fold / RESULT_FILE).read_text(encoding="utf-8")).values()
    with_loading, without = (results[trainer]["fastest_epoch"] for trainer in TRAINERS)
    return {
        "workers": int(environment["nnUNet_n_proc_DA"]),
        "results": results,
        "share_of_speed": without / with_loading,
    }
