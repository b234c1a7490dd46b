"""Parameters of a phantom population."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MOST_PATIENTS = 10_000
"""A hundred gigabytes."""

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""

Sequence = Literal["t1ce", "flair"]

Levels = Mapping[str, Mapping[Sequence, Range]]
"""Lowest and highest signal of each tissue in each sequence."""

CALIBRATED_LEVELS: Levels = {
    "gm": {"t1ce": (0.74, 0.81), "flair": (1.32, 1.46)},
    "csf": {"t1ce": (0.22, 0.36), "flair": (0.12, 0.3)},
    "detail": {"t1ce": (0.7, 1.0), "flair": (-0.1, 0.1)},
    "texture": {"t1ce": (0.014, 0.024), "flair": (0.025, 0.05)},
    "cortex": {"t1ce": (0.01, 0.03), "flair": (0.03, 0.05)},
    "rim": {"t1ce": (0.14, 0.18), "flair": (0.06, 0.09)},
    "enhancing": {"t1ce": (0.25, 0.31), "flair": (1.6, 2.0)},
    "necrosis": {"t1ce": (0.69, 0.8), "flair": (1.3, 2.1)},
    "oedema": {"t1ce": (0.76, 0.86), "flair": (2.15, 2.35)},
    "vessel": {"t1ce": (2.35, 3.3), "flair": (0.3, 0.6)},
    "plexus": {"t1ce": (1.5, 1.9), "flair": (1.2, 1.6)},
    "meninges": {"t1ce": (1.3, 2.0), "flair": (2.4, 2.75)},
    "white_matter_lesion": {"t1ce": (0.82, 0.92), "flair": (2.0, 2.12)},
}
"""Signal of each tissue, white matter being 1; one draw a patient.

`detail` is the weight of the T1 average's fine contrast, `texture` and `cortex` the standard deviation of
the variation within tissue and of grey matter from region to region, `rim` the loss at the surface. On T1ce,
`enhancing` is a share of the enhancement of vessels: both follow the dose. Calibrated on real scans by
`benchmarks/calibration.py`.
"""


@dataclass(frozen=True, kw_only=True)
class Pathology:
    """Damage that is no tumour and has no label; by default there is none of it."""

    cavities: int = 0  # old strokes and resection cavities: fluid, with a rim of bright white matter on FLAIR
    cavity_radius: Range = (3.0, 12.0)  # mm
    gliosis: float = 2.0  # thickness of the bright rim, mm
    confluent: float = 0.0  # reach of confluent white-matter disease from the lateral ventricles, mm
    limbic: float = 0.0  # gain of insula, cingulate gyrus and hippocampus on FLAIR


@dataclass(frozen=True, kw_only=True)
class Artefacts:
    """Faults of skull stripping and of the scans; by default there are none.

    Faults of the scans are drawn for each of the two with the chance given.
    """

    missing: float = 0.0  # depth to which patches of cortex are missing, mm
    dura: float = 0.0  # thickness of dura left around the brain in patches, mm
    curve: float = 0.0  # strength of a monotone intensity curve: sigma of the logarithm of its slopes
    chance: float = 0.0  # of each of the following faults
    blur: float = 1.2  # largest sigma along each axis, mm
    thickness: float = 6.0  # largest slice thickness along any axis, mm
    ghosts: float = 0.15  # largest strength of ghosts
    spikes: float = 0.05  # largest amplitude of a spike's wave, relative to white matter
    motion: float = 3.0  # largest displacement of the head, mm
    displaced: float = 0.0  # sigma of FLAIR's displacement against T1ce along each axis, mm


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """Distributions that phantom patients are drawn from; of a `Range` each patient gets one uniform draw."""

    # Size along each axis relative to ICBM152, which is larger than most brains: 1.88 l, not 1.2 to 1.6 l.
    brain_scale: Range = (0.87, 0.95)
    head_angles: tuple[float, float, float] = (6.0, 2.5, 3.0)  # sigma of pitch, roll and yaw, degrees
    warp_coarse: float = 3.0  # sigma of the deformation that shapes the brain, mm
    warp_fine: float = 1.0  # sigma of the deformation that folds gyri anew, mm
    atrophy: Range = (-0.2, 0.7)  # logarithm of the odds that cerebrospinal fluid gains over tissue
    extra_lesions_median: float = 2.0  # of the log-normal number of lesions beyond the first
    extra_lesions_sigma: float = 0.95  # of the number's logarithm
    max_lesions: int = 20
    diameter_median: float = 8.5  # of the log-normal diameter, mm
    diameter_sigma: float = 0.5  # of the diameter's logarithm
    diameter_limits: Range = (3.0, 32.0)  # mm
    # Share of lesions of 8 mm and more with a necrotic centre; in proportion below 8 mm, none below 5 mm.
    ring_fraction: float = 0.55
    oedema_fraction: float = 0.75  # share of lesions of 8 mm and more with oedema; half of it below
    oedema_reach: float = 11.0  # median reach along white matter from a lesion of 10 mm, mm
    faint_fraction: float = 0.15  # share of lesions that enhance faintly
    # Highest share of the brain's volume that cores may take, before their surface is made irregular.
    max_core_fraction: float = 0.008
    # The same of cores and oedema; the mask on thick FLAIR slices can come out a tenth larger.
    max_tumour_fraction: float = 0.016
    vessels: int = 360  # number of cortical vessels
    white_matter_lesions: float = 14.0  # mean number of punctate white-matter hyperintensities
    stripped: Range = (0.6, 2.0)  # depth that skull stripping removes with the skull, mm
    noise: Range = (0.012, 0.03)  # sigma in each channel of the complex signal, relative to white matter
    bias: Range = (0.03, 0.07)  # sigma of the logarithm of the bias field
    t1ce_in_plane: Range = (0.86, 1.04)  # spacing, mm
    t1ce_slice: Range = (1.0, 1.2)  # spacing, mm
    t1ce_blur: Range = (0.44, 0.52)  # sigma of the point spread, mm
    flair_in_plane: Range = (0.6, 0.95)  # spacing, mm
    flair_slice: Range = (3.0, 5.0)  # spacing, mm
    # Sigma of FLAIR's rotation against T1ce about the left-right, front-back and vertical axis, degrees.
    flair_angles: tuple[float, float, float] = (6.0, 1.5, 1.5)
    box_share: Range = (0.36, 0.39)  # share of the field of view that the brain's box takes
    background_above: Range = (8.0, 25.0)  # by which the field of view is higher than the brain, mm
    margin: float = 4.0  # least background around the brain, mm
    levels: Levels = field(default_factory=lambda: CALIBRATED_LEVELS)
    # Whether T1ce's `enhancing` is a share of the vessels' enhancement; without, it is a signal as others.
    follows_dose: bool = True
    rim_thickness: Range = (1.3, 2.0)  # thickness of a ring of no size, mm; a twentieth of its diameter more
    core_texture: float = 0.06  # standard deviation of the core's variation
    oedema_sigma: float = 0.4  # of the logarithm of the oedema's reach
    oedema_edge: float = 3.5  # distance over which oedema fades, mm
    oedema_ragged: float = 0.5  # sigma of the logarithm of the resistance to its spread
    ventricle_closeness: float = 0.02  # closeness to the ventricles, 0 to 1, below which a lesion may grow
    least_depth: float = 0.4  # depth of a lesion's centre under the surface, as a share of its diameter
    pathology: Pathology = Pathology()
    artefacts: Artefacts = Artefacts()
