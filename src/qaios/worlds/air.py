"""The pollution of the scene: Gaussian plumes, and how a sensor reads them.

`PlumeField` is the truth: for each source the steady Gaussian plume with ground reflection, carried by the mean
wind, over a uniform background. Spreads are Briggs' (1973) urban curves for Pasquill's stability class A-B (wind of
2 to 3 m/s on a sunny day) as given in Hanna, Briggs & Hosker, *Handbook on Atmospheric Diffusion* (DOE/TIC-11223,
1982), table 4.5: sigma_y = 0.32 x (1 + 0.0004 x)^-1/2, sigma_z = 0.24 x (1 + 0.001 x)^1/2. They were fitted from
100 m on; nearer to a source they are an extrapolation. A source has a size: its width / 4.3 and height / 2.15 are the
spreads it starts with (Turner, *Workbook of Atmospheric Dispersion Estimates*, 1970, ch. 5), added in quadrature.

`AirSensor` samples it as a drone's optical counter would: at irregular instants, with noise of one sigma
= 1 ug/m3 + 5 % of the value. All chance comes from the generator it is given.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qaios.worlds.scene import Scene
from qaios.worlds.wire import AirSample, Grid

INTERVAL_MIN_S = 0.3
INTERVAL_MAX_S = 1.5
SIGMA_FLOOR_UGM3 = 1.0
SIGMA_FRACTION = 0.05
SPREAD_MIN_M = 0.5


def briggs_urban_ab(distance_m: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(sigma_y, sigma_z) in metres at `distance_m` downwind of the source, any shape."""
    x = np.maximum(np.asarray(distance_m, dtype=np.float64), 0.0)
    return 0.32 * x / np.sqrt(1.0 + 0.0004 * x), 0.24 * x * np.sqrt(1.0 + 0.001 * x)


class PlumeField:
    """Noise-free PM2.5 anywhere in the scene."""

    def __init__(self, scene: Scene) -> None:
        self._background_ugm3 = scene.background_ugm3
        self._speed_mps = math.hypot(*scene.wind_mps)
        self._along = np.array(scene.wind_mps) / self._speed_mps
        self._sources = scene.sources

    def pm25_ugm3(self, points_m: ArrayLike) -> NDArray[np.float64]:
        """Concentration at `points_m`, shape (..., 3) east-north-up; the result has shape (...)."""
        points = np.asarray(points_m, dtype=np.float64)
        total = np.full(points.shape[:-1], self._background_ugm3)
        for source in self._sources:
            east, north = points[..., 0] - source.east_m, points[..., 1] - source.north_m
            down = east * self._along[0] + north * self._along[1]
            cross = north * self._along[0] - east * self._along[1]
            growth_y, growth_z = briggs_urban_ab(down)
            spread_y = np.hypot(growth_y, max(SPREAD_MIN_M, source.width_m / 4.3))
            spread_z = np.hypot(growth_z, max(SPREAD_MIN_M, source.height_m / 2.15))
            height = points[..., 2]
            vertical = np.exp(-0.5 * ((height - source.height_m) / spread_z) ** 2) + np.exp(
                -0.5 * ((height + source.height_m) / spread_z) ** 2
            )
            plume = source.rate_ugps / (2.0 * math.pi * self._speed_mps * spread_y * spread_z)
            total += np.where(down > 0.0, plume * np.exp(-0.5 * (cross / spread_y) ** 2) * vertical, 0.0)
        return total

    def on_grid(self, grid: Grid) -> NDArray[np.float64]:
        """Concentration on `grid`, shape (rows, columns), south first."""
        east, north = np.meshgrid(
            np.linspace(grid.west_m, grid.east_m, grid.columns), np.linspace(grid.south_m, grid.north_m, grid.rows)
        )
        return self.pm25_ugm3(np.stack([east, north, np.full_like(east, grid.height_m)], axis=-1))


def noisy(value_ugm3: float, random: np.random.Generator) -> tuple[float, float]:
    """(reading, sigma) of a true value; a counter never reads below zero."""
    sigma = SIGMA_FLOOR_UGM3 + SIGMA_FRACTION * value_ugm3
    return max(0.0, value_ugm3 + sigma * float(random.standard_normal())), sigma


class AirSensor:
    """The sensor of one drone."""

    def __init__(self, field: PlumeField, random: np.random.Generator) -> None:
        self._field = field
        self._random = random
        self._due_s = self._interval_s()

    def _interval_s(self) -> float:
        return float(self._random.uniform(INTERVAL_MIN_S, INTERVAL_MAX_S))

    def sample(self, now_s: float, position_m: ArrayLike) -> tuple[AirSample, ...]:
        """The readings due by `now_s`; empty most of the time."""
        if now_s < self._due_s:
            return ()
        value, sigma = noisy(float(self._field.pm25_ugm3(position_m)), self._random)
        self._due_s = now_s + self._interval_s()
        return (AirSample(now_s, value, sigma),)
