"""The way around: shortest paths between points that keep out of zones.

Planner and driver both need it: the planner to price the flight from one swath to the next, the driver to reach
the first swath from wherever the vehicle happens to be. It is a visibility graph (Lozano-Perez and Wesley 1979)
solved by Floyd and Warshall, in numpy only, since the driver lives in the kernel's process where shapely has no
business: a hundred points and zones of sixty corners take some 30 ms.

Zones are polygons in local metres, already grown by the clearance a vehicle must keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qaios.core.errors import Refused

Points = NDArray[np.float64]  # (n, 2) metres


@dataclass(frozen=True)
class Paths:
    """All shortest ways between the points asked for: lengths in metres, and where to turn."""

    nodes: Points
    lengths_m: NDArray[np.float64]  # (n, n) between the asked points; inf where there is no way
    _next: NDArray[np.int64]

    def via(self, start: int, end: int) -> list[list[float]]:
        """The turning points between point `start` and point `end`, both left out. Raises `Refused` if walled in."""
        if not np.isfinite(self.lengths_m[start, end]):
            raise Refused("there is no way around the no-fly zones", hint="Lower the clearance or move the area.")
        turns, at = [], int(self._next[start, end])
        while at != end:
            turns.append([round(float(part), 3) for part in self.nodes[at]])
            at = int(self._next[at, end])
        return turns


class Passage:
    """The free plane around zones. `zones`: polygons as (n, 2) corners in metres; `margin_m`: how far outside a
    corner the way turns, so that a turn at the corner does not touch it."""

    def __init__(self, zones: Sequence[Sequence[Sequence[float]]], margin_m: float = 0.5) -> None:
        self._zones = [np.asarray(zone, dtype=np.float64)[:, :2] for zone in zones]
        self._edges = np.concatenate([_edges(zone) for zone in self._zones]) if self._zones else np.empty((0, 2, 2))
        outside = [_outset(zone, margin_m) for zone in self._zones]
        corners = np.concatenate(outside) if outside else np.empty((0, 2))
        self._corners = corners[~self.within(corners)] if len(corners) else corners

    def within(self, points: Points) -> NDArray[np.bool_]:
        """Which points lie inside a zone."""
        inside = np.zeros(len(points), dtype=np.bool_)
        for zone in self._zones:
            inside |= _inside(points, zone)
        return inside

    def blocked(self, starts: Points, ends: Points) -> NDArray[np.bool_]:
        """Which of the straight lines starts[i] to ends[i] touch a zone."""
        if not len(self._edges) or not len(starts):
            return np.zeros(len(starts), dtype=np.bool_)
        hit = self.within((starts + ends) / 2.0)
        for at in range(0, len(starts), 4096):
            part = slice(at, at + 4096)
            hit[part] |= _crosses(
                starts[part, None], ends[part, None], self._edges[None, :, 0], self._edges[None, :, 1]
            )
        return hit

    def paths(self, points: Sequence[Sequence[float]]) -> Paths:
        """Shortest ways between all `points`. One that lies inside a zone first leaves it by the nearest corner."""
        asked = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        nodes = np.concatenate([asked, self._corners])
        count = len(nodes)
        i, j = np.triu_indices(count, 1)
        straight = np.hypot(*(nodes[i] - nodes[j]).T)
        lengths = np.full((count, count), np.inf)
        np.fill_diagonal(lengths, 0.0)
        lengths[i, j] = lengths[j, i] = np.where(self.blocked(nodes[i], nodes[j]), np.inf, straight)
        for trapped in np.flatnonzero(self.within(asked)):
            self._free(int(trapped), nodes, lengths)
        following = np.where(np.isfinite(lengths), np.arange(count)[None, :], -1)
        for middle in range(count):
            through = lengths[:, middle, None] + lengths[None, middle, :]
            shorter = through < lengths - 1e-9
            lengths[shorter] = through[shorter]
            following = np.where(shorter, following[:, middle, None], following)
        asked_count = len(asked)
        return Paths(nodes, lengths[:asked_count, :asked_count], following)

    def _free(self, trapped: int, nodes: Points, lengths: NDArray[np.float64]) -> None:
        corners = np.arange(len(nodes) - len(self._corners), len(nodes))
        if not len(corners):
            return
        away = np.hypot(*(nodes[corners] - nodes[trapped]).T)
        nearest = int(corners[int(np.argmin(away))])
        lengths[trapped, nearest] = lengths[nearest, trapped] = float(away.min())


def way(zones: Sequence[Sequence[Sequence[float]]], start: Sequence[float], end: Sequence[float]) -> list[list[float]]:
    """The turning points of the shortest way from `start` to `end` around `zones`, ends left out."""
    return Passage(zones).paths([start[:2], end[:2]]).via(0, 1)


def _edges(zone: Points) -> Points:
    return np.stack([zone, np.roll(zone, -1, axis=0)], axis=1)


def _outset(zone: Points, margin_m: float) -> Points:
    """Every corner moved outward along the bisector of its two edges."""
    following, before = np.roll(zone, -1, axis=0), np.roll(zone, 1, axis=0)
    turn = np.sum(zone[:, 0] * following[:, 1] - following[:, 0] * zone[:, 1])
    out = np.zeros_like(zone)
    for along in (zone - before, following - zone):
        normal = np.stack([along[:, 1], -along[:, 0]], axis=1) * (1.0 if turn > 0 else -1.0)
        out += normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    bisector = out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)
    moved: Points = zone + margin_m * np.sqrt(2.0) * bisector
    return moved


def _inside(points: Points, zone: Points) -> NDArray[np.bool_]:
    """Even-odd rule."""
    x, y = points[:, None, 0], points[:, None, 1]
    first, second = zone[None], np.roll(zone, -1, axis=0)[None]
    spans = (first[..., 1] > y) != (second[..., 1] > y)
    rise = np.where(second[..., 1] == first[..., 1], 1.0, second[..., 1] - first[..., 1])
    cut = (second[..., 0] - first[..., 0]) * (y - first[..., 1]) / rise + first[..., 0]
    return np.asarray(np.sum(spans & (x < cut), axis=1) % 2 == 1, dtype=np.bool_)


def _crosses(a: Points, b: Points, c: Points, d: Points) -> NDArray[np.bool_]:
    """Which lines a-b cross any of the edges c-d, strictly on both."""

    def side(p: Points, q: Points, r: Points) -> NDArray[np.float64]:
        turn: NDArray[np.float64] = (q[..., 0] - p[..., 0]) * (r[..., 1] - p[..., 1]) - (q[..., 1] - p[..., 1]) * (
            r[..., 0] - p[..., 0]
        )
        return turn

    apart = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    return np.asarray(apart.any(axis=1), dtype=np.bool_)
