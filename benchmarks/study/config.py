"""What the study trains, on what, and for how long."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sgnet_nnunet.training.settings import emulates_bfloat16

SG_NET_PLANS = "nnUNetPlans"
TVERSKY_PLANS = "nnUNetTverskyPlans"
NOTEBOOK_PLANS = "nnUNetNotebookPlans"
DEFAULT_PLANS = "nnUNetDefaultPlans"

FALSE_POSITIVE_WEIGHT = 0.7
"""What `TVERSKY_PLANS` has in place of Dice's 0.5."""

HELD_OPEN = "-held-open"
"""Ends the folder of networks that are tested with their gates held open."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A network of the study.

    Attributes:
        name: What the tables call it.
        trainer: nnU-Net's `-tr`.
        plans: nnU-Net's `-p`.
        seeds: How many seeds to train at most; None for the study's.
        bypassed: Whether these are another model's weights, tested with their gates held open.
        bfloat16: Whether it can train in bfloat16 on a CPU; instance norms come out as NaN there.
    """

    name: str
    trainer: str
    plans: str = SG_NET_PLANS
    seeds: int | None = None
    bypassed: bool = False
    bfloat16: bool = True

    @property
    def training(self) -> str:
        """Name of the folder of the trainings that its weights come from."""
        return f"{self.trainer}__{self.plans}"

    @property
    def run(self) -> str:
        """Name of the folder of its predictions and scores."""
        return self.training + (HELD_OPEN if self.bypassed else "")


MODELS = (
    Model(name="SG-Net, hard spatial gate", trainer="SGNetTrainer"),
    Model(name="the same weights, gates held open", trainer="SGNetTrainer", bypassed=True),
    Model(name="SG-Net, no gate", trainer="SGNetNoGateTrainer"),
    Model(name="SG-Net, skip gate", trainer="SGNetSkipGateTrainer"),
    Model(name="SG-Net, soft gate", trainer="SGNetSoftGateTrainer"),
    Model(name="SG-Net, deep supervision", trainer="SGNetDeepSupervisionTrainer"),
    Model(name="Standard U-Net", trainer="BaselineUNetTrainer", bfloat16=False),
    Model(name="ResU-Net", trainer="BaselineResUNetTrainer", bfloat16=False),
    Model(name="Attention U-Net", trainer="BaselineAttentionUNetTrainer", bfloat16=False),
    Model(name="SG-Net, notebook's recipe", trainer="SGNetNotebookTrainer", plans=NOTEBOOK_PLANS, seeds=1),
    Model(name="nnU-Net's default", trainer="nnUNetTrainer", plans=DEFAULT_PLANS, seeds=1, bfloat16=False),
    Model(name="SG-Net, hard spatial gate, Tversky", trainer="SGNetTrainer", plans=TVERSKY_PLANS),
    Model(
        name="the same weights, gates held open, Tversky",
        trainer="SGNetTrainer",
        plans=TVERSKY_PLANS,
        bypassed=True,
    ),
    Model(name="SG-Net, no gate, Tversky", trainer="SGNetNoGateTrainer", plans=TVERSKY_PLANS),
    Model(name="SG-Net, hard spatial gate, clipped", trainer="SGNetTrainer", plans=NOTEBOOK_PLANS),
    Model(name="SG-Net, no gate, clipped", trainer="SGNetNoGateTrainer", plans=NOTEBOOK_PLANS),
)


def model_of_run(run: str) -> Model:
    """Return the network whose trainings are in folders of that name."""
    return next(model for model in MODELS if model.run == run)


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The budget.

    Attributes:
        training: Patients to train on.
        validation: Patients of nnU-Net's validation fold.
        test: Patients held out.
        shrink: Voxels of the phantoms averaged into one along each axis; 2 gives a grid of 2 mm.
        patch_size: z, y, x in voxels.
        batch_size: Patches in a batch.
        epochs: Epochs of a training.
        iters: Batches in an epoch.
        seeds: Trainings of each network.
        device: Device in nnU-Net's words.
        bfloat16: Whether a CPU trains in bfloat16 where autocast allows it; predictions stay in float32.
            A GPU trains in the half precision that nnU-Net chooses.
        default_memory_gb: `-gpu_memory_target` of nnU-Net's own plan.
    """

    training: int = 24
    validation: int = 2
    test: int = 16
    shrink: int = 1
    patch_size: tuple[int, int, int] = (32, 96, 96)
    batch_size: int = 4
    epochs: int = 100
    iters: int = 250
    seeds: int = 3
    device: str = "cuda"
    bfloat16: bool = False
    default_memory_gb: float = 8.0

    def save(self, path: Path) -> None:
        """Write the configuration as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "StudyConfig":
        """Read a configuration back."""
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**values | {"patch_size": tuple(values["patch_size"])})


BUDGETS = {
    "gpu": StudyConfig(),
    "gpu-short": StudyConfig(epochs=25, iters=60, bfloat16=True, default_memory_gb=1.0),
    "cpu": StudyConfig(
        shrink=2,
        patch_size=(32, 48, 48),
        batch_size=2,
        epochs=25,
        iters=40,
        device="cpu",
        bfloat16=True,
        default_memory_gb=0.25,
    ),
    "cpu-1mm": StudyConfig(
        batch_size=2, epochs=25, iters=40, device="cpu", bfloat16=True, default_memory_gb=1.0
    ),
    "smoke": StudyConfig(
        training=2,
        validation=1,
        test=2,
        shrink=3,
        patch_size=(16, 32, 32),
        batch_size=2,
        epochs=2,
        iters=2,
        seeds=2,
        device="cpu",
        default_memory_gb=0.25,
    ),
}
"""`gpu` is the plan's own grid, patch and batch; `gpu-short` the same for minutes; `cpu` fits two cores,
and `cpu-1mm` with the plan's grid and patch, for a few of the networks at a time; `smoke` tests the study.
But for `gpu`, nnU-Net's default has a plan whose patch is about as large as the others' (56 x 80 x 64 at
1 mm; by 8 GB it is eight times as large)."""


def for_this_cpu(config: StudyConfig) -> StudyConfig:
    """Return the configuration without bfloat16 where the CPU only imitates it."""
    return replace(config, bfloat16=config.bfloat16 and not emulates_bfloat16())


def overridden(config: StudyConfig, *, seeds: int | None, device: str | None) -> StudyConfig:
    """Return the configuration with another number of seeds or device, where one is given."""
    changes: dict[str, Any] = {"seeds": seeds, "device": device}
    return replace(config, **{name: value for name, value in changes.items() if value is not None})
