"""Fast loading: patches no larger than the augmentation needs, and fewer interpolations of labels.

nnU-Net cuts every patch with a margin for rotation and scaling: 89 x 154 x 116 voxels for one of
32 x 96 x 96, five times as many. About two thirds of the patches are neither rotated nor scaled; of these all
but the centre is read, decompressed and converted without use. Here the rotation and scaling are drawn
before the patch is cut, from the same random numbers in the same order, and only the voxels they need are
read: the images equal nnU-Net's.

nnU-Net also samples the label -1, "outside the brain", as a class of its own, so that two classes cost three
interpolations. Here outside counts as background while the labels are sampled, and is sampled separately
where a normalisation needs it. The targets equal nnU-Net's except for single voxels where tumour, brain and
outside meet: there the share of tumour must exceed the sum of both, not each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.nnunet_masking import MaskImageTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from sgnet_nnunet.files import read_json
from sgnet_nnunet.lesions import label_components

OUTSIDE = -1
"""nnU-Net's label of voxels that are 0 in every channel, and of those beyond the case."""

VOLUME = 3
"""Axes of a patch. 2D patches, which nnU-Net cuts from volumes, are loaded by nnU-Net."""

MARGIN = 2
"""Voxels kept around the outermost sample points: one for the interpolation, and one more because nnU-Net
tests by the shortest axis whether a sample is outside; 2 suffice up to five times as long as thin."""


Box = tuple[NDArray[np.int64], NDArray[np.int64]]
"""A part of a patch: the first voxel of each axis, and one past the last."""


class FastSpatialTransform(SpatialTransform):
    """nnU-Net's rotation and scaling, drawn before the patch is cut.

    Without `look_ahead` it equals `SpatialTransform`. Elastic deformation and a random centre are not
    supported: the sample points must be an affine image of the patch, so that its corners bound them.
    """

    keeps_outside = True
    """Whether background outside the brain keeps its label -1."""

    _drawn: dict[str, Any] | None = None

    @classmethod
    def take_over(cls, transform: SpatialTransform, *, keeps_outside: bool) -> "FastSpatialTransform":
        """Return a transform with the settings of another."""
        fast = cls.__new__(cls)
        fast.__dict__.update(transform.__dict__)
        fast.keeps_outside = keeps_outside
        fast.padding_value_seg = 0
        return fast

    def look_ahead(self, shape: Sequence[int]) -> Box:
        """Draw the rotation and scaling of the next patch, given its shape as nnU-Net would cut it.

        Returns the part of that patch that the next call needs to be given.
        """
        whole = np.array(shape)
        drawn = super().get_parameters(image=torch.empty(1).expand(1, *shape))
        if drawn["grid"] is None:
            lower = whole // 2 - np.array(self.patch_size) // 2
            upper = lower + self.patch_size
        else:
            lower, upper = _box_of(drawn["grid"], whole)
            drawn["grid"] = _move_grid(drawn["grid"], whole, (lower, upper))
        drawn["center_location_in_pixels"] = list((upper - lower) / 2)
        self._drawn = drawn
        return lower, upper

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return what `look_ahead` drew, or draw now."""
        drawn, self._drawn = self._drawn, None
        return super().get_parameters(**data_dict) if drawn is None else drawn

    def _apply_to_segmentation(self, segmentation: Tensor, **params: Any) -> Tensor:  # noqa: ANN401
        labels = super()._apply_to_segmentation(segmentation.clamp_min(0), **params)
        if not self.keeps_outside:
            return labels
        inside = super()._apply_to_segmentation((segmentation >= 0).to(segmentation.dtype), **params)
        return labels.masked_fill((labels == 0) & (inside == 0), OUTSIDE)


@dataclass(frozen=True, kw_only=True)
class OwnFalsePositives:
    """The network's own false positives in its training cases, and how many patches are cut around them.

    Attributes:
        path: JSON file with `epoch`, when they were found, and `voxels`, of each case the centre of each
            false positive, z, y, x. Loading processes read it again when it has changed.
        share: Share of the patches of a batch, up to those that are not cut around foreground.
    """

    path: Path
    share: float

    @property
    def epoch(self) -> int:
        """When the false positives were found, 0 if they were not."""
        return int(read_json(self.path)["epoch"]) if self.path.is_file() else 0


def false_positives_of(predicted: NDArray[np.bool_], labels: NDArray[np.integer]) -> list[list[int]]:
    """Return the centre, in voxels, of each predicted component without a voxel of a label above 0.

    Both have the shape (z, y, x). The ignore label is above 0, so that components there are left out.
    """
    components = label_components(predicted, 1.0)
    false = np.setdiff1d(np.arange(1, components.number + 1), components.labels[labels > 0])
    centres = ndimage.center_of_mass(predicted.astype(np.uint8), components.labels, false)
    return [[round(place) for place in centre] for centre in centres]


class FastDataLoader(nnUNetDataLoader):
    """nnU-Net's loader, reading what a `FastSpatialTransform` needs if that is the first transform.

    With `own_false_positives`, so many patches are cut around voxels of its file, each with the same
    probability, in place of patches from anywhere.
    """

    _changed = -1
    _places: Sequence[tuple[str, Sequence[int]]] = ()
    _centres: Sequence[Sequence[int] | None] = ()

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        own_false_positives: OwnFalsePositives | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(*args, **kwargs)
        self.own_false_positives = own_false_positives

    def get_indices(self) -> Any:  # noqa: ANN401
        """Return the cases of the next batch; draw which of its patches are cut around a false positive."""
        cases, own = super().get_indices(), self.own_false_positives
        if own is None or not own.path.is_file():
            return cases
        if own.path.stat().st_mtime_ns != self._changed:
            self._changed = own.path.stat().st_mtime_ns
            found = read_json(own.path)["voxels"]
            self._places = [(case, voxel) for case in self.indices for voxel in found.get(case, ())]
        if not self._places:
            return cases
        cases = list(cases)
        centres: list[Sequence[int] | None] = [None] * len(cases)
        free = [place for place in range(len(cases)) if not self.get_do_oversample(place)]
        for place in free:
            if np.random.uniform() < own.share * len(cases) / len(free):  # noqa: NPY002
                drawn = np.random.choice(len(self._places))  # noqa: NPY002
                cases[place], centres[place] = self._places[drawn]
        self._centres = centres
        return cases

    def get_bbox(
        self,
        data_shape: Any,  # noqa: ANN401
        force_fg: bool,
        class_locations: Any,  # noqa: ANN401
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> tuple[list[int], list[int]]:
        """Return the part of nnU-Net's patch that is needed, in voxels of the case: lower, upper."""
        if self._centres:
            centre, *self._centres = self._centres
            if centre is not None:
                force_fg, class_locations = True, {1: [(0, *centre)]}
        lower, upper = super().get_bbox(data_shape, force_fg, class_locations, *args, **kwargs)
        first = self.transforms.transforms[0] if isinstance(self.transforms, ComposeTransforms) else None
        if not isinstance(first, FastSpatialTransform):
            return lower, upper
        box = first.look_ahead([end - start for start, end in zip(lower, upper, strict=True)])
        first_voxel, end_voxel = (np.add(lower, edge).astype(int).tolist() for edge in box)
        return first_voxel, end_voxel


def use_fast_loading(pipeline: ComposeTransforms) -> None:
    """Replace the first of a training's transforms by a `FastSpatialTransform`, where that is possible."""
    first, *others = pipeline.transforms
    if not isinstance(first, SpatialTransform) or len(first.patch_size) != VOLUME:
        return
    if first.p_elastic_deform or first.random_crop:
        return
    keeps_outside = any(isinstance(step, MaskImageTransform) for step in others)
    if not keeps_outside:
        others = [step for step in others if not isinstance(step, RemoveLabelTransform)]
    pipeline.transforms = [FastSpatialTransform.take_over(first, keeps_outside=keeps_outside), *others]


def _box_of(grid: Tensor, whole: NDArray[np.int64]) -> Box:
    """Return the part of a patch of shape `whole` that the sample points interpolate from.

    The grid, shape (z, y, x, 3), is as `grid_sample` takes it: x first, in [-1, 1] from edge to edge of the
    outermost voxels.
    """
    corners = grid[:: grid.shape[0] - 1, :: grid.shape[1] - 1, :: grid.shape[2] - 1]
    voxels = ((corners.reshape(-1, 3).flip(1).double().numpy() + 1) * whole - 1) / 2
    lower = np.floor(voxels.min(0)).astype(np.int64) - MARGIN
    upper = np.ceil(voxels.max(0)).astype(np.int64) + 1 + MARGIN
    return np.clip(lower, 0, whole - 1), np.clip(upper, 1, whole)


def _move_grid(grid: Tensor, whole: NDArray[np.int64], box: Box) -> Tensor:
    """Return the sample points relative to a part of the patch; `grid` is overwritten."""
    lower, upper = box
    size = upper - lower
    scale = torch.from_numpy(whole / size).flip(0).float()
    shift = torch.from_numpy((whole - 2 * lower) / size - 1).flip(0).float()
    return grid.mul_(scale).add_(shift)
