"""Seeded wind: a steady mean and Dryden turbulence.

The fleet asks for the wind once per barrier. Turbulence follows the Dryden form of MIL-F-8785C / MIL-HDBK-1797
for low altitude: scale lengths L_w = h, L_u = L_v = h / (0.177 + 0.000823 h)^1.2 and intensities sigma_w = 0.1 W20,
sigma_u = sigma_v = sigma_w / (0.177 + 0.000823 h)^0.4 (h in feet). The frozen-field speed V of the spectra is
the mean wind (Taylor's hypothesis), since the drones are slow against it. One gust holds over the whole scene.

The shaping filters are discretised exactly, so the variance does not depend on the step.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FOOT_M = 0.3048


def dryden_scales(height_m: float, w20_mps: float) -> tuple[float, float, float, float]:
    """(L_u, L_w, sigma_u, sigma_w) in m and m/s at `height_m` (3 to 300 m) for the wind speed `w20_mps` at 20 ft."""
    h_ft = max(height_m, 3.0) / FOOT_M
    base = 0.177 + 0.000823 * h_ft
    sigma_w = 0.1 * w20_mps
    return h_ft / base**1.2 * FOOT_M, h_ft * FOOT_M, sigma_w / base**0.4, sigma_w


class DrydenWind:
    """Mean plus gust, m/s east-north-up, advanced by `step`."""

    def __init__(
        self,
        mean_mps: tuple[float, float],
        w20_mps: float,
        random: np.random.Generator,
        *,
        step_s: float,
        height_m: float = 12.0,
    ) -> None:
        speed = math.hypot(*mean_mps)
        length_u, length_w, self.sigma_u_mps, self.sigma_w_mps = dryden_scales(height_m, w20_mps)
        self.mean_mps = np.array([mean_mps[0], mean_mps[1], 0.0])
        along = np.array([mean_mps[0], mean_mps[1], 0.0]) / speed
        self._axes = np.array([along, [-along[1], along[0], 0.0], [0.0, 0.0, 1.0]])
        self._random = random
        self._u_decay = math.exp(-step_s * speed / length_u)
        # v: L_v equals L_u. Each of v and w is sigma sqrt(T) (sqrt3 x1 + (1 - sqrt3) x2) behind a double pole at -1/T.
        self._lateral = [_second_order(length_u / speed, step_s), _second_order(length_w / speed, step_s)]
        self._u = float(random.standard_normal())
        self._states = [chol_stationary(t) @ random.standard_normal(2) for t in (length_u / speed, length_w / speed)]
        self._times_s = (length_u / speed, length_w / speed)

    def step(self) -> NDArray[np.float64]:
        """The wind of the next step, shape (3,)."""
        noise = self._random.standard_normal(5)
        self._u = self._u_decay * self._u + math.sqrt(1.0 - self._u_decay**2) * float(noise[0])
        gust = [self.sigma_u_mps * self._u]
        for i, sigma in enumerate((self.sigma_u_mps, self.sigma_w_mps)):
            decay, root = self._lateral[i]
            state = decay @ self._states[i] + root @ noise[1 + 2 * i : 3 + 2 * i]
            self._states[i] = state
            gust.append(
                sigma
                * math.sqrt(self._times_s[i])
                * float(math.sqrt(3.0) * state[0] + (1.0 - math.sqrt(3.0)) * state[1])
            )
        return np.asarray(self.mean_mps + np.asarray(gust) @ self._axes, dtype=np.float64)


def _stationary(time_s: float) -> NDArray[np.float64]:
    """Covariance of (x1, x2) = white noise through 1/(1+Ts) and 1/(1+Ts)^2."""
    return np.array([[0.5, 0.25], [0.25, 0.25]]) / time_s


def chol_stationary(time_s: float) -> NDArray[np.float64]:
    """A square root of the stationary covariance of the double pole with time constant `time_s`."""
    return np.asarray(np.linalg.cholesky(_stationary(time_s)), dtype=np.float64)


def _second_order(time_s: float, step_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact transition matrix and noise root of the double pole over one step: Q = P - A P A'."""
    a = step_s / time_s
    decay = math.exp(-a) * np.array([[1.0, 0.0], [a, 1.0]])
    covariance = _stationary(time_s)
    noise = covariance - decay @ covariance @ decay.T
    return decay, np.asarray(np.linalg.cholesky(noise + 1e-15 * np.eye(2) / time_s), dtype=np.float64)
