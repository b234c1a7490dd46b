"""One phantom patient, from the generator to four volumes."""

import numpy as np
from numpy.typing import NDArray

from sgnet_nnunet.dataset.collection import Part
from sgnet_nnunet.nifti import Grid, Volume
from sgnet_nnunet.phantom.anatomy import draw_anatomy
from sgnet_nnunet.phantom.config import PhantomConfig
from sgnet_nnunet.phantom.fields import MAJORITY
from sgnet_nnunet.phantom.scanner import ORIENTATIONS, acquire, draw_flair_grid, render, sample, slice_thick
from sgnet_nnunet.phantom.tumours import draw_lesions, rasterise
from sgnet_nnunet.phantom.vessels import draw_distractors

_ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"))

_SEEN = 0.15
"""Fraction of a thick slice from which a core is drawn in it: small lesions fill no slice by half."""


def patient_rng(seed: int, index: int) -> np.random.Generator:
    """Return the generator of patient `index`; it does not depend on the number of patients."""
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(index,)))


def draw_ids(rng: np.random.Generator) -> tuple[str, str]:
    """Draw the ids of a patient and of the only visit (`YG_`, 12 characters): the generator's first draw."""
    patient, accession = ("YG_" + "".join(rng.choice(_ALPHABET, 12)) for _ in range(2))
    return patient, accession


def draw_patient(rng: np.random.Generator, config: PhantomConfig) -> dict[Part, Volume]:
    """Draw the four volumes of one visit.

    Images are int16 and exactly 0 outside the brain; masks are uint8, 0 and 1. Images and masks
    of a sequence share one grid. The core, sampled onto the FLAIR grid, lies inside the whole tumour.
    """
    anatomy = draw_anatomy(rng, config)
    lesions = rasterise(rng, anatomy, draw_lesions(rng, anatomy, config), config)
    distractors = draw_distractors(rng, anatomy, config)
    t1ce_signal = render(rng, "t1ce", anatomy, lesions, distractors)
    flair_signal = render(rng, "flair", anatomy, lesions, distractors)

    grid = draw_flair_grid(rng, anatomy.grid, config)
    core = lesions.core > MAJORITY
    whole = slice_thick(lesions.whole, anatomy.grid, grid) > MAJORITY
    whole |= slice_thick(lesions.core, anatomy.grid, grid) > _SEEN
    whole |= sample(core, anatomy.grid, grid, order=0) > 0
    brain = whole | (sample(anatomy.brain.astype(np.float32), anatomy.grid, grid, order=1) > MAJORITY)
    flair_signal = slice_thick(flair_signal, anatomy.grid, grid)
    t1ce, flair = (
        acquire(rng, *scene, noise=rng.uniform(*config.noise), bias=rng.uniform(*config.bias))
        for scene in ((t1ce_signal, anatomy.brain, anatomy.grid), (flair_signal, brain, grid))
    )
    t1ce_codes, flair_codes = (str(code) for code in rng.choice(ORIENTATIONS, 2))
    drawn: dict[Part, tuple[NDArray[np.generic], Grid, str]] = {
        "t1ce_img": (t1ce, anatomy.grid, t1ce_codes),
        "flair_img": (flair, grid, flair_codes),
        "core_seg": (core.astype(np.uint8), anatomy.grid, t1ce_codes),
        "whole_seg": (whole.astype(np.uint8), grid, flair_codes),
    }
    return {part: Volume(data, at.affine).oriented(codes) for part, (data, at, codes) in drawn.items()}
