"""Prediction with trained and exported models; the names of engines, runtimes and precisions."""

from typing import Literal

EngineName = Literal["auto", "tiled", "whole", "sparse"]
"""How the network is applied to an image; built by `torch_engines.KINDS`."""

RuntimeName = Literal["auto", "torch", "openvino"]
"""What runs the network."""

RejectorName = Literal["none", "components", "gates"]
"""Features of a component rejector: of the image and the probabilities, and of the gates, too."""

PrecisionName = Literal["f32", "bf16"]
"""What OpenVINO computes in."""
