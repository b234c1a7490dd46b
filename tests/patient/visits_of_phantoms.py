"""Folders of `sgnet segment` made from masks, and two visits of a phantom whose lesions change as drawn."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from sgnet_nnunet.files import write_json
from sgnet_nnunet.lesions import find_lesions
from sgnet_nnunet.nifti import Grid, Volume, write_volume
from sgnet_nnunet.patient.lesion_table import measure_lesions, write_lesions_json
from sgnet_nnunet.phantom.anatomy import draw_anatomy
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.fields import centred_grid, rotation
from sgnet_nnunet.phantom.scanner import acquire, render, sample
from sgnet_nnunet.phantom.tumours import LesionMaps, draw_lesions, rasterise
from sgnet_nnunet.phantom.vessels import Distractors, draw_distractors

FACTORS = {"grown": (1.25, 1.7), "shrunk": (0.45, 0.8)}
"""Of the diameter."""

FATES = ("grown", "shrunk", "stable", "gone", "new")


def write_visit(folder: Path, brain: Volume, mask: np.ndarray, **run) -> Path:
    """Write what `sgnet follow` reads of a folder of `sgnet segment`; the mask has the brain's shape."""
    folder.mkdir(parents=True)
    lesions = find_lesions(mask, spacing=brain.grid.spacing)
    kept = np.ones(lesions.number, dtype=bool)
    found = measure_lesions(lesions, kept, probability=mask.astype(np.float32), brain=brain)
    write_volume(folder / "t1ce.nii.gz", brain)
    write_volume(folder / "mask.nii.gz", Volume(mask.astype(np.uint8), brain.affine))
    write_lesions_json(folder / "lesions.json", found.records)
    write_json(folder / "run.json", {"format": "sgnet segment", "version": 1, "settings": {}} | run)
    return folder


@dataclass(frozen=True)
class Fate:
    """What was made of a lesion: the centre in the first visit's world, and the diameters in mm."""

    name: str
    centre: np.ndarray
    diameters: tuple[float, float]


def draw_pair(rng: np.random.Generator, root: Path) -> tuple[list[Path], list[Fate], float]:
    """Write two visits of a phantom; the head has moved, and grid, contrast, noise and bias are others.

    Returns:
        Both folders, the lesions' fates, and the length of a voxel of the coarser scan in mm.
    """
    config = PhantomConfig(extra_lesions_median=9.0, extra_lesions_sigma=0.1, diameter_limits=(5.0, 20.0))
    anatomy = draw_anatomy(rng, config)
    distractors = draw_distractors(rng, anatomy, config)
    lesions = [replace(each, reach=0.0) for each in draw_lesions(rng, anatomy, config)]
    fates = rng.permutation([FATES[index % len(FATES)] for index in range(len(lesions))])
    fates[(fates == "grown") & is_crowded(lesions, anatomy.grid)] = "stable"
    seeds = rng.integers(2**32, size=len(lesions))
    scales = [(fate != "new", scale_of(rng, fate)) for fate in fates]
    bodies = [
        [draw_lesion(anatomy, lesion, seed, scale, config) for scale in both]
        for lesion, seed, both in zip(lesions, seeds, scales, strict=True)
    ]
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = rotation(rng.normal(0, 5, 3)), rng.normal(0, 15, 3)
    folders, steps = [], []
    for visit, world in enumerate((np.eye(4), move)):
        maps = merge([both[visit] for both in bodies], anatomy.grid.shape)
        signal = render(rng, "t1ce", anatomy, maps, distractors)
        grid = Grid(anatomy.grid.shape, world @ anatomy.grid.affine)
        there = grid
        if visit:
            centre = (world @ anatomy.grid.affine @ [*(np.array(grid.shape) / 2), 1])[:3]
            spacing = rng.uniform(0.9, 1.2, 3)
            turn = rotation(rng.normal(0, 3, 3))
            there = centred_grid(centre=centre, extent=grid.extent + 20, spacing=spacing, turn=turn)
        brain = sample(anatomy.brain.astype(np.float32), grid, there, order=1) > 0.5
        mask = sample(maps.core, grid, there, order=1) > 0.5
        scan = acquire(rng, sample(signal, grid, there, order=1), brain | mask, there,
                       noise=rng.uniform(*config.noise), bias=rng.uniform(*config.bias))  # fmt: skip
        steps.append(np.cbrt(there.voxel_mm3))
        volume = Volume(scan.astype(np.float32), there.affine)
        folders.append(write_visit(root / f"visit{visit + 1}", volume, mask))
    made = [
        Fate(str(fate), anatomy.grid.world(np.array([lesion.centre]))[0], diameters_of(both, anatomy.grid))
        for fate, lesion, both in zip(fates, lesions, bodies, strict=True)
    ]
    return folders, made, max(steps)


class SmallPhantom:
    """A brain of an eighth of the volume, without vessels, noise and bias, to be scanned in any position."""

    def __init__(self, seed: int) -> None:
        config = PhantomConfig(
            brain_scale=(0.45, 0.45), extra_lesions_median=4.0, extra_lesions_sigma=0.1, faint_fraction=0.0,
            diameter_limits=(7.0, 16.0), diameter_median=10.0, ring_fraction=0.0, oedema_fraction=0.0,
            max_core_fraction=0.05, max_tumour_fraction=0.1,
        )  # fmt: skip
        rng = np.random.default_rng(seed)
        anatomy = draw_anatomy(rng, config)
        self.grid = anatomy.grid
        lesions = rasterise(rng, anatomy, draw_lesions(rng, anatomy, config), config)
        none = Distractors(*np.zeros((len(fields(Distractors)), *self.grid.shape), dtype=np.float32))
        self.brain = anatomy.brain.astype(np.float32)
        self.signals = [render(rng, name, anatomy, lesions, none) for name in ("t1ce", "flair")]

    def scan(self, turn: np.ndarray) -> list[Volume]:
        """Return T1ce and FLAIR; the scanner's axes are turned by a rotation matrix, the head stays."""
        centre = self.grid.world((np.array([self.grid.shape]) - 1) / 2)[0]
        spacing = np.array(self.grid.spacing)
        there = self.grid
        if not np.allclose(turn, np.eye(3)):
            there = centred_grid(centre=centre, extent=self.grid.extent * 1.2, spacing=spacing, turn=turn)
        inside = sample(self.brain, self.grid, there, order=1) > 0.5
        scans = (sample(signal, self.grid, there, order=3) for signal in self.signals)
        return [Volume(np.where(inside, np.maximum(600 * each, 1), 0), there.affine) for each in scans]


def is_crowded(lesions, grid: Grid) -> np.ndarray:
    """Return which lesions would reach another one if both grew as much as they can."""
    centres = grid.world(np.array([lesion.centre for lesion in lesions]))
    radii = FACTORS["grown"][1] * np.array([max(lesion.radii) for lesion in lesions])
    gaps = np.linalg.norm(centres[:, None] - centres, axis=2) - 1.3 * (radii[:, None] + radii)
    return (gaps + 1e3 * np.eye(len(lesions)) < 0).any(axis=1)


def scale_of(rng: np.random.Generator, fate: str) -> float:
    return 0.0 if fate == "gone" else float(rng.uniform(*FACTORS.get(fate, (1.0, 1.0))))


def draw_lesion(anatomy, lesion, seed: int, scale: float, config: PhantomConfig) -> LesionMaps | None:
    """Return the maps of a lesion, its diameter scaled, always with the same surface; None for no lesion."""
    if not scale:
        return None
    scaled = replace(lesion, radii=tuple(scale * radius for radius in lesion.radii))
    maps = rasterise(np.random.default_rng(seed), anatomy, [scaled], config)
    # A rough surface sheds voxels, which would be lesions that nobody made.
    parts = find_lesions(maps.core > 0.5, spacing=anatomy.grid.spacing)
    maps.core[(parts.labels > 0) & (parts.labels != 1 + parts.voxels.argmax())] = 0.2
    return maps


def merge(bodies: list[LesionMaps | None], shape: tuple[int, ...]) -> LesionMaps:
    core, necrosis, enhancement = (np.zeros(shape, dtype=np.float32) for _ in range(3))
    for body in bodies:
        if body is not None:
            larger = body.core > core
            for total, part in (
                (necrosis, body.necrosis),
                (enhancement, body.enhancement),
                (core, body.core),
            ):
                total[larger] = part[larger]
    none = np.zeros(shape, dtype=np.float32)
    return LesionMaps(core, necrosis, enhancement, oedema=none, swelling=none)


def diameters_of(both: list[LesionMaps | None], grid: Grid) -> tuple[float, float]:
    volumes = [0 if body is None else np.count_nonzero(body.core > 0.5) * grid.voxel_mm3 for body in both]
    first, second = np.cbrt(np.multiply(6 / np.pi, volumes))
    return float(first), float(second)
