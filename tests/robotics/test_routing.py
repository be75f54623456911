"""Routes fly every swath once, in budget, around the zones, and the same way every time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import LineString, Polygon

from qaios.core.errors import Refused
from qaios.robotics import legs
from qaios.robotics.coverage import Swath
from qaios.robotics.legs import Passage
from qaios.robotics.routing import Craft, Routes, route

ZONE = [[40.0, 20.0], [60.0, 20.0], [60.0, 60.0], [40.0, 60.0]]


@st.composite
def fields(draw: st.DrawFn) -> list[Swath]:
    count = draw(st.integers(1, 9))
    rows = draw(st.lists(st.tuples(st.floats(0, 90), st.floats(5, 35)), min_size=count, max_size=count))
    swaths = []
    for index, (y, length) in enumerate(rows):
        left = 2.0 if index % 2 else 62.0  # on either side of the zone, never through it
        swaths.append(Swath(f"S{index:02d}", (left, y), (left + length, y), index % 3))
    return swaths


def fly(swaths: list[Swath], crafts: list[Craft]) -> Routes:
    return route(swaths, crafts, Passage([ZONE]), speed_mps=4.0, turn_s=2.0, work=60)


@settings(max_examples=30, deadline=None)
@given(fields(), st.integers(1, 3))
def test_every_swath_is_flown_once_within_budget_and_no_way_crosses_a_zone(swaths: list[Swath], count: int) -> None:
    crafts = [Craft(f"drone-{i}", (5.0 * i, -10.0), (5.0 * i, -10.0), 600.0) for i in range(count)]

    routes = fly(swaths, crafts)

    flown = [leg.swath.id for flight in routes.legs.values() for leg in flight]
    assert sorted(flown) == sorted(swath.id for swath in swaths)
    for craft in crafts:
        assert routes.duration_s[craft.name] <= craft.budget_s
        at, seconds = craft.start, 0.0
        for leg in routes.legs[craft.name]:
            path = [at, *leg.via, leg.swath.start]
            assert not any(LineString([a, b]).crosses(Polygon(ZONE)) for a, b in itertools.pairwise(path) if a != b)
            way_m = sum(math.dist(a, b) for a, b in itertools.pairwise(path))
            seconds += (way_m + leg.swath.length_m) / 4.0 + 2 * 2.0
            at = leg.swath.end
        assert seconds <= routes.duration_s[craft.name] + 0.6


def test_the_same_question_has_the_same_answer() -> None:
    swaths = [Swath(f"S{i:02d}", (0.0, 8.0 * i), (35.0, 8.0 * i)) for i in range(8)]
    crafts = [Craft(f"drone-{i}", (5.0 * i, -10.0), (5.0 * i, -10.0), 600.0) for i in range(3)]
    assert fly(swaths, crafts) == fly(swaths, crafts)


def test_work_is_shared_and_not_left_to_the_first() -> None:
    swaths = [Swath(f"S{i:02d}", (0.0, 8.0 * i), (35.0, 8.0 * i)) for i in range(8)]
    crafts = [Craft(f"drone-{i}", (0.0, -10.0), (0.0, -10.0), 600.0) for i in range(2)]
    flights = fly(swaths, crafts).legs
    assert all(len(flight) >= 3 for flight in flights.values())


def test_a_vehicle_flies_only_its_sectors() -> None:
    swaths = [Swath(f"S{i:02d}", (0.0, 8.0 * i), (35.0, 8.0 * i), i % 2) for i in range(6)]
    crafts = [Craft(f"drone-{i}", (0.0, 0.0), (0.0, 0.0), 600.0, frozenset({i})) for i in range(2)]
    routes = fly(swaths, crafts)
    assert all(leg.swath.sector == i for i in range(2) for leg in routes.legs[f"drone-{i}"])


def test_what_does_not_fit_the_budget_is_refused_with_the_figures() -> None:
    swaths = [Swath("S00", (0.0, 0.0), (35.0, 0.0))]
    with pytest.raises(Refused, match="drone-1 5 s"):
        fly(swaths, [Craft("drone-1", (0.0, 0.0), (0.0, 0.0), 5.0)])


def test_no_vehicle_and_no_allowed_vehicle_are_refused() -> None:
    swaths = [Swath("S00", (0.0, 0.0), (35.0, 0.0), 4)]
    with pytest.raises(Refused, match="no vehicle is left"):
        fly(swaths, [])
    with pytest.raises(Refused, match="sector 4"):
        fly(swaths, [Craft("drone-1", (0.0, 0.0), (0.0, 0.0), 600.0, frozenset({0}))])


def test_the_way_around_a_zone_turns_at_its_corners() -> None:
    turns = legs.way([ZONE], (30.0, 40.0), (70.0, 40.0))
    assert len(turns) == 2
    path: list[list[float]] = [[30.0, 40.0], *turns, [70.0, 40.0]]
    length = sum(math.dist(a, b) for a, b in itertools.pairwise(path))
    assert 64.7 < length < 67.0  # the taut string around the corners is 64.72 m


def test_the_way_out_of_a_zone_is_by_its_nearest_corner() -> None:
    turns = legs.way([ZONE], (42.0, 40.0), (0.0, 40.0))
    assert turns
    assert not Passage([ZONE]).within(np.array(turns)).any()


def test_a_free_way_is_straight() -> None:
    assert legs.way([ZONE], (0.0, 0.0), (10.0, 100.0)) == []
    assert legs.way([], (0.0, 0.0), (10.0, 100.0)) == []
