"""Lidar turns become walls where the walls are, whatever was seen of them on the way."""

from __future__ import annotations

import math
from random import Random

import pytest

from qaios.robotics import survey
from qaios.robotics.obstacles import ObstacleMap, buildings

RAYS, REACH_M = 24, 20.0
SCHOOL = (-41.0, 24.0, -19.0, 36.0)


def range_m(east: float, north: float, angle: float, box: tuple[float, float, float, float]) -> float:
    """How far a ray clockwise from north goes until it meets the box."""
    near, far = 0.0, REACH_M
    for at, step, low, high in ((east, math.sin(angle), box[0], box[2]), (north, math.cos(angle), box[1], box[3])):
        if abs(step) < 1e-9:
            if not low <= at <= high:
                return REACH_M
            continue
        first, second = sorted(((low - at) / step, (high - at) / step))
        near, far = max(near, first), min(far, second)
    return near if near <= far else REACH_M


def turn(seen: ObstacleMap, east: float, north: float, *, yaw_rad: float = 0.0, body: bool = False) -> None:
    """One turn of the lidar at a place; `body`: angles count from the nose instead of from north."""
    step = 2.0 * math.pi / RAYS
    offset = yaw_rad if body else 0.0
    ranges = [range_m(east, north, ray * step + offset, SCHOOL) for ray in range(RAYS)]
    start = 0.0 if body else -yaw_rad
    seen.add(ranges, start_rad=start, step_rad=step, max_m=REACH_M, position_m=(east, north, 10.0), yaw_rad=yaw_rad)


def around(seed: int) -> ObstacleMap:
    """A ring south of the school and one west of it, never flown quite the same."""
    random, seen = Random(seed), ObstacleMap()
    for centre in ((-30.0, 12.0), (-48.0, 34.0)):
        for number in range(60):
            angle = (number + random.random()) * 2.0 * math.pi / 60
            turn(seen, centre[0] + 6.0 * math.cos(angle), centre[1] + 6.0 * math.sin(angle))
    return seen


def test_walls_are_found_where_they_are_however_the_ring_was_flown() -> None:
    boxes = {str(survey.solids({"obstacles": around(seed).solids()})) for seed in range(8)}
    assert len(boxes) == 1
    (box,) = survey.solids({"obstacles": around(1).solids()})
    assert [box[0][0], box[0][1]] == [SCHOOL[0], SCHOOL[1]]
    assert box[2][0] == SCHOOL[2]


@pytest.mark.parametrize("yaw_rad", [0.0, 0.7, -2.0])
@pytest.mark.parametrize("body", [False, True])
def test_the_heading_does_not_turn_the_map(yaw_rad: float, body: bool) -> None:
    seen = ObstacleMap()
    for _ in range(2):
        turn(seen, -30.0, 12.0, yaw_rad=yaw_rad, body=body)
    assert seen.nearest_m == pytest.approx(12.0, rel=0.05)
    assert len(seen.points_m)
    assert all(abs(north - 24.0) < 0.3 for _, north in seen.points_m)


def test_one_stray_hit_and_what_is_out_of_reach_are_no_obstacle() -> None:
    seen = ObstacleMap()
    seen.add([5.0, REACH_M, 0.0, math.nan], start_rad=0, step_rad=1, max_m=REACH_M, position_m=(0, 0, 5), yaw_rad=0)
    assert len(seen.points_m) == 1
    assert seen.solids() == []


def test_parts_seen_from_different_sides_become_one_building_and_distant_ones_stay_apart() -> None:
    south: list[list[float]] = [[0, 0], [10, 0], [10, 0.5], [0, 0.5]]
    east: list[list[float]] = [[9.75, 0], [10.25, 0], [10.25, 8.2], [9.75, 8.2]]
    far: list[list[float]] = [[30, 0], [32, 0], [32, 2], [30, 2]]
    assert [(box[0], box[2]) for box in buildings([south, far, east])] == [
        ([0.0, 0.0], [10.0, 8.0]),
        ([30.0, 0.0], [32.0, 2.0]),
    ]


def test_polygons_that_are_known_are_taken_as_they_are() -> None:
    corner = [[0.2, 0.3], [4.7, 0.1], [2.2, 3.9]]
    assert survey.solids([corner, {"corners": corner}]) == [corner, corner]
