"""The networks, and which of them may be run on a whole image at once."""

from typing import TypeVar

_NetworkClass = TypeVar("_NetworkClass", bound=type)

_WHOLE_IMAGE: set[type] = set()


def whole_image(network: _NetworkClass) -> _NetworkClass:
    """Register a network whose logits do not depend on the size of the image that it is given.

    In evaluation mode a voxel's logits must be a function of the voxels within `margin` of it: no
    instance norm, no attention over the image, no adaptive pooling. The networks registered are run on
    whole images by default; all others go through nnU-Net's sliding window.

    Args:
        network: The class. Its objects have the attributes `input_channels`; `num_classes`; `divisor`, the
            multiple that the image's size must be along each axis, in voxels; and `margin`, the voxels
            around a piece of an image beyond which nothing changes the piece's logits, a multiple of
            the divisor.
    """
    _WHOLE_IMAGE.add(network)
    return network


def allows_whole_image(network: object) -> bool:
    """Whether a network's class, not one that it derives from, is registered by `whole_image`."""
    return type(network) in _WHOLE_IMAGE
