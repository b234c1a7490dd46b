"""The three baselines of the SG-Net paper: MONAI's networks, in the sizes of the notebook.

Parameters with two input channels and one class, counted from the author's notebook:
U-Net 1,979,177, Attention U-Net 5,909,545, ResU-Net 4,806,398.
"""

from torch import nn

CHANNELS = (16, 32, 64, 128, 256)
STRIDES = (2, 2, 2, 2)


def build_unet(input_channels: int, num_classes: int, *, residual_units: int = 0) -> nn.Module:
    """Build MONAI's `UNet`; `residual_units` 0 gives the Standard U-Net, 2 the ResU-Net."""
    # MONAI takes seconds to import, and nnU-Net imports every trainer's module to find one.
    from monai.networks.nets import UNet  # noqa: PLC0415

    return UNet(3, input_channels, num_classes, CHANNELS, STRIDES, num_res_units=residual_units)


def build_attention_unet(input_channels: int, num_classes: int) -> nn.Module:
    """Build MONAI's `AttentionUnet` (Oktay et al. 2018, arXiv:1804.03999)."""
    from monai.networks.nets import AttentionUnet  # noqa: PLC0415

    return AttentionUnet(3, input_channels, num_classes, CHANNELS, STRIDES)
