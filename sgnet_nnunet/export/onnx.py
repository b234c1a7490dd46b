"""A network as an ONNX file, checked against PyTorch before it is kept."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.io.atomic import atomic_path

OPSET = 18
"""The lowest that PyTorch's exporter writes without converting."""

DIVISOR = 16
"""Every network here takes spatial sizes that are multiples of it; SG-Net of 8 too."""

LARGEST_FACTOR = 64
"""Sizes up to DIVISOR times this are declared."""

TOLERANCE = 1e-3
"""Largest difference of a logit between PyTorch and onnxruntime that still passes; 1e-5 is usual."""


def export_onnx(network: nn.Module, path: Path, *, input_channels: int) -> float:
    """Write a network as ONNX with dynamic batch and spatial sizes, and check it with onnxruntime.

    The input is called `image`, shape (batch, input_channels, z, y, x), preprocessed as the plan says;
    the output `logits`, shape (batch, heads, z, y, x).

    Args:
        network: The network, on the CPU; left in evaluation mode.
        path: The file to write; whole or not at all.
        input_channels: Image channels.

    Returns:
        The largest difference of a logit between PyTorch and onnxruntime, on two sizes.

    Raises:
        SGNetError: If the extra is not installed, or onnxruntime computes something else.
    """
    _require_extra()
    network.eval()
    generator = torch.Generator().manual_seed(0)
    # No axis of one voxel at the bottleneck: the exporter would take it for a constant.
    example = torch.rand(1, input_channels, 2 * DIVISOR, 3 * DIVISOR, 4 * DIVISOR, generator=generator)
    sizes = {
        axis: DIVISOR * torch.export.Dim(name, min=1, max=LARGEST_FACTOR)
        for axis, name in ((2, "z"), (3, "y"), (4, "x"))
    }
    program = torch.onnx.export(
        network,
        (example,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1), **sizes},),
        input_names=["image"],
        output_names=["logits"],
        opset_version=OPSET,
        verbose=False,
    )
    if program is None:
        raise SGNetError(f"{path}: PyTorch {torch.__version__} exported nothing; upgrade to 2.6 or newer")
    with atomic_path(path) as partial:
        program.save(str(partial), external_data=False)
        other = torch.rand(2, input_channels, DIVISOR, 2 * DIVISOR, 2 * DIVISOR, generator=generator)
        difference = max(_difference(network, partial, image) for image in (example, other))
        if not difference <= TOLERANCE:
            raise SGNetError(
                f"{path}: onnxruntime's logits differ from PyTorch's by {difference:.2g}, more than "
                f"{TOLERANCE:g}; nothing was written, please report it with your versions of both"
            )
    return difference


def _require_extra() -> None:
    try:
        import onnxruntime  # noqa: F401, PLC0415
        import onnxscript  # noqa: F401, PLC0415
    except ImportError as error:
        raise SGNetError(f"{error.name} is not installed; run: pip install 'sgnet-nnunet[onnx]'") from error


def _difference(network: nn.Module, path: Path, image: torch.Tensor) -> float:
    import onnxruntime  # noqa: PLC0415

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": image.numpy()})
    with torch.inference_mode():
        expected = network(image).numpy()
    return float(np.abs(logits - expected).max())
