"""A synthetic survey for the tests: Gaussian plumes, a wind that swings, drones that sample at their own moments.

Steady Gaussian plume with ground reflection and Briggs' urban D spreads; with `swing_deg` the whole plume turns about
its source by an Ornstein-Uhlenbeck angle (the meander of Gifford's fluctuating plume, 1959).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
HALF_M = 60.0
SHELVES_M = (20.0, 23.0, 26.0, 29.0)


@dataclass(frozen=True)
class Survey:
    rows: list[list[list[float]]]  # one list of samples per drone
    at_s: float
    truth: Array  # (rows, columns) on the grid of `argument`
    east_m: Array
    north_m: Array
    up_m: float

    @property
    def truth_grid(self) -> dict[str, list[float] | list[list[float]]]:
        return {"east_m": self.east_m.tolist(), "north_m": self.north_m.tolist(), "pm25_ug_m3": self.truth.tolist()}

    @property
    def area(self) -> dict[str, float]:
        return {"west_m": -HALF_M, "south_m": -HALF_M, "east_m": HALF_M, "north_m": HALF_M}


def concentration(at_m: Array, sources: list[tuple[float, float, float, float]], heading: Array | float) -> Array:
    """PM2.5 at (count, 3) places for a wind blowing towards `heading` (radians from east)."""
    total = np.full(len(at_m), 8.0)
    for east, north, up, rate in sources:
        x, y = at_m[:, 0] - east, at_m[:, 1] - north
        down, cross = x * np.cos(heading) + y * np.sin(heading), y * np.cos(heading) - x * np.sin(heading)
        d = np.maximum(down, 0.0)
        wide = np.hypot(0.16 * d / np.sqrt(1 + 0.0004 * d), 1.0)
        deep = np.hypot(0.14 * d / np.sqrt(1 + 0.0003 * d), 1.0)
        z = at_m[:, 2]
        vertical = np.exp(-0.5 * ((z - up) / deep) ** 2) + np.exp(-0.5 * ((z + up) / deep) ** 2)
        plume = rate / (2 * np.pi * 2.6 * wide * deep) * np.exp(-0.5 * (cross / wide) ** 2) * vertical
        total += np.where(down > 0.0, plume, 0.0)
    return total


def fly(
    seed: int, *, swing_deg: float = 0.0, spacing_m: float = 16.0, speed_mps: float = 4.0, step_m: float = 4.0
) -> Survey:
    """Four drones share lawnmower swaths over 120 m by 120 m, each at its own height; a sample every 0.3 to 1.5 s."""
    random = np.random.default_rng(seed)
    wind = random.uniform(-np.pi, np.pi)
    upwind = -45.0 * np.array([np.cos(wind), np.sin(wind)])
    yard = upwind + random.uniform(-15, 15, 2)
    sources = [(yard[0], yard[1], 4.0, random.uniform(50_000, 90_000)), (*random.uniform(-20, 20, 2), 10.0, 25_000.0)]
    norths = np.arange(-HALF_M + spacing_m / 2, HALF_M, spacing_m)
    shares = np.array_split(norths, len(SHELVES_M))
    angle = [0.0]
    for _ in range(int(len(norths) * 160 / speed_mps)):
        angle.append(angle[-1] * np.exp(-1 / 40.0) + np.sqrt(1 - np.exp(-2 / 40.0)) * random.normal())
    swing = wind + np.radians(swing_deg) * np.array(angle)

    def heading(t: Array | float) -> Array:
        return np.asarray(np.interp(t, np.arange(len(swing)), swing))

    rows = []
    for shelf, share in zip(SHELVES_M, shares, strict=True):
        ends = (-HALF_M, HALF_M)
        corners = [np.array([e, n]) for i, n in enumerate(share) for e in (ends if i % 2 == 0 else ends[::-1])]
        legs = np.array([0.0, *np.cumsum([np.linalg.norm(b - a) for a, b in pairwise(corners)])])
        t = np.cumsum(random.uniform(0.3, 1.5, 3000))
        t = t[t < legs[-1] / speed_mps]
        place = [np.interp(t * speed_mps, legs, [c[axis] for c in corners]) for axis in (0, 1)]
        at = np.column_stack([*place, np.full(len(t), shelf)]) + random.normal(0, 0.3, (len(t), 3))
        clean = concentration(at, sources, heading(t))
        sigma = 1.0 + 0.05 * clean
        rows.append(
            np.column_stack([t, at, np.maximum(clean + sigma * random.normal(size=len(t)), 0.0), sigma]).tolist()
        )
    axis_m = np.arange(-HALF_M, HALF_M + 1e-9, step_m)
    at_s = max(row[-1][0] for row in rows)
    grid = np.stack(np.meshgrid(axis_m, axis_m), axis=-1).reshape(-1, 2)
    truth = concentration(np.column_stack([grid, np.full(len(grid), SHELVES_M[0])]), sources, float(heading(at_s)))
    return Survey(rows, at_s, truth.reshape(len(axis_m), len(axis_m)), axis_m, axis_m, SHELVES_M[0])
