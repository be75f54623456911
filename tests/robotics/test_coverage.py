"""Everything is seen, nothing forbidden is touched: properties of coverage over drawn areas."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import unary_union
from shapely.geometry import LineString, Polygon, box

from qaios.core.errors import Invalid
from qaios.robotics import coverage, sectors
from qaios.robotics.geo import Area, Origin

WIDTH_M = 14.0
CLEARANCE_M = 4.0


@st.composite
def areas(draw: st.DrawFn) -> tuple[Area, list[list[list[float]]]]:
    """A star-shaped area of some 100 m, up to two no-fly zones and two obstacles."""
    count = draw(st.integers(4, 8))
    radii = draw(st.lists(st.floats(35, 80), min_size=count, max_size=count))
    boundary = Polygon(
        [(r * math.cos(2 * math.pi * i / count), r * math.sin(2 * math.pi * i / count)) for i, r in enumerate(radii)]
    )

    def boxes() -> list[Polygon]:
        rows = draw(
            st.lists(st.tuples(st.floats(-50, 40), st.floats(-50, 40), st.floats(3, 20), st.floats(3, 20)), max_size=2)
        )
        return [box(x, y, x + w, y + h) for x, y, w, h in rows]

    solids = [[[x, y] for x, y in solid.exterior.coords[:-1]] for solid in boxes()]
    return Area(Origin(), boundary, tuple(boxes())), solids


@settings(max_examples=40, deadline=None)
@given(areas())
def test_every_point_is_within_half_a_width_of_a_swath_and_no_swath_comes_near_a_zone(
    drawn: tuple[Area, list[list[list[float]]]],
) -> None:
    area, solids = drawn
    plan = coverage.cover(area, solids, width_m=WIDTH_M, clearance_m=CLEARANCE_M, angles=6)
    lines = [LineString([swath.start, swath.end]) for swath in plan.swaths]
    forbidden = unary_union([*area.zones, *(Polygon(solid) for solid in solids)])
    free = coverage.free_region(area, plan.zones)

    for line in lines:
        assert forbidden.is_empty or line.distance(forbidden) >= CLEARANCE_M - 0.01
        assert line.within(area.boundary.buffer(0.01))

    promised = area.boundary.difference(forbidden).intersection(free.buffer(coverage.REACH * WIDTH_M))
    seen = unary_union([line.buffer(WIDTH_M / 2 + 0.01, quad_segs=64) for line in lines])
    assert promised.difference(seen).area <= coverage.RESIDUE_M2


@settings(max_examples=25, deadline=None)
@given(areas(), st.integers(2, 4))
def test_cutting_at_sector_borders_keeps_every_metre_of_every_swath(
    drawn: tuple[Area, list[list[list[float]]]], parts: int
) -> None:
    area, solids = drawn
    plan = coverage.cover(area, solids, width_m=WIDTH_M, clearance_m=CLEARANCE_M, angles=3)
    cells = sectors.cells(coverage.free_region(area, plan.zones), width_m=WIDTH_M)
    assignment = [index % parts for index in range(len(cells["cells"]))]
    grounds = sectors.shapes(cells["cells"], assignment)

    pieces = coverage.split(plan.swaths, grounds, shortest_m=WIDTH_M / 2)

    assert len({piece.id for piece in pieces}) == len(pieces)
    assert sum(piece.length_m for piece in pieces) == pytest.approx(
        sum(swath.length_m for swath in plan.swaths), abs=0.02 * len(pieces)
    )
    assert {piece.sector for piece in pieces} <= set(range(len(grounds)))


def test_the_same_area_gives_the_same_swaths() -> None:
    area = Area(Origin(), box(0, 0, 100, 60), (box(40, 20, 60, 40),))
    first, second = (coverage.cover(area, width_m=12, clearance_m=3) for _ in range(2))
    assert first == second
    assert len(first.swaths) >= 5


def test_a_long_field_is_flown_along_its_length() -> None:
    plan = coverage.cover(Area(Origin(), box(0, 0, 200, 40)), width_m=10, clearance_m=3)
    assert plan.angle_deg == 0.0


@pytest.mark.parametrize("width_m", [0.0, -3.0, 5000.0])
def test_an_impossible_width_is_refused(width_m: float) -> None:
    with pytest.raises(Invalid, match="width"):
        coverage.cover(Area(Origin(), box(0, 0, 50, 50)), width_m=width_m, clearance_m=3)


def test_an_area_that_is_all_no_fly_zone_is_refused() -> None:
    with pytest.raises(Invalid, match="leave nothing"):
        coverage.cover(Area(Origin(), box(0, 0, 50, 50), (box(-5, -5, 55, 55),)), width_m=10, clearance_m=3)


def test_cells_fit_a_small_quantum_computer_and_carry_the_whole_load() -> None:
    region = box(0, 0, 120, 120).difference(box(0, 0, 55, 30))
    for count in (4, 6, 8, 10):
        problem = sectors.cells(region, width_m=16, count=count)
        assert len(problem["cells"]) <= count
        assert sum(cell["load"] for cell in problem["cells"]) == pytest.approx(region.area / 16, rel=1e-3)
        assert all(i < j < len(problem["cells"]) and metres > 0 for i, j, metres in problem["edges"])


def test_a_split_of_another_area_is_refused() -> None:
    problem = sectors.cells(box(0, 0, 100, 100), width_m=16)
    with pytest.raises(Invalid, match="assigns 2 cells"):
        sectors.shapes(problem["cells"], [0, 1])
