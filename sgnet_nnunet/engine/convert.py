"""PyTorch's modules as OpenVINO's models."""

import warnings
from typing import TYPE_CHECKING

import torch
from torch import nn

from sgnet_nnunet.engine.description import input_shapes
from sgnet_nnunet.engine.openvino_runtime import import_openvino
from sgnet_nnunet.engine.stages import describe, example_inputs, stages_of
from sgnet_nnunet.networks.sgnet import SGNet

if TYPE_CHECKING:
    import openvino


def staged_models(network: SGNet) -> "dict[str, openvino.Model]":
    """Return the stages of a network as models of OpenVINO, by name.

    Raises:
        SGNetError: If OpenVINO is not installed.
    """
    description = describe(network)
    examples, shapes = example_inputs(description), input_shapes(description)
    return {
        name: to_openvino(stage, examples[name], shapes[name]) for name, stage in stages_of(network).items()
    }


def to_openvino(
    module: nn.Module, example: tuple[torch.Tensor, ...], shapes: list[list[int]]
) -> "openvino.Model":
    """Return a module as a model of OpenVINO.

    Args:
        module: In evaluation mode, on the CPU.
        example: Inputs to trace it with.
        shapes: Shapes of the model's inputs; -1 for an axis of any length.

    Raises:
        SGNetError: If OpenVINO is not installed.
    """
    openvino = import_openvino()
    from openvino.frontend import FrontEndManager  # noqa: PLC0415
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder  # noqa: PLC0415

    # openvino.convert_model does this too, and reports to its makers that it did.
    frontend = FrontEndManager().load_by_framework("pytorch")
    # The conversion fails where it is called with inference mode on.
    with torch.inference_mode(mode=False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # tracing is what OpenVINO's decoder takes
        traced = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced, example_input=example)
        model = frontend.convert(frontend.load(decoder))
    ports = zip(model.inputs, shapes, strict=True)
    model.reshape({port: openvino.PartialShape(shape) for port, shape in ports})
    return model
