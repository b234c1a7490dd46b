"""The runtime OpenVINO, and the cores to compute with; PyTorch's is in `inference.torch_engines`."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock, local
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.errors import InputFileError, SGNetError, needs_extra
from sgnet_nnunet.inference import PrecisionName
from sgnet_nnunet.inference.sparse import Arrays, Stage

if TYPE_CHECKING:
    import openvino

_first_use = Lock()


class OpenVINORuntime:
    """Runs a network's stages with OpenVINO.

    Args:
        models: The stages as OpenVINO's models, or the files that hold them, by name.
        precision: What to compute in, `f32` or `bf16`; OpenVINO's own choice is bf16 where a CPU has it.
        threads: Threads to compute with; None for the cores that this process may use.

    Raises:
        SGNetError: If OpenVINO is not installed.
    """

    def __init__(
        self,
        models: "Mapping[str, openvino.Model | Path]",
        *,
        precision: str = "f32",
        threads: int | None = None,
    ) -> None:
        self.threads = threads or usable_cores()
        self._models = models
        self._precision = precision
        self._core = import_openvino().Core()
        self._stages: dict[tuple[str, int], Stage] = {}

    def session(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: OpenVINO changes nothing of the process."""
        return nullcontext()

    def block_stage(self, name: str) -> Stage:
        """Return a stage of as many streams as there are threads, one of them for each caller."""
        return self._stage(name, streams=self.threads)

    def whole_stage(self, name: str) -> Stage:
        """Return a stage of one stream that computes with all threads."""
        return self._stage(name, streams=1)

    def _stage(self, name: str, *, streams: int) -> Stage:
        if (name, streams) not in self._stages:
            model = self._models[name]
            options = {
                "INFERENCE_PRECISION_HINT": self._precision,
                "INFERENCE_NUM_THREADS": self.threads,
                "NUM_STREAMS": streams,
            }
            try:
                opened = self._core.read_model(str(model)) if isinstance(model, Path) else model
            except RuntimeError as error:
                remedy = "write it again with sgnet export"
                raise InputFileError(model, "cannot be opened by OpenVINO", remedy) from error
            constants = [op.data for op in opened.get_ops() if op.get_type_name() == "Constant"]
            if not all(np.isfinite(values).all() for values in constants):
                remedy = "train the model again, and write it again with sgnet export"
                raise InputFileError(
                    model if isinstance(model, Path) else name, "holds weights that are not finite", remedy
                )
            self._stages[name, streams] = _stage_of(self._core.compile_model(opened, "CPU", options))
        return self._stages[name, streams]


def _stage_of(compiled: "openvino.CompiledModel") -> Stage:
    tensor = import_openvino().Tensor
    own, results = local(), range(len(compiled.outputs))

    def run(*inputs: NDArray[np.float32]) -> Arrays:
        if not hasattr(own, "request"):
            own.request, own.inputs = compiled.create_infer_request(), [None] * len(inputs)
        for index, array in enumerate(inputs):
            # A thread mostly passes the same buffers, and setting one takes time.
            if own.inputs[index] is not array:
                own.request.set_input_tensor(index, tensor(array, shared_memory=True))
                own.inputs[index] = array
        # infer() would also copy every result.
        own.request.start_async()
        own.request.wait()
        return [own.request.get_output_tensor(index).data for index in results]

    return run


def import_openvino() -> Any:  # noqa: ANN401 - a module
    """Return the module `openvino`; an SGNetError if it is not installed."""
    with _first_use:
        with needs_extra("cpu"):
            import openvino  # noqa: PLC0415
        # The binding fills tables on first use and releases Python's lock meanwhile: two threads that make
        # their first tensors at the same time would deadlock.
        assert openvino.Tensor(np.zeros(1, dtype=np.float32), shared_memory=True).data.size  # noqa: S101
    return openvino


def check_precision(requested: str) -> None:
    """Raise an SGNetError if there is no such precision, or this CPU has no instructions for it."""
    choices = get_args(PrecisionName)
    if requested not in choices:
        raise SGNetError(f"--precision {requested}: choose {' or '.join(choices)}")
    if requested == "bf16" and not supports_bf16():
        raise SGNetError("--precision bf16: this CPU has no bf16 instructions; use --precision f32")


def supports_bf16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU with instructions for it."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def usable_cores() -> int:
    """Return how many cores this process may use, where the system reports it; else how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
