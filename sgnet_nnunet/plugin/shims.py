"""Shims: one-line modules inside nnU-Net's folders that re-export this package's classes.

nnU-Net looks up trainers, planners and normalisations by class name in the files of its own package, and its
spawned workers repeat the look-up, so only a file there is always found. `setup.py` puts the shims into the
wheel. It runs this module before anything is installed: import nothing but the standard library here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

MARK = "  # placed by sgnet_nnunet\n"
"""Ends every shim; only files that end so are overwritten or deleted."""


@dataclass(frozen=True)
class Shim:
    """A module for nnU-Net's package that re-exports the classes `names` of a `module` of this one.

    Relative to the `nnunetv2` package, `folder` is what nnU-Net searches for such classes, and `path` is
    where the shim goes.
    """

    folder: str
    path: str
    module: str
    names: tuple[str, ...]

    @property
    def text(self) -> str:
        """The module's source."""
        return f"from {self.module} import {', '.join(self.names)}{MARK}"

    def is_current(self, package: Path) -> bool:
        """Return whether the `nnunetv2` package in the folder `package` holds this shim."""
        target = package / self.path
        return target.is_file() and target.read_bytes() == self.text.encode()

    def is_ours(self, package: Path) -> bool:
        """Return whether this shim, of any version, is in the folder `package` of nnU-Net."""
        target = package / self.path
        return target.is_file() and target.read_bytes().endswith(MARK.encode())


TRAINERS, PLANNERS = "training/nnUNetTrainer", "experiment_planning"
NORMALISATIONS = "preprocessing/normalization"

SHIMS = (
    Shim(
        TRAINERS,
        f"{TRAINERS}/sgnet_trainers.py",
        "sgnet_nnunet.training.sgnet_trainer",
        (
            "SGNetTrainer",
            "SGNetSkipGateTrainer",
            "SGNetSoftGateTrainer",
            "SGNetNoGateTrainer",
            "SGNetDeepSupervisionTrainer",
        ),
    ),
    Shim(
        TRAINERS,
        f"{TRAINERS}/sgnet_notebook_trainers.py",
        "sgnet_nnunet.training.notebook_trainer",
        ("SGNetNotebookTrainer",),
    ),
    Shim(
        TRAINERS,
        f"{TRAINERS}/sgnet_baseline_trainers.py",
        "sgnet_nnunet.training.baseline_trainers",
        ("BaselineUNetTrainer", "BaselineAttentionUNetTrainer", "BaselineResUNetTrainer"),
    ),
    Shim(
        TRAINERS,
        f"{TRAINERS}/variants/benchmarking/sgnet_benchmark_trainers.py",
        "sgnet_nnunet.training.benchmark_trainers",
        ("SGNetTrainerBenchmark_5epochs", "SGNetTrainerBenchmark_5epochs_noDataLoading"),
    ),
    Shim(
        PLANNERS,
        f"{PLANNERS}/experiment_planners/sgnet_planner.py",
        "sgnet_nnunet.planning.planner",
        ("SGNetPlanner", "SGNetUnclippedPlanner", "SGNetFlairDropoutPlanner", "SGNetNotebookPlanner"),
    ),
    Shim(
        NORMALISATIONS,
        f"{NORMALISATIONS}/sgnet_normalization.py",
        "sgnet_nnunet.planning.normalization",
        ("PercentileNormalization", "PercentileTo01Normalization"),
    ),
)


def write_shims(
    package: Path, write: Callable[[Path, str], object] = lambda path, text: path.write_text(text, "utf-8")
) -> list[Path]:
    """Write every shim that is not up to date into the folder `package` of nnU-Net; return the paths written.

    Raises:
        OSError: If a shim cannot be written.
    """
    outdated = {package / shim.path: shim.text for shim in SHIMS if not shim.is_current(package)}
    for target, text in outdated.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        write(target, text)
    return list(outdated)
