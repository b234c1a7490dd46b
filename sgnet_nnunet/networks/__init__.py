"""The networks, and which of them may be run on a whole image at once."""

from typing import Protocol, TypeVar

_NetworkClass = TypeVar("_NetworkClass", bound=type)

_WHOLE_IMAGE: set[type] = set()


class WholeImageNetwork(Protocol):
    """What a network of `@whole_image` has, next to its forward pass.

    Attributes:
        input_channels: Image channels.
        num_classes: Output heads.
        divisor: The multiple that the image's size must be along each axis, in voxels.
        margin: Voxels around a piece of an image beyond which nothing changes the piece's logits; a
            multiple of the divisor.
    """

    input_channels: int
    num_classes: int

    @property
    def divisor(self) -> int:
        """The multiple that the image's size must be along each axis, in voxels."""
        ...

    @property
    def margin(self) -> int:
        """Voxels around a piece of an image beyond which nothing changes the piece's logits."""
        ...


def whole_image(network: _NetworkClass) -> _NetworkClass:
    """Register a network whose logits do not depend on the size of the image that it is given.

    In evaluation mode a voxel's logits must be a function of the voxels within `margin` of it: no
    instance norm, no attention over the image, no adaptive pooling. The networks registered are run on
    whole images by default; all others go through nnU-Net's sliding window.

    Args:
        network: The class; with the attributes of `WholeImageNetwork`.
    """
    _WHOLE_IMAGE.add(network)
    return network


def allows_whole_image(network: object) -> bool:
    """Whether a network's class, not one that it derives from, is registered by `whole_image`."""
    return type(network) in _WHOLE_IMAGE
