"""What stands in the way: lidar ranges and poses fused into obstacles on the map.

`ObstacleMap.add` takes one turn of a level lidar (MAVLink OBSTACLE_DISTANCE) with the pose it was taken at;
`solids` joins the points into convex outlines. Points nearer than `JOIN_M` belong to one thing; a thing seen fewer
than `SEEN_MIN` times is noise. The outline is of the sides that were seen: the far side of a building is not there,
so planning adds its clearance and the vehicle's own avoidance stays responsible in flight.

`buildings` joins what several scans saw of the same things into boxes with whole-metre walls. Where a scan happened
to look from differs a little from flight to flight; the walls do not, so the same place gives the same plan.

Local ENU metres; numpy only, since the driver uses it in the kernel's process.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

JOIN_M = 4.0
CELL_M = 0.25
SEEN_MIN = 2
WALL_M = 0.4
PAD_M = 0.25  # a wall seen edge-on is a line; an outline has width

Box = tuple[float, float, float, float]  # west, south, east, north


class ObstacleMap:
    """Points seen so far, counted per half-metre cell."""

    def __init__(self) -> None:
        self._cells: Counter[tuple[int, int]] = Counter()
        self.nearest_m = math.inf  # of the last turn

    def add(
        self,
        ranges_m: Sequence[float],
        *,
        start_rad: float,
        step_rad: float,
        max_m: float,
        position_m: Sequence[float],
        yaw_rad: float,
    ) -> None:
        """One turn: ranges clockwise from `start_rad` off the nose, whose heading is `yaw_rad` clockwise from north.

        Ranges at or above `max_m`, zero or nan say nothing.
        """
        ranges = np.asarray(ranges_m, dtype=np.float64)
        heading = yaw_rad + start_rad + step_rad * np.arange(len(ranges))
        hit = np.isfinite(ranges) & (ranges > 0.05) & (ranges < max_m - 0.05)
        self.nearest_m = float(ranges[hit].min()) if hit.any() else math.inf
        east = position_m[0] + ranges[hit] * np.sin(heading[hit])
        north = position_m[1] + ranges[hit] * np.cos(heading[hit])
        self._cells.update(
            (int(x), int(y)) for x, y in zip(np.round(east / CELL_M), np.round(north / CELL_M), strict=True)
        )

    @property
    def points_m(self) -> NDArray[np.float64]:
        """(n, 2) cell centres that were hit, in a fixed order."""
        cells = sorted(self._cells)
        return np.array(cells, dtype=np.float64).reshape(-1, 2) * CELL_M

    def solids(self) -> list[dict[str, Any]]:
        """[{"corners": [[east, north]…], "hits": n}…], convex, counter-clockwise, west to east."""
        points, hits = self.points_m, np.array([self._cells[cell] for cell in sorted(self._cells)])
        outlines = []
        for group in _groups(points):
            seen = int(hits[group].sum())
            if seen >= SEEN_MIN:
                outlines.append({"corners": _outline(points[group]), "hits": seen})
        return sorted(outlines, key=lambda outline: outline["corners"][0])


def buildings(outlines: Sequence[Sequence[Sequence[float]]]) -> list[list[list[float]]]:
    """Boxes around outlines (corners in metres) that lie within `JOIN_M` of each other; walls on whole metres.

    A wall is rounded outward unless it is less than `WALL_M` beyond a whole metre, which is padding and rounding.
    """
    boxes = [
        (min(x), min(y), max(x), max(y))
        for x, y in (zip(*(corner[:2] for corner in corners), strict=True) for corners in outlines)
    ]
    merged: list[Box] = []
    for box in boxes:
        grown = box
        while near := [other for other in merged if _gap_m(grown, other) <= JOIN_M]:
            merged = [other for other in merged if other not in near]
            together = [grown, *near]
            grown = (
                min(part[0] for part in together),
                min(part[1] for part in together),
                max(part[2] for part in together),
                max(part[3] for part in together),
            )
        merged.append(grown)
    rows = []
    for low_x, low_y, high_x, high_y in sorted(merged):
        west, south = math.floor(low_x + WALL_M), math.floor(low_y + WALL_M)
        east, north = max(west + 1, math.ceil(high_x - WALL_M)), max(south + 1, math.ceil(high_y - WALL_M))
        rows.append([[float(x), float(y)] for x, y in ((west, south), (east, south), (east, north), (west, north))])
    return rows


def _gap_m(one: Box, other: Box) -> float:
    """Distance between two boxes, 0 where they overlap."""
    across = max(one[0] - other[2], other[0] - one[2], 0.0)
    along = max(one[1] - other[3], other[1] - one[3], 0.0)
    return math.hypot(across, along)


def _groups(points: NDArray[np.float64]) -> list[list[int]]:
    """Indices of points that hang together over gaps of at most `JOIN_M`."""
    left, groups = set(range(len(points))), []
    while left:
        fringe = [left.pop()]
        group = list(fringe)
        while fringe:
            at = fringe.pop()
            rest = np.fromiter(left, dtype=np.int64, count=len(left))
            near = rest[np.hypot(*(points[rest] - points[at]).T) <= JOIN_M].tolist() if len(rest) else []
            left.difference_update(near)
            fringe += near
            group += near
        groups.append(sorted(group))
    return groups


def _outline(points: NDArray[np.float64]) -> list[list[float]]:
    """Convex hull (Andrew's monotone chain, 1979) of the points, each grown to a square of `PAD_M`."""
    around = np.array([[-PAD_M, -PAD_M], [PAD_M, -PAD_M], [PAD_M, PAD_M], [-PAD_M, PAD_M]])
    spread = np.unique(np.round((points[:, None] + around[None]).reshape(-1, 2), 3), axis=0)
    rows = [(float(x), float(y)) for x, y in spread]

    def chain(ordered: list[tuple[float, float]]) -> list[tuple[float, float]]:
        kept: list[tuple[float, float]] = []
        for point in ordered:
            while len(kept) >= 2 and _turn(kept[-2], kept[-1], point) <= 0.0:
                kept.pop()
            kept.append(point)
        return kept[:-1]

    return [[x, y] for x, y in chain(rows) + chain(rows[::-1])]


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
