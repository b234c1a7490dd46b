"""A head with lesions, its files in any order of axes, and a model that finds what is bright."""

import os
from pathlib import Path

import numpy as np
import pytest
from heads import turned
from scipy import ndimage

from sgnet_nnunet.inference.operating_point import Provenance
from sgnet_nnunet.inference.plan import Plan, labels_of
from sgnet_nnunet.inference.predictor import Model, PlanProcessing, PredictionOptions, Predictor
from sgnet_nnunet.nifti import Volume, write_volume

SHAPE, SPACING = (44, 52, 38), (2.0, 2.0, 2.5)
CENTRE = np.array([3.0, -10.0, 20.0])
LESIONS = {  # centre in mm from the head's, radius in mm
    "frontal": ((20.0, 28.0, 15.0), 7.0),
    "occipital": ((-22.0, -32.0, 5.0), 5.0),
    "small": ((18.0, -18.0, 24.0), 3.0),
}


@pytest.fixture(scope="session")
def head():
    """Return T1ce and FLAIR in LPS, as volumes on one grid: a brain in zeros, with bright lesions in T1ce."""
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    affine[:3, 3] = CENTRE - affine[:3, :3] @ (np.array(SHAPE) - 1) / 2
    places = np.indices(SHAPE).reshape(3, -1).T @ affine[:3, :3].T + affine[:3, 3] - CENTRE
    inside = (((places / [36, 45, 38]) ** 2).sum(axis=1) < 1).reshape(SHAPE)
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=SHAPE), 2)
    texture = (texture + texture[::-1]) * 200 + 400
    bright = np.zeros(SHAPE)
    for centre, radius in LESIONS.values():
        distance = np.linalg.norm(places - centre, axis=1).reshape(SHAPE)
        bright = np.maximum(bright, np.clip((radius - distance) / 2 + 0.5, 0, 1))
    t1ce = np.where(inside, np.maximum(texture, 1) + 600 * bright, 0).astype(np.float32)
    flair = np.where(inside, np.maximum(texture, 1) + 300 * ndimage.gaussian_filter(bright, 1.5), 0)
    return Volume(t1ce, affine), Volume(flair.astype(np.float32), affine)


@pytest.fixture(scope="session")
def write_head(head):
    """Return a function that writes the head's files to a folder and returns their paths."""

    def write(folder, codes="LPS", *, suffix=".nii.gz", **move):
        folder.mkdir(exist_ok=True)
        paths = {}
        for name, volume in zip(("t1ce", "flair"), head, strict=True):
            paths[name] = folder / f"{name}{suffix}"
            write_volume(paths[name], turned(volume, codes, **move))
        return paths

    return write


@pytest.fixture
def write_patient(write_head, tmp_path):
    """Return a function that writes the head's files and returns their paths."""
    return lambda codes="LPS", *, folder=None, **how: write_head(folder or tmp_path / "scans", codes, **how)


@pytest.fixture
def native_scans():
    """Return the files of one real patient as the scanner gave them, by channel."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SGNET_REAL_DATA", default)) / "real_native_grids"
    if not folder.is_dir():
        pytest.skip(f"no real scans in {folder}: set SGNET_REAL_DATA to the folder that holds them")
    return {path.name.split("_")[1].removesuffix(".nii.gz"): path for path in folder.glob("*.nii.gz")}


class Bright:
    """A network for which T1ce above 750 is foreground; its gate is open where the image is above 500."""

    channels, heads = 2, 2

    def __init__(self):
        self.images = []
        self.gates = {}

    def logits(self, image):
        self.images.append(image.copy())
        score = (image[0] - 750) / 60
        z, y, x = (-(-n // 2) * 2 for n in score.shape)
        padded = np.zeros((z, y, x), dtype=np.float32)
        padded[tuple(slice(n) for n in score.shape)] = image[0]
        self.gates = {"1/2": padded.reshape(z // 2, 2, y // 2, 2, x // 2, 2).max(axis=(1, 3, 5)) > 500}
        return np.stack([-score, score]) / 2


@pytest.fixture(scope="session")
def make_predictor():
    """Return a function that returns a predictor with that network, whose engine keeps its images."""

    def make(*, point=None, channels=("T1ce", "FLAIR"), reader="NibabelIOWithReorient", spacing=2.0, **plans):
        labels = {"background": 0, "whole_tumor": 1}
        plan = Plan(
            plans={"transpose_forward": [0, 1, 2], **plans},
            dataset={"labels": labels},
            reader=reader,
            file_ending=".nii.gz",
            channels=channels,
            labels=labels_of(labels, None),
            transpose_forward=(0, 1, 2),
            transpose_backward=(0, 1, 2),
            spacing=(spacing,) * 3,
            normalisations=("NoNormalization",) * len(channels),
            masked=(False,) * len(channels),
            intensities=({},) * len(channels),
        )
        engine = Bright()
        engine.channels = len(channels)
        model = Model(
            folder=Path("model"),
            description=plan,
            processing=PlanProcessing(plan),
            build_engine=lambda: engine,
            device="cpu",
            find_provenance=lambda: Provenance(
                model="D/M", engine="sparse", folds=("0",), weights_sha256="abc"
            ),
        )
        return Predictor([model], options=PredictionOptions(), point=point)

    return make
