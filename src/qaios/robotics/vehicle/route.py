"""The way around the no-fly zones: the shortest path through their widened corners.

A visibility graph over the corners of the exclusion zones, each pushed out by a margin, and Dijkstra on it.
Zones are few (a handful of corners), so it is computed when a target is set and not again.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from qaios.robotics.vehicle.plan import Circle, Fence, Point, Polygon

Corners = tuple[Point, ...]

MARGIN_M = 3.0
CIRCLE_CORNERS = 12


def around(start: Point, end: Point, fence: Fence) -> list[Point]:
    """Corners to pass between `start` and `end`, neither included; empty when the straight way is free or none is."""
    walls = [(_corners(zone, 0.0), _corners(zone, MARGIN_M * 0.7)) for zone in fence.exclusions]
    if _free(start, end, walls):
        return []
    corners = [
        corner
        for zone in fence.exclusions
        for corner in _corners(zone, MARGIN_M)
        if not fence.breach(corner[0], corner[1], 0.0)
    ]
    points = [start, *corners, end]
    best = {0: 0.0}
    before: dict[int, int] = {}
    queue = [(0.0, 0)]
    while queue:
        cost, at = heapq.heappop(queue)
        if at == len(points) - 1:
            break
        if cost > best[at]:
            continue
        for to in range(1, len(points)):
            total = cost + math.dist(points[at], points[to])
            if to != at and total < best.get(to, math.inf) and _free(points[at], points[to], walls):
                best[to], before[to] = total, at
                heapq.heappush(queue, (total, to))
    path: list[Point] = []
    at = len(points) - 1
    while at in before:
        at = before[at]
        if at:
            path.append(points[at])
    return path[::-1]


def _free(start: Point, end: Point, walls: Sequence[tuple[Corners, Corners]]) -> bool:
    """Whether the leg keeps out of every widened zone, or of the zone itself where an end is already in its margin."""
    for zone, widened in walls:
        near = Polygon(widened, inclusion=False)
        if _crosses(start, end, zone if near.holds(start) or near.holds(end) else widened):
            return False
    return True


def _corners(zone: Polygon | Circle, margin_m: float) -> tuple[Point, ...]:
    """Corners of the zone, pushed out from its centre of corners by about `margin_m`."""
    if isinstance(zone, Circle):
        reach = (zone.radius_m + margin_m) / math.cos(math.pi / CIRCLE_CORNERS)
        return tuple(
            (
                zone.centre_m[0] + reach * math.cos(2.0 * math.pi * k / CIRCLE_CORNERS),
                zone.centre_m[1] + reach * math.sin(2.0 * math.pi * k / CIRCLE_CORNERS),
            )
            for k in range(CIRCLE_CORNERS)
        )
    if margin_m == 0.0:
        return zone.corners_m
    centre = tuple(sum(corner[axis] for corner in zone.corners_m) / len(zone.corners_m) for axis in (0, 1))
    pushed = []
    for corner in zone.corners_m:
        away = (corner[0] - centre[0], corner[1] - centre[1])
        length = math.hypot(*away) or 1.0
        grow = 1.0 + margin_m * math.sqrt(2.0) / length
        pushed.append((centre[0] + away[0] * grow, centre[1] + away[1] * grow))
    return tuple(pushed)


def _crosses(start: Point, end: Point, corners: tuple[Point, ...]) -> bool:
    """Whether the segment enters the polygon."""
    if any(_intersect(start, end, a, b) for a, b in zip(corners, (*corners[1:], corners[0]), strict=True)):
        return True
    middle = ((start[0] + end[0]) / 2.0, (start[1] + end[1]) / 2.0)
    return Polygon(corners, inclusion=False).holds(middle)


def _side(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _intersect(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments cross properly (touching at an end does not count)."""
    return _side(a, b, c) * _side(a, b, d) < 0.0 and _side(c, d, a) * _side(c, d, b) < 0.0
