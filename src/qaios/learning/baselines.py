"""What the network has to be compared with: plain interpolation, and kriging.

`linear` is what everybody does first: Delaunay triangles over east and north, linear inside, nearest sample
outside. `kriging` is the strong classical answer: Gaussian-process regression with one length per axis, the
sensor's own noise, and length, strength and mean chosen by marginal likelihood (Rasmussen & Williams 2006, chapter
5). Both see the same samples as the network and neither sees the truth; concentrations below zero are cut off for
all methods alike.
"""

from __future__ import annotations

import numpy as np

from qaios.learning.network import Array
from qaios.learning.samples import Samples, thinned

LIKELIHOOD_SAMPLES_MAX = 400  # the likelihood is searched on this many, evenly spread; the answer uses all
SAMPLES_MAX = 1600  # above it kriging thins the stream evenly, for its cost grows with the cube


def linear(samples: Samples, places_m: Array) -> Array:
    """Concentration at `places_m` (count, 3); height is not used, as a plain map would not."""
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

    ground = samples.at_m[:, :2]
    inside = LinearNDInterpolator(ground, samples.pm25)(places_m[:, :2])
    outside = NearestNDInterpolator(ground, samples.pm25)(places_m[:, :2])
    drawn: Array = np.maximum(np.where(np.isfinite(inside), inside, outside), 0.0)
    return drawn


def kriging(samples: Samples, places_m: Array) -> Array:
    """Concentration at `places_m` (count, 3)."""
    from scipy.linalg import cho_factor, cho_solve
    from scipy.optimize import minimize

    few = thinned(samples, LIKELIHOOD_SAMPLES_MAX)
    mean = float(np.median(samples.pm25))
    spread = float(np.std(samples.pm25)) or 1.0
    extent = np.maximum(np.ptp(samples.at_m, axis=0), 5.0)

    def unlikely(logs: Array) -> float:
        kernel = _kernel(few.at_m, few.at_m, logs) + np.diag(few.sigma**2)
        try:
            factor = cho_factor(kernel, lower=True)
        except np.linalg.LinAlgError:
            return 1e12
        residual = few.pm25 - mean
        return float(0.5 * residual @ cho_solve(factor, residual) + np.log(np.diag(factor[0])).sum())

    start = np.log([*(extent / 6.0), spread])
    bounds = [*((np.log(e / 60.0), np.log(3.0 * e)) for e in extent), (np.log(spread / 10.0), np.log(spread * 10.0))]
    work = {"maxfev": 90, "xatol": 0.05, "fatol": 0.1}
    found = minimize(unlikely, start, method="Nelder-Mead", bounds=bounds, options=work)
    many = thinned(samples, SAMPLES_MAX)
    factor = cho_factor(_kernel(many.at_m, many.at_m, found.x) + np.diag(many.sigma**2), lower=True)
    weight = cho_solve(factor, many.pm25 - mean)
    drawn: Array = np.maximum(mean + _kernel(places_m, many.at_m, found.x) @ weight, 0.0)
    return drawn


def _kernel(a: Array, b: Array, logs: Array) -> Array:
    lengths = np.exp(logs[:3])
    left, right = a / lengths, b / lengths
    square = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2.0 * left @ right.T
    kernel: Array = np.exp(2.0 * logs[3]) * np.exp(-0.5 * np.maximum(square, 0.0))
    return kernel
