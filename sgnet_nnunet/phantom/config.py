"""What a phantom population looks like."""

from dataclasses import dataclass

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """Distributions that phantom patients are drawn from.

    Ranges are (low, high) of a uniform draw, one draw a patient.

    Attributes:
        brain_scale: Size of the brain relative to ICBM152, along each axis. ICBM152 is larger than
            most brains (1.88 l within its mask, against 1.2 to 1.6 l).
        head_angles: Standard deviation of the head's pitch, roll and yaw in the scanner, in degrees.
        warp_coarse: Standard deviation of the deformation that shapes the brain, in mm.
        warp_fine: Standard deviation of the deformation that folds gyri anew, in mm.
        atrophy: Logarithm of the odds that cerebrospinal fluid gains over tissue.
        extra_lesions_median: Median of the log-normal number of lesions beyond the first.
        extra_lesions_sigma: Standard deviation of the logarithm of that number; large is heavy-tailed.
        diameter_median: Median of the log-normal lesion diameter, in mm.
        diameter_sigma: Standard deviation of the logarithm of the diameter.
        diameter_limits: Smallest and largest diameter, in mm.
        ring_fraction: Share of lesions of 8 mm and more with a necrotic centre; smaller ones have
            it in proportion to their diameter, and those under 5 mm never.
        oedema_fraction: Share of lesions of 8 mm and more with oedema; half as many of the smaller.
        oedema_reach: Median reach of oedema along white matter from a lesion of 10 mm, in mm.
        faint_fraction: Share of lesions that enhance faintly.
        max_core_fraction: Highest share of the brain's volume that lesion cores may take, give or take
            the irregularity of their surface.
        max_tumour_fraction: Highest share of the brain's volume that cores and oedema may take; the mask on
            thick FLAIR slices can come out a tenth larger.
        white_matter_lesions: Mean number of punctate white-matter hyperintensities.
        noise: Noise of each channel in the scanner's complex signal, relative to white matter.
        bias: Standard deviation of the logarithm of the bias field.
        t1ce_in_plane: In-plane spacing of T1ce, in mm; `t1ce_slice` is that of its slices.
        flair_in_plane: In-plane spacing of FLAIR, in mm; `flair_slice` is that of its slices.
        flair_angles: Standard deviation of the rotation of FLAIR against T1ce about the left-right,
            front-back and vertical axis, in degrees.
        margin: Background kept around the brain, in mm.
    """

    brain_scale: Range = (0.87, 0.95)
    head_angles: tuple[float, float, float] = (6.0, 2.5, 3.0)
    warp_coarse: float = 3.0
    warp_fine: float = 1.0
    atrophy: Range = (-0.2, 0.9)
    extra_lesions_median: float = 2.0
    extra_lesions_sigma: float = 0.95
    max_lesions: int = 20
    diameter_median: float = 8.5
    diameter_sigma: float = 0.5
    diameter_limits: Range = (3.0, 32.0)
    ring_fraction: float = 0.55
    oedema_fraction: float = 0.75
    oedema_reach: float = 11.0
    faint_fraction: float = 0.15
    max_core_fraction: float = 0.008
    max_tumour_fraction: float = 0.016
    vessels: int = 260
    white_matter_lesions: float = 9.0
    noise: Range = (0.012, 0.035)
    bias: Range = (0.03, 0.09)
    t1ce_in_plane: Range = (0.86, 1.04)
    t1ce_slice: Range = (0.9, 1.2)
    flair_in_plane: Range = (0.6, 0.95)
    flair_slice: Range = (3.0, 5.5)
    flair_angles: tuple[float, float, float] = (6.0, 1.5, 1.5)
    margin: float = 4.0
