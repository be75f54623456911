"""The values a vehicle flies by: mission items, fences, flight modes, parameters.

Items are as MAVLink gave them, with the place already in local metres. Fences are what MISSION_ITEM_INT of type
fence says: inclusion and exclusion polygons and circles. `Parameters` are the few settings of a PX4 vehicle that
ours has, under the names PX4 gives them, all REAL32.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from qaios.core.errors import Invalid

Point = tuple[float, float]


class FlightMode(enum.Enum):
    """Value: PX4's (main mode, sub mode) of HEARTBEAT.custom_mode."""

    OFFBOARD = (6, 0)
    READY = (4, 1)
    TAKEOFF = (4, 2)
    HOLD = (4, 3)
    MISSION = (4, 4)
    RTL = (4, 5)
    LAND = (4, 6)

    @property
    def custom_mode(self) -> int:
        return self.value[0] << 16 | self.value[1] << 24


class MissionState(enum.IntEnum):
    """MAVLink's MISSION_STATE."""

    UNKNOWN = 0
    NO_MISSION = 1
    NOT_STARTED = 2
    ACTIVE = 3
    PAUSED = 4
    COMPLETE = 5


class Command(enum.IntEnum):
    """The MAV_CMDs a mission item may have here."""

    WAYPOINT = 16
    LOITER_TIME = 19
    RETURN = 20
    LAND = 21
    TAKEOFF = 22
    DELAY = 93
    CHANGE_SPEED = 178


@dataclass(frozen=True, slots=True)
class Item:
    """One mission item: `place_m` is east, north, up, None where the command has none."""

    command: Command
    place_m: tuple[float, float, float] | None
    param1: float = 0.0
    param2: float = 0.0
    wire: tuple[float, ...] = ()  # frame, params 1-4, x, y, z as received, for download


@dataclass(frozen=True, slots=True)
class Polygon:
    corners_m: tuple[Point, ...]
    inclusion: bool

    def holds(self, point: Point) -> bool:
        """Whether `point` is inside, by ray crossing."""
        x, y = point
        inside = False
        previous_x, previous_y = self.corners_m[-1]
        for corner_x, corner_y in self.corners_m:
            if (corner_y > y) != (previous_y > y) and x < (previous_x - corner_x) * (y - corner_y) / (
                previous_y - corner_y
            ) + corner_x:
                inside = not inside
            previous_x, previous_y = corner_x, corner_y
        return inside


@dataclass(frozen=True, slots=True)
class Circle:
    centre_m: Point
    radius_m: float
    inclusion: bool

    def holds(self, point: Point) -> bool:
        return math.dist(point, self.centre_m) <= self.radius_m


@dataclass(frozen=True, slots=True)
class Fence:
    """Where the vehicle may be: inside every inclusion zone, outside every exclusion zone, below the ceiling.

    More than one inclusion zone: inside any of them, as PX4 has it, on top of the built-in one.
    """

    built_in: Polygon
    ceiling_m: float
    zones: tuple[Polygon | Circle, ...] = ()
    id: int = 0

    def breach(self, east_m: float, north_m: float, up_m: float) -> str:
        """Empty when the place is allowed, otherwise what is wrong with it."""
        point = (east_m, north_m)
        if up_m > self.ceiling_m:
            return f"above the ceiling of {self.ceiling_m:.0f} m"
        if not self.built_in.holds(point):
            return "outside the fence"
        included = [zone.holds(point) for zone in self.zones if zone.inclusion]
        if included and not any(included):
            return "outside the uploaded fence"
        if any(zone.holds(point) for zone in self.zones if not zone.inclusion):
            return "inside a no-fly zone"
        return ""

    @property
    def exclusions(self) -> tuple[Polygon | Circle, ...]:
        return tuple(zone for zone in self.zones if not zone.inclusion)


@dataclass(slots=True)
class Parameters:
    """Settings by PX4 name, each with its allowed range."""

    values: dict[str, float] = field(
        default_factory=lambda: {
            "BAT_CRIT_THR": 0.20,  # fraction: return below it
            "BAT_EMERGEN_THR": 0.08,  # fraction: land where it is below it
            "COM_DL_LOSS_T": 5.0,  # s without a ground station's heartbeat
            "COM_OF_LOSS_T": 1.0,  # s without an offboard setpoint
            "MIS_TAKEOFF_ALT": 6.0,  # m
            "MPC_XY_CRUISE": 5.0,  # m/s
            "NAV_ACC_RAD": 1.5,  # m, a waypoint is reached
            "RTL_RETURN_ALT": 18.0,  # m
        }
    )

    RANGES: ClassVar[dict[str, tuple[float, float]]] = {
        "BAT_CRIT_THR": (0.0, 0.9),
        "BAT_EMERGEN_THR": (0.0, 0.9),
        "COM_DL_LOSS_T": (1.0, 300.0),
        "COM_OF_LOSS_T": (0.2, 60.0),
        "MIS_TAKEOFF_ALT": (1.0, 40.0),
        "MPC_XY_CRUISE": (0.5, 8.0),
        "NAV_ACC_RAD": (0.3, 20.0),
        "RTL_RETURN_ALT": (3.0, 40.0),
    }

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    @property
    def names(self) -> Sequence[str]:
        return sorted(self.values)

    def set(self, name: str, value: float) -> None:
        """Raise `Invalid` for a name we do not have or a value out of range; the old value stays."""
        if name not in self.values:
            raise Invalid(f"no parameter {name}")
        low, high = self.RANGES[name]
        if not (math.isfinite(value) and low <= value <= high):
            raise Invalid(f"{name}={value:g}: allowed {low:g} to {high:g}")
        self.values[name] = value
