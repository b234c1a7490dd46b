"""Courses of vessels, sinuses and choroid plexus: points in MNI mm.

Read off the ICBM152 average: they follow the fluid there. Paired ones are given for the right side.
"""

Polyline = tuple[tuple[float, float, float], ...]

SUPERIOR_SAGITTAL_SINUS: Polyline = (
    (0, 62, 33), (0, 52, 46), (0, 32, 60), (0, 2, 73), (0, -20, 77), (0, -40, 76), (0, -60, 67),
    (0, -80, 49), (0, -90, 33), (0, -98, 10), (0, -97, 0), (0, -94, -12),
)  # fmt: skip
TRANSVERSE_SINUS: Polyline = (
    (0, -94, -12), (16, -92, -17), (34, -84, -22), (48, -70, -27), (56, -56, -30), (54, -46, -38),
)  # fmt: skip
STRAIGHT_SINUS: Polyline = ((0, -42, 6), (0, -54, 8), (0, -70, -2), (0, -84, -10), (0, -94, -12))
INTERNAL_CEREBRAL_VEIN: Polyline = ((2, 0, 12), (2.5, -14, 14), (2.5, -28, 12), (1.5, -38, 8), (0, -42, 6))
BASILAR_ARTERY: Polyline = ((0, -21, -49), (1, -15, -40), (0, -13, -32), (0, -12, -27), (0, -14, -19))
POSTERIOR_CEREBRAL: Polyline = ((0, -14, -19), (8, -17, -18), (20, -28, -12), (22, -38, -6), (16, -52, 0))
MIDDLE_CEREBRAL: Polyline = (
    (9, 4, -16), (20, 6, -17), (32, 6, -18), (42, 2, -10), (46, -12, 2), (48, -26, 12), (52, -38, 20),
)  # fmt: skip
ANTERIOR_CEREBRAL: Polyline = (
    (9, 4, -16), (2, 8, -14), (1.5, 24, -10), (1.5, 38, 4), (1.5, 34, 20), (1.5, 18, 30), (1.5, -4, 36),
)  # fmt: skip
CHOROID_PLEXUS: Polyline = (
    (4, 0, 12), (8, -12, 19), (14, -26, 19), (20, -36, 14), (24, -42, 8), (28, -34, -4),
)  # fmt: skip
