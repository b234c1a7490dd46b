"""How to predict, free of PyTorch so that a command line can be read without it."""

from dataclasses import dataclass

from sgnet_nnunet.errors import SGNetError


@dataclass(frozen=True, kw_only=True)
class PredictionOptions:
    """How to predict; the defaults are fit for a CPU.

    Attributes:
        folds: Folds whose networks are averaged; none for all that are trained.
        checkpoint: File name of the weights.
        device: cpu, cuda or mps; None for cuda if there is one, else cpu.
        engine: auto, tiled (nnU-Net's sliding window), whole or sparse.
        runtime: auto, torch or openvino.
        precision: f32, bf16 or auto; of OpenVINO.
        max_memory: Memory that the network may take, in bytes; None to go by what is free.
        step_size: Step of the sliding window in patches.
        mirroring: Also predict mirrored images, and average: up to 8 times slower.
        preprocessing_processes: Processes that preprocess; None for 0 without a GPU.
        export_processes: Processes that resample and write; None for 0 without a GPU.
        continue_prediction: Keep the masks that are there already.
        save_probabilities: Also write each case's probabilities as `.npz`.
        num_parts: Parts that the cases are dealt out to, one a run.
        part_id: The part to predict, from 0.

    Raises:
        SGNetError: If there is no such part.
    """

    folds: tuple[str, ...] = ()
    checkpoint: str = "checkpoint_final.pth"
    device: str | None = None
    engine: str = "auto"
    runtime: str = "auto"
    precision: str = "f32"
    max_memory: int | None = None
    step_size: float = 0.5
    mirroring: bool = False
    preprocessing_processes: int | None = None
    export_processes: int | None = None
    continue_prediction: bool = False
    save_probabilities: bool = False
    num_parts: int = 1
    part_id: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.part_id < self.num_parts:
            raise SGNetError(
                f"--part-id {self.part_id}: of {self.num_parts} parts there are 0 to {self.num_parts - 1}; "
                "give one of them, and --num-parts"
            )
