"""The survey of an area, step by step, as a mission's `compute.call` tasks call it.

    area(geojson) -> cells(area, obstacles) -> [quantum.optimize] -> swaths(area, obstacles, sectors, vehicles)
                  -> fly(plan) -> one `drone.survey` per vehicle

Every function is pure: plain data in, plain data out, the same answer for the same question; they run in a
compute worker, so shapely and OR-Tools never enter the kernel. Positions are [east, north] in metres around
`area.origin`, lengths in metres, times in seconds.

`obstacles` may be what `drone.scan` returned, a list of such results, or a list of polygons; they are all read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qaios.core.errors import Invalid
from qaios.core.values import Result, TaskSpec
from qaios.robotics import coverage, geo, routing, sectors
from qaios.robotics.legs import Passage
from qaios.robotics.obstacles import buildings

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

MATCH_M = 3.0  # what was seen this near a mapped building is that building; less than any clearance flown with
FENCE_MARGIN_M = 20.0  # how far outside the area and the homes a vehicle may stray before its own fence stops it


def area(document: Any) -> dict[str, Any]:
    """A GeoJSON area (or the path of one) checked and in local metres: see `geo.Area.plain`."""
    return geo.read_area(document).plain()


def cells(
    area: Any,
    obstacles: Any = (),
    *,
    altitude_m: float = 20.0,
    clearance_m: float = 4.0,
    width_m: float = 16.0,
    count: int = 8,
    parts: int = 4,
) -> dict[str, Any]:
    """The sector split of the free region as data for `quantum.optimize`: cells with load, borders, parts (2 or 4)."""
    ground = geo.read_area(area)
    standing, _ = _standing(ground, obstacles, altitude_m)
    zones = coverage.keepouts(ground, standing, clearance_m)
    problem = sectors.cells(coverage.free_region(ground, zones), width_m=width_m, count=count)
    return problem | {"parts": parts}


def swaths(
    area: Any,
    obstacles: Any = (),
    sectors: Any = None,
    vehicles: Sequence[Any] = (),
    *,
    altitude_m: float = 20.0,
    shelf_m: float = 3.0,
    speed_mps: float = 4.0,
    width_m: float = 16.0,
    clearance_m: float = 4.0,
    turn_s: float = 2.0,
    budget_s: float = 420.0,
    then: str = "home",
    work: int = 300,
) -> dict[str, Any]:
    """The whole plan: swaths, who flies them in which order, and the frame every flight needs.

    `sectors`: {"cells": the result of `cells` (or its cells), "assignment": part per cell}; None lets the router
    share the swaths freely. `vehicles`: names, or mappings with `device` and `home` (as `drone.scan` returns).
    Each vehicle flies at its own shelf, `shelf_m` above the one before, so no two meet. Raises `Invalid` for what
    makes no plan, `Refused` when the budgets do not suffice.
    """
    ground = geo.read_area(area)
    crews = _crews(vehicles)
    if then not in ("home", "hold"):
        raise Invalid(f"after the survey a vehicle goes home or holds, not {then!r}", hint="Use home or hold.")
    standing, unmapped = _standing(ground, obstacles, altitude_m)
    plan = coverage.cover(ground, standing, width_m=width_m, clearance_m=clearance_m)
    zones = plan.zones
    parts = _sector_shapes(sectors)
    lines = coverage.split(plan.swaths, parts, shortest_m=width_m / 2.0) if parts else plan.swaths
    shares = _shares(parts, crews)
    crafts = [
        routing.Craft(name, home, home, budget_s, shares[number]) for number, (name, home) in enumerate(crews.items())
    ]
    routes = routing.route(lines, crafts, Passage(zones), speed_mps=speed_mps, turn_s=turn_s, work=work)
    shelves = {name: altitude_m + shelf_m * number for number, name in enumerate(crews)}
    frame = {
        "origin": ground.origin.plain(),
        "zones": zones,
        "fence": fence(ground, list(crews.values())),
        "shelves": shelves,
        "shelf_m": shelf_m,
        "homes": {name: list(home) for name, home in crews.items()},
        "speed_mps": speed_mps,
        "turn_s": turn_s,
        "budget_s": budget_s,
        "then": then,
    }
    return {
        "frame": frame,
        "swaths": [line.plain() for line in lines],
        "routes": {name: [leg.plain() for leg in legs] for name, legs in routes.legs.items()},
        "duration_s": dict(routes.duration_s),
        "angle_deg": plan.angle_deg,
        "length_m": round(sum(line.length_m for line in lines), 1),
        "unreached_m2": plan.unreached_m2,
        "obstacles": standing,
        "unmapped": unmapped,
        "swaths_planned": len(lines),
    }


def fly(plan: Mapping[str, Any], *, priority: int = 10) -> Result:
    """One `drone.survey` per vehicle that has something to fly, pinned to it."""
    tasks = [
        survey_task(f"survey-{name}", name, legs, plan["frame"], priority=priority)
        for name, legs in plan["routes"].items()
        if legs
    ]
    return Result(
        value={"swaths_planned": plan["swaths_planned"], "tasks": [task.name for task in tasks]}, spawn=tuple(tasks)
    )


def survey_task(
    name: str, vehicle: str, legs: Sequence[Mapping[str, Any]], frame: Mapping[str, Any], *, priority: int
) -> TaskSpec:
    """A `drone.survey` of these swaths by this vehicle. The frame goes along, so that a repair needs nothing else."""
    return TaskSpec(
        name=name,
        action="drone.survey",
        arguments={
            "swaths": [dict(leg) for leg in legs],
            "altitude_m": frame["shelves"][vehicle],
            "speed_mps": frame["speed_mps"],
            "then": frame["then"],
            "frame": dict(frame),
        },
        priority=priority,
        retries=1,
        device=vehicle,
    )


def salvage(flight: Mapping[str, Any]) -> dict[str, Any]:
    """What a lost flight had brought, as a result in the place of its own: see `robotics.repair`."""
    return dict(flight)


def collect(surveys: Sequence[Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """All flights as one: samples in order of time, tracks by vehicle, swaths flown and missing, and the metrics of it.

    `surveys`: the results of every `drone.survey`, repairs and what was salvaged of lost ones included (`${fly.*}`);
    `lost` says where each lost vehicle was last heard of.
    """
    flights = [flight for flight in surveys if isinstance(flight, Mapping)]
    tracks: dict[str, set[tuple[float, ...]]] = {}
    for flight in flights:
        rows = (tuple(row) for row in flight.get("samples", ()))
        tracks.setdefault(str(flight.get("device", "")), set()).update(rows)
    samples = sorted({row for rows in tracks.values() for row in rows})
    flown = sorted({str(swath) for flight in flights for swath in flight.get("flown", ())})
    planned = [str(swath["id"]) for swath in plan["swaths"]]
    batteries = [flight["min_battery_fraction"] for flight in flights if "min_battery_fraction" in flight]
    began_s = samples[0][0] if samples else 0.0
    metrics = {
        "swaths_planned": len(planned),
        "swaths_flown": len(set(flown).intersection(planned)),
        "min_battery_fraction": min(batteries, default=None),
        "distance_m": round(sum(flight.get("distance_m", 0.0) for flight in flights), 1),
        "samples": len(samples),
    }
    return {
        "samples": [list(row) for row in samples],
        "tracks": {vehicle: [list(row[1:3]) for row in sorted(rows)] for vehicle, rows in tracks.items() if rows},
        "flown": flown,
        "missing": [swath for swath in planned if swath not in flown],
        "lost": [_last_heard(flight, began_s) for flight in flights if flight.get("salvaged") and flight["samples"]],
        "metrics": metrics,
    }


def _last_heard(salvaged: Mapping[str, Any], began_s: float) -> dict[str, Any]:
    at_s, east_m, north_m, *_ = max(salvaged["samples"])
    after_s = round(at_s - began_s, 3)
    return {"vehicle": salvaged["device"], "at_s": at_s, "after_s": after_s, "east_m": east_m, "north_m": north_m}


def figures(
    collected: Mapping[str, Any],
    plume: Mapping[str, Any],
    sectors: Mapping[str, Any],
    truth: Mapping[str, Any] | None = None,
    drill: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The survey in figures, numbers only, units last; what only the simulated world knows is there when `truth` is."""
    known = truth or {}
    found = {
        **collected["metrics"],
        "min_separation_m": known.get("min_separation_m"),
        "plume_error": plume["plume_error"],
        "baseline_error": plume["baseline_error"],
        "qaoa_cost": sectors["cost"],
        "optimal_cost": sectors["optimal_cost"],
    }
    if known:
        # The battery of a vehicle whose process was killed counts up to its death, as its own reports did.
        found["contacts"] = sum(int(vehicle["contacts"]) for vehicle in known["vehicles"] if not vehicle["ended_why"])
    if drill:
        found["killed_after_s"] = drill["after_s"]
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in found.items()}


def solids(found: Any) -> list[list[list[float]]]:
    """Polygons (corners in metres) out of whatever describes obstacles. Raises `Invalid`.

    What a lidar saw is joined over all scans into boxes (`obstacles.buildings`); polygons are taken as they are.
    """
    given, seen = _outlines(found)
    return given + buildings(seen)


def _outlines(found: Any) -> tuple[list[Any], list[Any]]:
    """(polygons as given, outlines seen by lidar) out of scan results, outlines, polygons, and lists of them."""
    if found is None:
        return [], []
    if isinstance(found, Mapping):
        if "obstacles" in found:
            return _outlines(found["obstacles"])
        if "corners" in found:
            corners = [[float(x), float(y)] for x, y, *_ in found["corners"]]
            return ([], [corners]) if "hits" in found else ([corners], [])
    elif isinstance(found, Sequence) and not isinstance(found, str):
        if len(found) >= 3 and all(_is_place(item) for item in found):
            return [[[float(item[0]), float(item[1])] for item in found]], []
        parts = [_outlines(item) for item in found]
        return [one for given, _ in parts for one in given], [one for _, seen in parts for one in seen]
    raise Invalid(f"{found!r} describes no obstacle", hint="Give results of drone.scan or lists of [east, north].")


def _standing(
    ground: geo.Area, obstacles: Any, altitude_m: float
) -> tuple[list[list[list[float]]], list[list[list[float]]]]:
    """What to keep clear of at this altitude, and the part of it that no map knew.

    The area's buildings stand where the map has them. What a lidar saw of one is a ragged outline that comes out a
    little different on every flight, so where it agrees with the map the map counts, and the same seed gives the
    same plan; what the map does not know counts as it was seen.
    """
    tall = [shape for shape, height_m in ground.buildings if height_m >= altitude_m]
    mapped = [shape.buffer(MATCH_M) for shape in (*(shape for shape, _ in ground.buildings), *ground.zones)]
    unmapped = [
        solid
        for solid in solids(obstacles)
        if not any(shape.contains(geo.polygon(solid, "an obstacle")) for shape in mapped)
    ]
    return [geo.corners(shape) for shape in tall] + unmapped, unmapped


def fence(ground: geo.Area, homes: Sequence[geo.XY]) -> dict[str, Any]:
    """The fence a vehicle gets before it is armed: around area and homes with a margin, without the no-fly zones."""
    from shapely.geometry import MultiPoint

    around = MultiPoint([*ground.boundary.exterior.coords, *homes]).convex_hull
    return {
        "inclusion": geo.corners(geo.polygons(geo.grown(around, FENCE_MARGIN_M))[0]),
        "exclusions": [geo.corners(zone) for zone in ground.zones],
    }


def _is_place(item: Any) -> bool:
    return isinstance(item, Sequence) and len(item) in (2, 3) and all(isinstance(part, int | float) for part in item)


def _crews(vehicles: Sequence[Any]) -> dict[str, geo.XY]:
    """Name -> home, in the order given."""
    crews: dict[str, geo.XY] = {}
    for vehicle in vehicles:
        if isinstance(vehicle, str):
            crews[vehicle] = (0.0, 0.0)
        elif isinstance(vehicle, Mapping) and "device" in vehicle:
            home = vehicle.get("home", (0.0, 0.0))
            crews[str(vehicle["device"])] = (float(home[0]), float(home[1]))
        else:
            raise Invalid(f"{vehicle!r} is no vehicle", hint="Give a device name, or {device, home: [east, north]}.")
    if not crews:
        raise Invalid("a survey without vehicles", hint="Name at least one drone in `vehicles`.")
    return crews


def _sector_shapes(split: Any) -> list[BaseGeometry]:
    if split is None:
        return []
    if not isinstance(split, Mapping) or "assignment" not in split or "cells" not in split:
        raise Invalid("sectors are {cells, assignment}", hint="Give the cells and what the optimiser assigned.")
    rows = split["cells"]["cells"] if isinstance(split["cells"], Mapping) else split["cells"]
    return sectors.shapes(rows, split["assignment"])


def _shares(parts: Sequence[BaseGeometry], crews: Mapping[str, geo.XY]) -> list[frozenset[int] | None]:
    """Which sectors each vehicle may fly: the nearest matching when there are as many, dealt round otherwise."""
    homes, count = list(crews.values()), len(crews)
    if not parts:
        return [None] * count
    if len(parts) != count:
        return [
            frozenset(part for part in range(len(parts)) if part % count == vehicle % len(parts))
            for vehicle in range(count)
        ]
    centres = [(part.centroid.x, part.centroid.y) for part in parts]
    best = min(
        itertools.permutations(range(count)) if count <= 6 else [tuple(range(count))],
        key=lambda order: round(sum(math.dist(homes[i], centres[part]) for i, part in enumerate(order)), 6),
    )
    return [frozenset({part}) for part in best]
