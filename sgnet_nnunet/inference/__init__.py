"""Trained models, loaded from nnU-Net's folders and applied; and the choices that a prediction has."""

from enum import Enum


class EngineName(str, Enum):
    """How the network is applied to an image; built by `torch_engines.KINDS`."""

    AUTO = "auto"
    TILED = "tiled"
    WHOLE = "whole"
    SPARSE = "sparse"


class RuntimeName(str, Enum):
    """What runs the network."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"


class PrecisionName(str, Enum):
    """What OpenVINO computes in."""

    F32 = "f32"
    BF16 = "bf16"
