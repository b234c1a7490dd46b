"""Signal of each tissue in a contrast-enhanced T1 and in a FLAIR, relative to white matter in each."""

from dataclasses import dataclass

import numpy as np

from sgnet_nnunet.phantom.anatomy import Anatomy
from sgnet_nnunet.phantom.distractors import Distractors
from sgnet_nnunet.phantom.fields import SmoothField
from sgnet_nnunet.phantom.grid import FloatArray
from sgnet_nnunet.phantom.lesions import LesionMaps


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Signal levels of one patient in one sequence, white matter being 1.

    Attributes:
        gm: Grey matter.
        csf: Cerebrospinal fluid.
        detail: Weight of the T1 average's fine contrast.
        texture: Standard deviation of the slow variation within tissue.
        enhancing: Enhancing tumour.
        necrosis: Necrotic centre of a tumour.
        oedema: Oedema.
        vessel: Vessels and sinuses.
        plexus: Choroid plexus.
        meninges: Meninges.
        white_matter_lesion: White-matter hyperintensity as FLAIR shows it.
    """

    gm: float
    csf: float
    detail: float
    texture: float
    enhancing: float
    necrosis: float
    oedema: float
    vessel: float
    plexus: float
    meninges: float
    white_matter_lesion: float


def draw_t1ce_contrast(rng: np.random.Generator) -> Contrast:
    """Draw the levels of a contrast-enhanced T1: fluid dark, lesions and vessels bright."""
    return Contrast(
        gm=rng.uniform(0.72, 0.84),
        csf=rng.uniform(0.22, 0.36),
        detail=rng.uniform(0.7, 1.0),
        texture=rng.uniform(0.012, 0.022),
        enhancing=rng.uniform(1.45, 2.0),
        necrosis=rng.uniform(0.4, 0.62),
        oedema=rng.uniform(0.76, 0.86),
        vessel=rng.uniform(1.5, 2.1),
        plexus=rng.uniform(1.35, 1.9),
        meninges=rng.uniform(1.2, 1.6),
        white_matter_lesion=rng.uniform(0.82, 0.92),
    )


def draw_flair_contrast(rng: np.random.Generator) -> Contrast:
    """Draw the levels of a FLAIR: fluid and flowing blood dark, oedema and white-matter lesions bright."""
    return Contrast(
        gm=rng.uniform(1.12, 1.27),
        csf=rng.uniform(0.2, 0.4),
        detail=rng.uniform(-0.1, 0.1),
        texture=rng.uniform(0.02, 0.035),
        enhancing=rng.uniform(1.2, 1.6),
        necrosis=rng.uniform(0.8, 1.7),
        oedema=rng.uniform(1.6, 2.0),
        vessel=rng.uniform(0.4, 0.7),
        plexus=rng.uniform(0.9, 1.3),
        meninges=rng.uniform(0.9, 1.2),
        white_matter_lesion=rng.uniform(1.45, 1.8),
    )


def render(
    rng: np.random.Generator,
    contrast: Contrast,
    anatomy: Anatomy,
    lesions: LesionMaps,
    distractors: Distractors,
) -> FloatArray:
    """Return the noise-free signal on the T1ce grid, 0 outside the brain."""
    extent = anatomy.grid.extent
    axes = anatomy.grid.axes()
    slow = SmoothField(rng, extent, 9.0).on(axes)
    mottle = np.float32(0.8) * slow + np.float32(0.6) * SmoothField(rng, extent, 3.0).on(axes)
    signal = anatomy.wm + contrast.gm * anatomy.gm + contrast.csf * anatomy.csf
    signal += contrast.detail * anatomy.detail
    signal *= 1 + contrast.texture * mottle
    strength = 1 + np.float32(0.06) * slow
    layers = (
        (distractors.white_matter, contrast.white_matter_lesion),
        (lesions.oedema, contrast.oedema * strength),
        (distractors.meninges, contrast.meninges),
        (distractors.plexus, contrast.plexus),
        (distractors.vessels, contrast.vessel),
        (distractors.sinuses, contrast.vessel),
        (lesions.core, 1 + (contrast.enhancing - 1) * lesions.enhancement * strength),
        (lesions.necrosis * lesions.core, contrast.necrosis),
    )
    for fraction, level in layers:
        signal += fraction * (level - signal)
    return np.where(anatomy.brain, np.maximum(signal, 0), 0).astype(np.float32)
