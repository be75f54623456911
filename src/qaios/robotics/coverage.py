"""Coverage: from an area to swaths, the straight lines a vehicle flies so that everything is seen.

The free region (area minus the no-fly zones and obstacles, each grown by the clearance) is turned, sliced by
parallel lines and turned back; of N angles and three overlaps the least flying wins (boustrophedon coverage: Choset
2000; best angle of a polygon: Huang 2001). Slices alone miss corners, where a strip is wider than its own middle
line, so what is left is filled with short extra swaths until nothing is. The promise, tested as a property: every
point of the area outside zones and obstacles that lies within 0.4 widths of the free region lies within half a
width of a swath, and no swath comes nearer to a zone or obstacle than the clearance.

Everything is in local ENU metres and deterministic. Called by `robotics.survey` in a compute worker.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qaios.core.errors import Invalid
from qaios.robotics.geo import XY, Area, corners, grown, polygon, polygons

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

OVERLAPS = (0.1, 0.2, 0.3)  # of neighbouring swaths: more of it means more lines and fewer corners left to fill
CANDIDATES = 4  # drafts that are filled and compared
TURN_COST_M = 12.0  # a turn costs about as much as flying this far: slow down, turn, speed up at 4 m/s
REACH = 0.4  # widths: what lies further from the free region than this is reported as unreached
EDGE_M = 0.1
RESIDUE_M2 = 0.05  # less than this is rounding of the buffers, not ground left unseen
SLIVER_M = 1.0  # a slice shorter than this is left to the filling pass


@dataclass(frozen=True, slots=True)
class Swath:
    """One straight line to fly in either direction."""

    id: str
    start: XY
    end: XY
    sector: int = 0

    @property
    def length_m(self) -> float:
        return math.dist(self.start, self.end)

    def plain(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "start": list(self.start),
            "end": list(self.end),
            "length_m": round(self.length_m, 3),
            "sector": self.sector,
        }

    @classmethod
    def read(cls, document: Any) -> Swath:
        """From `plain()`; raises `Invalid`."""
        try:
            (start_x, start_y), (end_x, end_y) = document["start"], document["end"]
            return cls(
                str(document["id"]),
                (float(start_x), float(start_y)),
                (float(end_x), float(end_y)),
                int(document.get("sector", 0)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Invalid(
                f"a swath is {{id, start: [east, north], end: [east, north]}}, not {document!r}",
                hint="Take swaths from `qaios.robotics.survey:swaths`.",
            ) from error


@dataclass(frozen=True, slots=True)
class Coverage:
    swaths: tuple[Swath, ...]
    angle_deg: float
    zones: list[list[list[float]]]  # the keep-outs it goes around
    unreached_m2: float  # of the area: further than `REACH` from any place a vehicle may be


def keepouts(area: Area, obstacles: Iterable[Any], clearance_m: float) -> list[list[list[float]]]:
    """No-fly zones and obstacles grown by the clearance, merged where they meet, as corners."""
    from shapely import unary_union

    solids = [*area.zones, *(polygon(obstacle, f"obstacle {i}") for i, obstacle in enumerate(obstacles))]
    return [corners(part) for part in polygons(unary_union([grown(solid, clearance_m) for solid in solids]))]


def free_region(area: Area, zones: Sequence[Sequence[Sequence[float]]]) -> BaseGeometry:
    """Where a vehicle may be, `EDGE_M` off every border. Raises `Invalid` when that is nowhere."""
    from shapely import unary_union
    from shapely.geometry import Polygon

    region = area.boundary.difference(unary_union([Polygon(zone) for zone in zones])) if zones else area.boundary
    region = region.buffer(-EDGE_M, join_style="mitre")
    if region.area < 1.0:
        raise Invalid("the no-fly zones leave nothing of the area", hint="Lower the clearance or move the zones.")
    return region


def cover(
    area: Area, obstacles: Sequence[Any] = (), *, width_m: float, clearance_m: float, angles: int = 18
) -> Coverage:
    """Swaths that cover the area at sensing width `width_m` (metres, > 0), best of `angles` directions.

    Ids are S00, S01… in slicing order, the filling ones last.
    """
    if not 0.5 <= width_m <= 1000.0:
        raise Invalid(f"a swath width of {width_m} m makes no plan", hint="Give 0.5 to 1000 m.")
    zones = keepouts(area, obstacles, clearance_m)
    region = free_region(area, zones)
    ground = area.boundary.difference(_union([*area.zones, *(polygon(solid, "an obstacle") for solid in obstacles)]))
    target = ground.intersection(region.buffer(REACH * width_m))
    directions = [180.0 * step / max(1, angles) for step in range(max(1, angles))]
    drafts = [
        (angle, _slices(region, width_m * (1.0 - overlap), angle)) for overlap in OVERLAPS for angle in directions
    ]
    # How many holes the slices leave tells well enough what filling will cost, and is much cheaper to find out.
    holes = [len(polygons(_unseen(target, lines, width_m))) for _, lines in drafts]
    order = sorted(
        range(len(drafts)), key=lambda i: (round(_cost_m(drafts[i][1]) + TURN_COST_M * holes[i], 3), drafts[i][0], i)
    )
    tried = [
        (angle, lines + _filling(target, region, lines, width_m, angle))
        for angle, lines in (drafts[i] for i in order[:CANDIDATES])
    ]
    best, lines = min(tried, key=lambda row: (round(_cost_m(row[1]), 3), row[0]))
    swaths = tuple(Swath(f"S{index:02d}", *line) for index, line in enumerate(lines))
    return Coverage(swaths, best, zones, max(0.0, round(float(ground.area - target.area), 2)))


def split(swaths: Sequence[Swath], sectors: Sequence[BaseGeometry], *, shortest_m: float) -> tuple[Swath, ...]:
    """Cut every swath at the borders of the sectors; a piece below `shortest_m` stays with its neighbour.

    The pieces of a swath together are the swath, so coverage does not change.
    """
    pieces: list[Swath] = []
    for swath in swaths:
        cuts = _cuts(swath, sectors)
        runs: list[tuple[float, float, int]] = []
        for begin, end in itertools.pairwise(cuts):
            sector = _sector_of(_along(swath, (begin + end) / 2.0), sectors)
            if runs and (runs[-1][2] == sector or (end - begin) * swath.length_m < shortest_m):
                runs[-1] = (runs[-1][0], end, runs[-1][2])
            elif runs and (runs[-1][1] - runs[-1][0]) * swath.length_m < shortest_m:
                runs[-1] = (runs[-1][0], end, sector)
            else:
                runs.append((begin, end, sector))
        for index, (begin, end, sector) in enumerate(runs):
            name = swath.id if len(runs) == 1 else f"{swath.id}{chr(ord('a') + index)}"
            pieces.append(replace(swath, id=name, start=_along(swath, begin), end=_along(swath, end), sector=sector))
    return tuple(pieces)


def _union(shapes: Iterable[BaseGeometry]) -> BaseGeometry:
    from shapely import unary_union

    return unary_union(list(shapes))


def _cost_m(lines: Sequence[tuple[XY, XY]]) -> float:
    return sum(math.dist(*line) for line in lines) + TURN_COST_M * len(lines)


def _slices(region: BaseGeometry, spacing_m: float, angle_deg: float) -> list[tuple[XY, XY]]:
    """Parallel lines through the region, one per strip of at most `spacing_m`."""
    from shapely import affinity
    from shapely.geometry import LineString

    turned = affinity.rotate(region, -angle_deg, origin=(0.0, 0.0))
    left, low, right, high = turned.bounds
    strips = max(1, math.ceil((high - low) / spacing_m - 1e-9))
    lines = []
    for strip in range(strips):
        y = low + (strip + 0.5) * (high - low) / strips
        inside = turned.intersection(LineString([(left - 1.0, y), (right + 1.0, y)]))
        parts = [part for part in getattr(inside, "geoms", [inside]) if part.length >= SLIVER_M]
        for part in sorted(parts, key=lambda part: float(part.bounds[0])):
            back = affinity.rotate(part, angle_deg, origin=(0.0, 0.0))
            lines.append((_point(back.coords[0]), _point(back.coords[-1])))
    return lines


def _filling(
    target: BaseGeometry, region: BaseGeometry, lines: Sequence[tuple[XY, XY]], width_m: float, angle_deg: float
) -> list[tuple[XY, XY]]:
    """Short swaths over what the slices missed, each over the largest piece left, until nothing is."""
    from shapely.geometry import LineString
    from shapely.ops import nearest_points

    reach_m = width_m / 2.0
    left = _unseen(target, lines, width_m)
    extra: list[tuple[XY, XY]] = []
    while left.area > RESIDUE_M2 and len(extra) < 1000:
        piece = max(polygons(left), key=lambda part: (round(part.area, 6), part.bounds), default=None)
        if piece is None or piece.area < 1e-6:
            break
        middle, _ = nearest_points(region, piece.representative_point())
        line = _chord(region, _point(middle.coords[0]), piece, angle_deg, reach_m)
        extra.append(line)
        left = left.difference(LineString(line).buffer(reach_m, quad_segs=24))
    return extra


def _unseen(target: BaseGeometry, lines: Sequence[tuple[XY, XY]], width_m: float) -> BaseGeometry:
    """What no line sees. Buffers are drawn a hair inside the true circle, so what they cover is covered."""
    from shapely.geometry import MultiLineString

    return target.difference(MultiLineString(list(lines)).buffer(width_m / 2.0, quad_segs=24)) if lines else target


def _chord(region: BaseGeometry, middle: XY, piece: BaseGeometry, angle_deg: float, reach_m: float) -> tuple[XY, XY]:
    """The free line through `middle`, along the slices, as long as the piece it is there for (at least a metre)."""
    from shapely import affinity
    from shapely.geometry import LineString, Point

    turned = affinity.rotate(piece, -angle_deg, origin=middle)
    begin = min(float(turned.bounds[0]) + 0.5 * reach_m, middle[0] - 0.5)
    end = max(float(turned.bounds[2]) - 0.5 * reach_m, middle[0] + 0.5)
    line = affinity.rotate(LineString([(begin, middle[1]), (end, middle[1])]), angle_deg, origin=middle)
    parts = _lines(region.intersection(line))
    here = min(parts, key=lambda part: float(part.distance(Point(middle))), default=None)
    if here is not None and here.length >= 2.0 * EDGE_M and here.distance(Point(middle)) < 0.01:
        return _point(here.coords[0]), _point(here.coords[-1])
    # A corner in which no line along the slices fits: the region keeps `EDGE_M` off its border, so this one does.
    return _point((middle[0] - EDGE_M, middle[1])), _point((middle[0] + EDGE_M, middle[1]))


def _lines(shape: BaseGeometry) -> list[BaseGeometry]:
    return [part for part in getattr(shape, "geoms", [shape]) if part.geom_type == "LineString" and part.length > 0.0]


def _point(place: Sequence[float]) -> XY:
    return round(float(place[0]), 3), round(float(place[1]), 3)


def _along(swath: Swath, fraction: float) -> XY:
    return _point([a + fraction * (b - a) for a, b in zip(swath.start, swath.end, strict=True)])


def _cuts(swath: Swath, sectors: Sequence[BaseGeometry]) -> list[float]:
    """Where along the swath (0..1) it crosses a border of a sector, both ends included."""
    from shapely.geometry import LineString

    line = LineString([swath.start, swath.end])
    at = {0.0, 1.0}
    for sector in sectors:
        inside = line.intersection(sector)
        for part in getattr(inside, "geoms", [inside]):
            if part.geom_type == "LineString" and not part.is_empty:
                at |= {math.dist(swath.start, place) / swath.length_m for place in part.coords}
    cuts = [0.0]
    for cut in sorted(at):
        if (cut - cuts[-1]) * swath.length_m > 0.01:
            cuts.append(min(cut, 1.0))
    cuts[-1] = 1.0
    return cuts if len(cuts) > 1 else [0.0, 1.0]


def _sector_of(place: XY, sectors: Sequence[BaseGeometry]) -> int:
    from shapely.geometry import Point

    return min(range(len(sectors)), key=lambda index: (round(sectors[index].distance(Point(place)), 6), index))
