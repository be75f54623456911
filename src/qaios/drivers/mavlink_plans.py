"""From a task's arguments to what a vehicle is told: the pure part of the drone's actions.

`read_place`, `read_swaths` and the rest check arguments and raise `Invalid` saying what to do; `*_items` compile
them to mission items from where the vehicle is; `estimate` prices them. No I/O and no state, so a fleet can ask
for estimates by the thousand and a test can look at a plan without flying it.

Energy is hovering power times time: hover dominates a small multirotor's consumption at survey speeds (momentum
theory; Leishman, Principles of Helicopter Aerodynamics, 2nd ed., ch. 2 and 5), and it is the safe side.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qaios.core.errors import Invalid
from qaios.core.values import DeviceStatus, Estimate, Shape
from qaios.drivers.mavlink_protocol import CHANGE_SPEED, LOITER_TIME, RETURN, TAKEOFF, WAYPOINT, PlanItem
from qaios.robotics.geo import Origin

Place = tuple[float, float, float]

CLIMB_MPS = 1.5
TURN_S = 2.0
GRID_NAME = re.compile(r"Grid-([A-Z])([1-9][0-9]?)")
RING_CORNERS = 8


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a real vehicle listens for MAVLink."""

    name: str = ""
    host: str = "127.0.0.1"
    port: int = 14580
    sysid: int = 1


@dataclass(frozen=True, slots=True)
class MavlinkConfig:
    """Drones that speak MAVLink. Without `vehicles`, those of the node's simulated world."""

    vehicles: tuple[Endpoint, ...] = ()
    count: int = 4  # how many the simulated world has, as long as it does not say so itself
    lat_deg: float = 47.3977  # origin of local metres
    lon_deg: float = 8.5456
    lost_after_s: float = 3.0  # of silence
    takeover_s: float = 600.0  # how long a task waits for a person to give the vehicle back
    halt: str = "hold"  # or "land"
    altitude_m: float = 12.0  # where a task does not say
    speed_mps: float = 4.0
    battery_wh: float = 24.0
    hover_w: float = 100.0
    reserve_fraction: float = 0.25  # of the battery: a task that would go below is refused
    grid_m: float = 20.0  # Grid-A1 is the south-west cell of this size
    grid_east_m: float = -60.0
    grid_north_m: float = -60.0
    points: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fence_radius_m: float = 250.0  # around home, until a survey brings its own fence
    pm25_sigma_floor: float = 1.0  # ug/m3; data sheet of the sensor, for samples whose log was not fetched
    pm25_sigma_fraction: float = 0.05


# -- reading arguments ------------------------------------------------------------------------------------------


def number(arguments: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    """A number within its range. Raises `Invalid`."""
    value = arguments.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Invalid(f"{name} is {value!r}", hint=f"Give a number from {low:g} to {high:g}.")
    return float(value)


def read_place(value: Any, config: MavlinkConfig, origin: Origin, points: Mapping[str, Any] | None = None) -> Place:
    """(east, north, up or nan) of a named point, a grid cell, [east, north(, up)], {lat, lon} or a GeoJSON Point."""
    named = {**config.points, **(points or {})}
    if isinstance(value, str):
        if value in named:
            return float(named[value][0]), float(named[value][1]), math.nan
        cell = GRID_NAME.fullmatch(value)
        if cell is None:
            known = ", ".join(sorted(named)) or "none"
            raise Invalid(f"no point {value!r} (named points: {known})", hint="Use Grid-A1 … Grid-Z99 or a named one.")
        east_m = config.grid_east_m + (ord(cell[1]) - ord("A") + 0.5) * config.grid_m
        return east_m, config.grid_north_m + (int(cell[2]) - 0.5) * config.grid_m, math.nan
    if isinstance(value, Mapping):
        if value.get("type") == "Point":
            lon, lat, *up = value.get("coordinates", ())
        elif {"lat", "lon"} <= set(value):
            lon, lat, up = value["lon"], value["lat"], [value["up_m"]] if "up_m" in value else []
        else:
            raise Invalid(f"{value!r} is no place", hint="Give {lat, lon} or a GeoJSON Point.")
        return (*origin.local(float(lon), float(lat)), float(up[0]) if up else math.nan)
    if isinstance(value, Sequence) and len(value) in (2, 3) and all(isinstance(part, int | float) for part in value):
        return float(value[0]), float(value[1]), float(value[2]) if len(value) == 3 else math.nan
    raise Invalid(f"{value!r} is no place", hint="Give a name, [east, north], {lat, lon} or a GeoJSON Point.")


def read_swaths(arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The swaths of a survey, in order. Raises `Invalid`."""
    from qaios.robotics.coverage import Swath

    rows = arguments.get("swaths")
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise Invalid("a survey needs `swaths`", hint="Take them from `qaios.robotics.survey:fly`.")
    swaths = [{**Swath.read(row).plain(), "via": [list(turn) for turn in row.get("via", ())]} for row in rows]
    if len({swath["id"] for swath in swaths}) < len(swaths):
        raise Invalid("two swaths have the same id", hint="Give every swath its own id.")
    if arguments.get("then", "home") not in ("home", "hold"):
        raise Invalid(f"then is {arguments['then']!r}", hint="Use home or hold.")
    return swaths


# -- compiling --------------------------------------------------------------------------------------------------


def start_items(position: Place, airborne: bool, up_m: float, speed_mps: float) -> list[PlanItem]:
    """Climb to the height of the flight and set the speed."""
    climb = [] if airborne else [PlanItem(TAKEOFF, (position[0], position[1], up_m))]
    return [*climb, PlanItem(CHANGE_SPEED, None, 1.0, speed_mps, -1.0)]


def way_items(
    zones: Sequence[Any], position: Sequence[float], goal: Sequence[float], up_m: float, acceptance_m: float = 2.0
) -> list[PlanItem]:
    """Waypoints to `goal` around the zones, the goal last."""
    from qaios.robotics import legs

    turns = legs.way(zones, position, goal) if zones else []
    return [PlanItem(WAYPOINT, (turn[0], turn[1], up_m), 0.0, acceptance_m) for turn in [*turns, goal]]


def survey_items(
    swaths: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any], position: Place, airborne: bool, speed_mps: float
) -> tuple[list[PlanItem], list[tuple[str, int]]]:
    """The flight over `swaths`, and for each swath the item that finishes it.

    The way to the first swath is found from where the vehicle is; the ways between were planned, and are found
    anew where a swath before was left out.
    """
    up_m = float(arguments.get("altitude_m", 12.0))
    zones = (arguments.get("frame") or {}).get("zones", ())
    planned = {row["id"]: before["id"] for before, row in itertools.pairwise(arguments["swaths"])}
    items, ends = start_items(position, airborne, up_m, speed_mps), []
    at: Sequence[float] = position
    last = ""
    for swath in swaths:
        if last and planned.get(swath["id"]) == last:
            turns = [*swath["via"], swath["start"]]
            items += [PlanItem(WAYPOINT, (turn[0], turn[1], up_m), 0.0, 2.0) for turn in turns]
        else:
            items += way_items(zones, at, swath["start"], up_m)
        items.append(PlanItem(WAYPOINT, (swath["end"][0], swath["end"][1], up_m), 0.0, 1.5))
        ends.append((swath["id"], len(items) - 1))
        at, last = swath["end"], swath["id"]
    if arguments.get("then", "home") == "home":
        items.append(PlanItem(RETURN))
    return items, ends


def scan_items(position: Place, airborne: bool, centre: Place, radius_m: float, speed_mps: float) -> list[PlanItem]:
    """Up, to the centre, once around it, and a moment's hover."""
    x, y, up_m = centre
    items = start_items(position, airborne, up_m, speed_mps)
    if math.dist(position[:2], centre[:2]) > 2.0:
        items.append(PlanItem(WAYPOINT, centre, 0.0, 2.0))
    for corner in range(RING_CORNERS + 1 if radius_m > 0 else 0):
        angle = 2.0 * math.pi * corner / RING_CORNERS
        items.append(
            PlanItem(WAYPOINT, (x + radius_m * math.cos(angle), y + radius_m * math.sin(angle), up_m), 0.0, 2.0)
        )
    return [*items, PlanItem(LOITER_TIME, centre, 3.0, 2.0)]


# -- estimating -------------------------------------------------------------------------------------------------


def estimate(shape: Shape, status: DeviceStatus, config: MavlinkConfig, origin: Origin) -> Estimate:
    """What one task would take from the state last read. Unread: from home with a full battery. Pure."""
    if status.value("link") == 0.0:
        return Estimate(0.0, refusal="no heartbeat: the vehicle is lost")
    try:
        metres, seconds = _effort(shape, status, config, origin)
    except Invalid as error:
        return Estimate(0.0, refusal=f"{error}; {error.hint}")
    battery = status.value("battery")
    battery = 1.0 if battery is None else battery
    energy_j = config.hover_w * seconds
    left = battery - energy_j / (config.battery_wh * 3600.0)
    terms = {"distance_m": round(metres, 1), "battery": round(battery, 3), "battery_after": round(left, 3)}
    going_home = shape.action == "drone.home"
    if left < config.reserve_fraction and not going_home:
        reason = f"battery {battery:.0%} would fall to {left:.0%}, below the reserve of {config.reserve_fraction:.0%}"
        return Estimate(seconds, energy_j=energy_j, refusal=reason, terms=terms)
    return Estimate(seconds, energy_j=energy_j, terms=terms)


def _effort(shape: Shape, status: DeviceStatus, config: MavlinkConfig, origin: Origin) -> tuple[float, float]:
    """Metres and seconds of one task, take-off and the way home included. References count as not known yet."""
    form = {name: value for name, value in shape.form.items() if not _unresolved(value)}
    home = (status.value("home_east") or 0.0, status.value("home_north") or 0.0)
    at = (status.value("east") or home[0], status.value("north") or home[1])
    speed = number(form, "speed_mps", config.speed_mps, 0.3, 8.0)
    up_m = number(form, "altitude_m", config.altitude_m, 1.0, 120.0)
    climb_s = max(0.0, up_m - (status.value("up") or 0.0)) / CLIMB_MPS
    metres, extra_s, end = 0.0, 0.0, at
    match shape.action:
        case "drone.survey" if "swaths" in form:
            for swath in read_swaths(form):
                path = [end, *swath["via"], swath["start"], swath["end"]]
                metres += sum(math.dist(a[:2], b[:2]) for a, b in itertools.pairwise(path))
                extra_s, end = extra_s + 2.0 * TURN_S, (swath["end"][0], swath["end"][1])
        case "drone.scan":
            radius = number(form, "radius_m", 8.0, 0.0, 200.0)
            centre = read_place(form["at"], config, origin)[:2] if "at" in form else at
            metres, extra_s, end = math.dist(at, centre) + 2 * math.pi * radius, 3.0 + 8 * TURN_S, centre
        case "drone.goto" | "drone.sample":
            where = form.get("to", form.get("at"))
            end = read_place(where, config, origin, form.get("points"))[:2] if where is not None else at
            metres = math.dist(at, end)
            if shape.action == "drone.sample":
                extra_s = number(form, "samples", 10, 1, 10_000)
        case _:
            climb_s, end = 0.0, at
    home_m = math.dist(end, home)
    return metres + home_m, climb_s + (metres + home_m) / speed + extra_s + up_m / CLIMB_MPS


def _unresolved(value: Any) -> bool:
    """Whether anything in it is still a reference to another task's result."""
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, Mapping):
        return any(map(_unresolved, value.values()))
    return isinstance(value, Sequence) and not isinstance(value, bytes) and any(map(_unresolved, value))
