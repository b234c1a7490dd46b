"""Parameters of a phantom population."""

from dataclasses import dataclass

MOST_PATIENTS = 10_000
"""A hundred gigabytes."""

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""


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
