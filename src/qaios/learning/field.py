"""The spatial readout: a smooth, positive concentration over space, learned from samples.

    c(x) = floor + exp(f(x)),     f ~ Gaussian process

with one length along and one across a direction it finds itself, and one in height. The exponential keeps a plume
positive and lets it be steep at its heart and flat in its tails, which a plain Gaussian process cannot. It is kept
small by inducing places (Quinonero-Candela & Rasmussen 2005): f is a sum of at most 120 bells on well-spread
samples.

The weights are the most probable ones (damped Gauss-Newton); lengths, direction, strength and mean maximise
Laplace's evidence (Rasmussen & Williams 2006, section 3.4), so nothing has to be held out for them. All searches
stop on counted work. `value_and_slopes` is what the network's gradient goes through.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qaios.learning.network import Array
from qaios.learning.samples import Samples, thinned

BELLS_MAX = 120
EVALUATIONS_MAX = 120
SHAPE_SAMPLES_MAX = 900  # the shape is sought on this many samples, evenly spread; the weights use all
NEWTON_STEPS_MAX = 8
EXPONENT_MAX = 12.0
JITTER = 1e-6


@dataclass(frozen=True, slots=True)
class Shape:
    """What evidence chooses: logarithms of the lengths in metres, a direction, a strength and a mean of f."""

    log_along_m: float
    log_across_m: float
    direction_rad: float
    log_height_m: float
    log_strength: float
    mean: float

    def scaled(self, places_m: Array) -> Array:
        """Places in units of the lengths, shape (count, 3)."""
        return places_m @ self.matrix

    @property
    def matrix(self) -> Array:
        """From metres to lengths: rows east, north, up."""
        c, s = np.cos(self.direction_rad), np.sin(self.direction_rad)
        along, across, height = np.exp(-np.array([self.log_along_m, self.log_across_m, self.log_height_m]))
        return np.array([[c * along, -s * across, 0.0], [s * along, c * across, 0.0], [0.0, 0.0, height]])


@dataclass(frozen=True, slots=True)
class Field:
    """A fitted field. `weights` are of the bells; `whitened` are the same, as the search sees them."""

    floor: float
    shape: Shape
    bells_m: Array  # (bells, 3)
    root: Array  # Cholesky factor of the bells' own kernel
    whitened: Array
    weights: Array
    evidence: float

    def exponent(self, places_m: Array) -> Array:
        return self.shape.mean + _bell(self.shape.scaled(places_m), self.shape.scaled(self.bells_m)) @ self.weights

    def value(self, places_m: Array) -> Array:
        """Concentration in ug/m3 at (count, 3) places."""
        return self.floor + np.exp(np.minimum(self.exponent(places_m), EXPONENT_MAX))

    def value_and_slopes(self, places_m: Array) -> tuple[Array, Array]:
        """(f, df/dplace) of shapes (count,) and (count, 3); the slopes are per metre."""
        scaled, bells = self.shape.scaled(places_m), self.shape.scaled(self.bells_m)
        pull = _bell(scaled, bells) * self.weights
        f = pull.sum(axis=1)
        return self.shape.mean + f, (pull @ bells - f[:, None] * scaled) @ self.shape.matrix.T

    def refitted(self, samples: Samples, places_m: Array, louder: Array) -> Field:
        """The same shape with new weights, for samples seen at `places_m` and louder by `louder` in the exponent."""
        basis = _basis(self.shape, places_m, self.bells_m, self.root)
        whitened, _ = _most_probable(basis, self.shape.mean + louder, self.floor, samples, self.whitened)
        return replace(self, whitened=whitened, weights=_weights(self.shape, self.root, whitened))


def fit(samples: Samples) -> Field:
    """Learn field and shape from samples. Deterministic."""
    from scipy.optimize import minimize

    floor = max(0.0, 0.7 * float(np.quantile(samples.pm25, 0.05)))
    middle = np.log(max(float(np.median(samples.pm25)) - floor, 0.5))
    extent = float(np.maximum(np.ptp(samples.at_m[:, :2], axis=0).mean(), 20.0))
    bells = _well_spread(samples.at_m, BELLS_MAX)
    start = np.array([np.log(extent / 4.0), np.log(extent / 4.0), 0.0, np.log(15.0), np.log(0.7), middle])
    steps = np.diag([0.5, 0.5, 0.6, 0.5, 0.5, 0.4])
    low = np.array([np.log(2.0), np.log(2.0), -np.pi, np.log(2.0), np.log(0.05), middle - 3.0])
    high = np.array([np.log(4.0 * extent), np.log(4.0 * extent), np.pi, np.log(300.0), np.log(5.0), middle + 3.0])

    few = thinned(samples, SHAPE_SAMPLES_MAX)

    def unlikely(numbers: Array) -> float:
        return -_fit_weights(Shape(*numbers), few, bells, floor).evidence

    found = minimize(
        unlikely,
        start,
        method="Nelder-Mead",
        bounds=list(zip(low, high, strict=True)),
        options={
            "maxfev": EVALUATIONS_MAX,
            "initial_simplex": np.vstack([start, start + steps]),
            "xatol": 0.02,
            "fatol": 0.1,
        },
    )
    return _fit_weights(Shape(*found.x), samples, bells, floor)


def _fit_weights(shape: Shape, samples: Samples, bells_m: Array, floor: float) -> Field:
    scaled = shape.scaled(bells_m)
    root = np.asarray(np.linalg.cholesky(_bell(scaled, scaled) + JITTER * np.eye(len(bells_m))), dtype=np.float64)
    basis = _basis(shape, samples.at_m, bells_m, root)
    whitened, evidence = _most_probable(
        basis, np.full(len(samples), shape.mean), floor, samples, np.zeros(len(bells_m))
    )
    return Field(floor, shape, bells_m, root, whitened, _weights(shape, root, whitened), evidence)


def _bell(a: Array, b: Array) -> Array:
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2.0 * a @ b.T
    bell: Array = np.exp(-0.5 * np.maximum(square, 0.0))
    return bell


def _basis(shape: Shape, places_m: Array, bells_m: Array, root: Array) -> Array:
    """Columns whose weights have prior variance one."""
    from scipy.linalg import solve_triangular

    bells = _bell(shape.scaled(places_m), shape.scaled(bells_m))
    basis: Array = np.exp(shape.log_strength) * solve_triangular(root, bells.T, lower=True).T
    return basis


def _weights(shape: Shape, root: Array, whitened: Array) -> Array:
    from scipy.linalg import solve_triangular

    weights: Array = np.exp(shape.log_strength) * solve_triangular(root, whitened, lower=True, trans="T")
    return weights


def _most_probable(basis: Array, mean: Array, floor: float, samples: Samples, start: Array) -> tuple[Array, float]:
    """Damped Gauss-Newton on noise and prior together: (weights, Laplace's log evidence up to a constant)."""
    from scipy.linalg import cho_factor, cho_solve

    def misfit(weights: Array) -> tuple[float, Array, Array]:
        grown = np.exp(np.clip(mean + basis @ weights, -20.0, EXPONENT_MAX))
        residual = (samples.pm25 - floor - grown) / samples.sigma
        return 0.5 * float(residual @ residual + weights @ weights), residual, grown

    weights = start
    cost, residual, grown = misfit(weights)
    for _ in range(NEWTON_STEPS_MAX):
        slope = basis * (grown / samples.sigma)[:, None]
        factor = cho_factor(slope.T @ slope + np.eye(len(weights)), lower=True)
        step = cho_solve(factor, slope.T @ residual - weights)
        before, stride = cost, 1.0
        while stride > 1e-2:
            tried = misfit(weights + stride * step)
            if tried[0] <= cost:
                weights, (cost, residual, grown) = weights + stride * step, tried
                break
            stride /= 2.0
        if before - cost < 1e-4 * max(1.0, before):
            break
    return weights, -cost - float(np.log(np.diag(factor[0])).sum())


def _well_spread(places_m: Array, count_max: int) -> Array:
    """At most `count_max` of the places, each as far from the earlier ones as can be."""
    first = int(np.argmin(((places_m - places_m.mean(axis=0)) ** 2).sum(axis=1)))
    chosen, distance = [first], ((places_m - places_m[first]) ** 2).sum(axis=1)
    while len(chosen) < min(count_max, len(places_m)):
        farthest = int(np.argmax(distance))
        if distance[farthest] < 1e-6:
            break
        chosen.append(farthest)
        distance = np.minimum(distance, ((places_m - places_m[farthest]) ** 2).sum(axis=1))
    return places_m[chosen]
