"""The component rejector: features of predicted lesions, and boosted trees that tell false ones by them.

`sgnet tune --rejector` fits the trees (`evaluation.rejection`), and the operating point's file has them as
lists of numbers: prediction needs neither scikit-learn nor a pickle.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from sgnet_nnunet.errors import SGNetError
from sgnet_nnunet.schemas import Finite

if TYPE_CHECKING:
    from sgnet_nnunet.inference.preprocessing import Prepared
    from sgnet_nnunet.lesions import Lesions

RING_MM = 3.0
"""Width of the ring around a lesion that its contrast is measured against."""

SURFACE_MM = 3.0
"""Step of the grid on which distances to the brain's surface are computed."""

ROUNDING = 1e-6
"""Values of the background that differ by less are equal: they are interpolated."""

GATE = "gate_score_"

_Index = Annotated[int, Meta(ge=-1, le=1 << 16)]


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A regression tree: lists of its nodes, parents before their children.

    Attributes:
        feature: Index of the feature that decides at a node, -1 at a leaf.
        threshold: Values up to it go left.
        nan_left: Whether NaN goes left.
        left: Node on the left, -1 at a leaf; likewise `right`.
        value: What a leaf adds to the score, in logits.

    Raises:
        ValueError: If the lists differ in length, or a child does not follow its parent.
    """

    feature: tuple[_Index, ...]
    threshold: tuple[Finite, ...]
    nan_left: tuple[bool, ...]
    left: tuple[_Index, ...]
    right: tuple[_Index, ...]
    value: tuple[Finite, ...]

    def __post_init__(self) -> None:
        nodes = len(self.feature)
        children = zip(self.feature, self.left, self.right, strict=False)
        follow = all(
            feature < 0 or node < min(left, right) <= max(left, right) < nodes
            for node, (feature, left, right) in enumerate(children)
        )
        if not nodes or any(len(values) != nodes for values in vars(self).values()) or not follow:
            raise ValueError("`feature`, `threshold`, `nan_left`, `left`, `right` and `value` make no tree")

    def values_of(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the value of each row's leaf, shape (rows,); the features have shape (rows, features)."""
        feature, threshold, nan_left, left, right, value = map(np.array, vars(self).values())
        rows = np.arange(len(features))
        node: NDArray[np.intp] = np.zeros(len(features), dtype=np.intp)
        while (inner := feature[node] >= 0).any():
            found = features[rows, feature[node]]
            goes_left = np.where(np.isnan(found), nan_left[node], found <= threshold[node])
            node = np.where(inner, np.where(goes_left, left[node], right[node]), node)
        return np.asarray(value[node], dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Rejector:
    """Boosted trees that score predicted lesions; those below a minimum score are removed.

    Attributes:
        features: Names of the features, see `component_features`.
        baseline: What the trees' values are added to.
        min_score: In logits of the probability of a true lesion.

    Raises:
        ValueError: If a tree asks for a feature that is not named.
    """

    features: Annotated[tuple[str, ...], Meta(min_length=1, max_length=1000)]
    baseline: Finite
    trees: Annotated[tuple[Tree, ...], Meta(max_length=10_000)]
    min_score: Finite

    def __post_init__(self) -> None:
        if any(max(tree.feature) >= len(self.features) for tree in self.trees):
            raise ValueError("`trees` ask for more than the `features`")

    def scores(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the score of each lesion, in logits, shape (lesions,); features (lesions, features)."""
        return sum((tree.values_of(features) for tree in self.trees), np.full(len(features), self.baseline))

    def keeps(self, features: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which lesions are kept, shape (lesions,); features (lesions, features)."""
        return np.asarray(self.scores(features) >= self.min_score)

    def summary(self) -> dict[str, Any]:
        """Return what records of a prediction say of it, its checksum among it."""
        content = json.dumps(asdict(self), sort_keys=True).encode()
        checksum = hashlib.sha256(content).hexdigest()
        return {"sha256": checksum, "features": self.features, "min_score": self.min_score}


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """A preprocessed image, and how voxels of an array of probabilities lie in it.

    Attributes:
        image: Shape (channels, z, y, x) on the network's grid.
        gate_scores: Logits of each gate on its own grid, (z, y, x), by `SGNet.gate_names`; NaN where not
            computed, and no entry where the engine does not give them.
        spacing: Voxel size in mm on the network's grid.
        lateral: Axis of the image that runs from left to right.
        axes: Axis of the array for each of the network's axes.
        first: Voxel of the array, along these axes, that the image starts at.
        scale: Voxels of the image for each of the array's.
    """

    image: NDArray[np.float32]
    gate_scores: Mapping[str, NDArray[np.float32]]
    spacing: tuple[float, ...]
    lateral: int
    axes: tuple[int, ...]
    first: tuple[int, ...]
    scale: tuple[float, ...]

    @classmethod
    def of(
        cls, prepared: "Prepared", forward: Sequence[int], gate_scores: Mapping[str, NDArray[np.float32]]
    ) -> "Scene":
        """Return the scene for arrays on the image's whole grid with the reader's axes (z, y, x).

        `forward` is the plan's `transpose_forward`.
        """
        known, shape = prepared.properties, prepared.image.shape[1:]
        cropped = known["shape_after_cropping_and_before_resampling"]
        scale = tuple(new / old for new, old in zip(shape, cropped, strict=True))
        return cls(
            image=prepared.image,
            gate_scores=gate_scores,
            spacing=tuple(known["spacing"][axis] / by for axis, by in zip(forward, scale, strict=True)),
            lateral=list(forward).index(2),
            axes=tuple(forward),
            first=tuple(start for start, _ in known["bbox_used_for_cropping"]),
            scale=scale,
        )

    def of_crop(self, start: Sequence[int]) -> "Scene":
        """Return the scene for an array of the network's axes that starts at a voxel of the crop."""
        return replace(self, axes=(0, 1, 2), first=tuple(-voxel for voxel in start))

    def places(self, voxels: NDArray[np.number]) -> NDArray[np.intp]:
        """Return where voxels of the array, (n, 3), are on the network's grid, (n, 3); maybe outside."""
        moved = (voxels[:, self.axes] - np.array(self.first) + 0.5) * np.array(self.scale)
        return np.asarray(np.floor(moved), dtype=np.intp)

    def clipped(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return places (n, 3) with those outside the image moved to its border."""
        return np.asarray(places.clip(0, np.array(self.image.shape[1:]) - 1))

    @cached_property
    def brain(self) -> NDArray[np.bool_]:
        """Where the first channel is not its background, the value of the image's corners; (z, y, x)."""
        first = self.image[0]
        corners = first[np.ix_(*((0, length - 1) for length in first.shape))]
        background = corners[0, 0, 0]
        if (np.abs(corners - background) > ROUNDING).any():
            return np.ones_like(first, dtype=np.bool_)
        return np.asarray(np.abs(first - background) > ROUNDING)

    @cached_property
    def _steps(self) -> tuple[int, ...]:
        return tuple(max(1, int(SURFACE_MM // step)) for step in self.spacing)

    @cached_property
    def _depth(self) -> NDArray[np.float32]:
        """Distance in mm to the brain's surface, on every few voxels of the image."""
        from scipy import ndimage  # noqa: PLC0415

        from sgnet_nnunet.inference.preprocessing import fill_holes  # noqa: PLC0415

        coarse = np.pad(self.brain[tuple(slice(None, None, step) for step in self._steps)], 1)
        sampling = [step * size for step, size in zip(self._steps, self.spacing, strict=True)]
        depth = ndimage.distance_transform_edt(fill_holes(coarse), sampling=sampling)
        return np.asarray(depth[1:-1, 1:-1, 1:-1], dtype=np.float32)

    def position(self, centre: NDArray[np.float64]) -> dict[str, float]:
        """Return the distances in mm of a voxel of the array from the brain's surface and the middle."""
        place = self.places(centre[None])
        depth = self._depth[tuple((self.clipped(place)[0] // self._steps).tolist())]
        middle = (self.image.shape[1 + self.lateral] - 1) / 2
        lateral = abs(place[0, self.lateral] - middle) * self.spacing[self.lateral]
        return {"surface_mm": float(depth), "middle_mm": float(lateral)}


def component_features(
    lesions: "Lesions", foreground: NDArray[np.floating], scene: Scene, spacing: Sequence[float]
) -> dict[str, NDArray[np.float64]]:
    """Return the features of lesions, each of shape (lesions,), by name.

    `length_mm`, `elongation`, `flatness` and `compactness` are those of the ellipsoid of the same second
    moments: its longest axis, that by the shortest, the middle one by the shortest, and the lesion's volume
    by the ellipsoid's. `rim_entropy` (nats) is the mean over voxels with a neighbour outside. For each
    channel of the preprocessed image, `intensity_N` is the mean inside and `contrast_N` that minus the mean
    of the ring of `RING_MM` in the brain, NaN if there is none. `middle_mm` is the distance from the middle
    of the brain's box, not from an anatomical midline. `gate_score_1/N` are means of a gate's logits.

    Args:
        lesions: Those of the foreground above a threshold.
        foreground: Probability of any foreground, of the axes of the scene's array.
        scene: The preprocessed image.
        spacing: Voxel size in mm along the array's axes.
    """
    rows = []
    for index, box in enumerate(lesions.boxes):
        start = np.array([part.start for part in box])
        inside = lesions.labels[box] == index + 1
        voxels = np.argwhere(inside) + start
        ring = np.argwhere(_ring(lesions.labels, index + 1, box, spacing)) + start - _margin(spacing)
        row = {"volume_mm3": float(lesions.volumes_mm3[index])} | _shape(voxels, lesions.voxel_mm3, spacing)
        row |= _confidence(foreground[box], inside)
        row |= _intensities(scene, voxels, ring) | scene.position(voxels.mean(axis=0))
        rows.append(row | _gate_scores(scene, voxels))
    names = rows[0] if rows else {}
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}


def rejected(
    rejector: Rejector,
    lesions: "Lesions",
    foreground: NDArray[np.floating],
    scene: Scene,
    spacing: Sequence[float],
) -> NDArray[np.bool_]:
    """Return which lesions a rejector removes, shape (lesions,); see `component_features`.

    Raises:
        SGNetError: If the image or the engine lacks a feature.
    """
    found = component_features(lesions, foreground, scene, spacing)
    if not found:
        return np.zeros(lesions.number, dtype=np.bool_)
    if missing := [name for name in rejector.features if name not in found]:
        raise SGNetError(
            f"the operating point's rejector needs {missing[0]}, which this prediction does not have; "
            "predict as it was tuned (gate scores: --engine sparse, not in chunks), or --operating-point none"
        )
    return ~rejector.keeps(np.stack([found[name] for name in rejector.features], axis=1))


def _margin(spacing: Sequence[float]) -> NDArray[np.intp]:
    return np.array([max(1, ceil(RING_MM / step)) for step in spacing])


def _ring(
    labels: NDArray[np.int32], label: int, box: tuple[slice, ...], spacing: Sequence[float]
) -> NDArray[np.bool_]:
    """Return the voxels around a lesion that belong to no lesion, on its box grown by `_margin`.

    The ring may leave the array, which can be a part of the image.
    """
    from scipy import ndimage  # noqa: PLC0415

    grown, padding = [], []
    for part, margin, length in zip(box, _margin(spacing), labels.shape, strict=True):
        low, high = part.start - margin, part.stop + margin
        grown.append(slice(max(low, 0), min(high, length)))
        padding.append((max(-low, 0), max(high - length, 0)))
    around = np.pad(labels[tuple(grown)], padding)
    distance = ndimage.distance_transform_edt(around != label, sampling=spacing)
    return np.asarray((distance <= max(RING_MM, *spacing)) & (around == 0))


def _shape(voxels: NDArray[np.intp], voxel_mm3: float, spacing: Sequence[float]) -> dict[str, float]:
    steps = np.array(spacing)
    points = (voxels - voxels.mean(axis=0)) * steps
    # A voxel is a box: without its own moments a lesion of one voxel has none.
    moments = points.T @ points / len(points) + np.diag(steps**2 / 12)
    short, middle, long = np.sqrt(5 * np.linalg.eigvalsh(moments)).tolist()
    return {
        "length_mm": 2 * long,
        "elongation": long / short,
        "flatness": middle / short,
        "compactness": len(voxels) * voxel_mm3 / (4 / 3 * np.pi * short * middle * long),
    }


def _confidence(foreground: NDArray[np.floating], inside: NDArray[np.bool_]) -> dict[str, float]:
    """Return the features of the probabilities in a lesion's box."""
    padded = np.pad(inside, 1)
    core = inside.copy()
    for axis in range(3):
        for start in (0, 2):
            window = tuple(
                slice(start, start + n) if other == axis else slice(1, 1 + n)
                for other, n in enumerate(inside.shape)
            )
            core &= padded[window]
    values = foreground[inside].astype(np.float64)
    rim = foreground[inside & ~core].astype(np.float64).clip(1e-9, 1 - 1e-9)
    entropy = -(rim * np.log(rim) + (1 - rim) * np.log(1 - rim))
    return {
        "mean_probability": float(values.mean()),
        "max_probability": float(values.max()),
        "rim_entropy": float(entropy.mean()),
    }


def _intensities(scene: Scene, voxels: NDArray[np.intp], ring: NDArray[np.intp]) -> dict[str, float]:
    around = scene.places(ring)
    around = around[(around == scene.clipped(around)).all(axis=1)]
    around = around[scene.brain[tuple(around.T)]]
    inside = scene.image[(slice(None), *scene.clipped(scene.places(voxels)).T)].mean(axis=1, dtype=np.float64)
    outside = scene.image[(slice(None), *around.T)].mean(axis=1, dtype=np.float64) if len(around) else np.nan
    named = {"intensity": inside, "contrast": inside - outside}
    return {f"{name}_{n}": float(value) for name, each in named.items() for n, value in enumerate(each)}


def _gate_scores(scene: Scene, voxels: NDArray[np.intp]) -> dict[str, float]:
    places, found = scene.clipped(scene.places(voxels)), {}
    for name, scores in scene.gate_scores.items():
        values = scores[tuple((places // int(name.partition("/")[2])).T)]
        known = values[np.isfinite(values)]
        found[GATE + name] = float(known.mean(dtype=np.float64)) if known.size else np.nan
    return found
