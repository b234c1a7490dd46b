"""Smooth random fields."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from sgnet_nnunet.phantom.grid import FloatArray

_CUBIC_BSPLINE_POWER = 151 / 315
"""Integral of the squared cubic B-spline: the mean variance of a spline with unit-variance controls."""

_DEGREE = 3


class SmoothField:
    """A random cubic-spline field over a box, to be evaluated on any grid along the box's axes.

    Values have about zero mean and a standard deviation of one. Evaluation uses sparse products,
    which unlike dense ones sum in one order whatever the number of threads.

    Args:
        rng: Source of the control points.
        extent: Sides of the box in mm, shape (3,).
        wavelength: Distance of the control points in mm; details are about twice as large.
    """

    def __init__(self, rng: np.random.Generator, extent: NDArray[np.float64], wavelength: float) -> None:
        self.wavelength = wavelength
        controls = [int(np.ceil(side / wavelength)) + _DEGREE + 1 for side in extent]
        self.controls: FloatArray = rng.standard_normal(controls, dtype=np.float32)

    def on(self, axes: Sequence[NDArray[np.float64]]) -> FloatArray:
        """Evaluate on the grid spanned by `axes`, the positions in mm along x, y and z of the box."""
        values = self.controls
        # Mean square weight of a control point: brings the field back to a variance of one.
        gain = np.float32(1 / np.sqrt(_CUBIC_BSPLINE_POWER))
        for positions in axes:
            count = values.shape[0]
            knots = np.arange(count + _DEGREE + 1, dtype=np.float64) - _DEGREE
            basis = BSpline.design_matrix(positions / self.wavelength, knots, _DEGREE).astype(np.float32)
            rest = values.shape[1:]
            values = np.moveaxis((basis @ values.reshape(count, -1)).reshape(-1, *rest) * gain, 0, -1)
        return np.ascontiguousarray(values)
