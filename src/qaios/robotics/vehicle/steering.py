"""Where a vehicle must not go: two layers that bend the velocity it wants.

`Avoidance` reads the lidar and the down ray. It slows before what is ahead, stops at 5 m, climbs until the way is
clear, crosses at that height and comes down when nothing has been beneath it for 8 m. It keeps 2 m from walls and does
not sink onto a roof; landing is not its business.

`Separation` reads the beacons of the other vehicles. **Of two vehicles in conflict the one with the larger system
id yields**: it stops and leaves the other's height (up, or down when it is clearly the lower one). A conflict is a
closest approach within 5 s under 5 m sideways and 3 m in height, from the velocity it wants and the other's. Nearer
than 4 m both move apart, whatever the rule says.

Both are pure but for the little they remember; velocities are east-north-up m/s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from qaios.worlds.wire import Beacon, Sense, Vec3

DETECT_M = 5.0
CLEAR_M = 9.0
CORRIDOR_M = 1.6
BRAKING_MPS2 = 1.5
CLIMB_MPS = 2.0
MARGIN_ABOVE_M = 1.5
PAST_M = 8.0
SIDE_M = 2.0
BESIDE_SINK_MPS = -0.3
ROOF_M = 1.5
ROOF_GAIN = 0.8

CONFLICT_S = 5.0
CONFLICT_SIDE_M = 5.0
CONFLICT_HEIGHT_M = 3.0
APART_HEIGHT_M = 3.6
STOP_RANGE_M = 12.0
CLOSE_M = 4.0
REPEL_MPS = 3.0


class Avoidance:
    """Stop, climb over, go on."""

    def __init__(self, ceiling_m: float) -> None:
        self.ceiling_m = ceiling_m
        self.climbing = False
        self.floor_m: float | None = None  # the height not to go below while crossing
        self.blocked = False  # it cannot climb any higher
        self._last_roof: tuple[float, float] = (0.0, 0.0)

    @property
    def raised(self) -> bool:
        """It is above the height it was asked to fly at, because of an obstacle."""
        return self.climbing or self.floor_m is not None

    def steer(self, sense: Sense, wanted: Vec3) -> Vec3:
        """The velocity that respects the lidar."""
        east, north, up = wanted
        speed = math.hypot(east, north)
        x, y, z = sense.position_m
        ahead = self._ahead(sense.lidar_m, east, north) if speed > 0.05 else math.inf
        if self.climbing and (ahead > CLEAR_M or speed <= 0.05):
            self.climbing = False
            if ahead > CLEAR_M and speed > 0.05:
                self.floor_m = z + MARGIN_ABOVE_M
                self._last_roof = (x, y)
        elif ahead < DETECT_M:
            self.climbing = True
        self.blocked = self.climbing and z >= self.ceiling_m - 2.0
        if self.climbing:
            back = -0.6 if ahead < DETECT_M / 2.0 else 0.0
            east, north = (east / speed * back, north / speed * back) if speed > 0.05 else (0.0, 0.0)
            return self._keep_sides(sense, (east, north, 0.0 if self.blocked else CLIMB_MPS))
        if math.isfinite(ahead) and speed > 0.05:
            allowed = math.sqrt(2.0 * BRAKING_MPS2 * max(0.0, ahead - DETECT_M + 0.5)) + 0.3
            scale = min(1.0, allowed / speed)
            east, north = east * scale, north * scale
        return self._keep_sides(sense, (east, north, self._cross(sense, up)))

    def _cross(self, sense: Sense, up: float) -> float:
        """The climb rate while above an obstacle: not below the floor until well past it."""
        if self.floor_m is None:
            return up
        x, y, z = sense.position_m
        if z - sense.down_m > 0.5:
            self._last_roof = (x, y)
            self.floor_m = max(self.floor_m, z - sense.down_m + MARGIN_ABOVE_M + 1.0)
        elif math.dist(self._last_roof, (x, y)) > PAST_M:
            self.floor_m = None
            return up
        return max(up, -1.0, min(CLIMB_MPS, self.floor_m - z))

    @staticmethod
    def _ahead(lidar_m: Sequence[float], east: float, north: float) -> float:
        """Free distance in the corridor along (east, north); inf when the lidar sees nothing in it."""
        course = math.atan2(east, north)
        spacing = 2.0 * math.pi / len(lidar_m)
        nearest = math.inf
        for k, distance in enumerate(lidar_m):
            if distance >= 19.9:
                continue
            off = k * spacing - course
            forward = distance * math.cos(off)
            if forward > 0.0 and abs(distance * math.sin(off)) < CORRIDOR_M:
                nearest = min(nearest, forward)
        return nearest

    @staticmethod
    def _keep_sides(sense: Sense, velocity: Vec3) -> Vec3:
        """Push away from any wall nearer than 2 m, and sink slowly beside it; stay above a roof."""
        east, north, up = velocity
        if sense.position_m[2] - sense.down_m > 0.5:
            up = max(up, ROOF_GAIN * (ROOF_M - sense.down_m))
        nearest = min(sense.lidar_m)
        if nearest >= SIDE_M:
            return east, north, up
        bearing = sense.lidar_m.index(nearest) * 2.0 * math.pi / len(sense.lidar_m)
        push = SIDE_M - nearest
        return east - push * math.sin(bearing), north - push * math.cos(bearing), max(up, BESIDE_SINK_MPS)


class Separation:
    """Keep clear of the other vehicles."""

    def __init__(self, sysid: int, ceiling_m: float) -> None:
        self.sysid = sysid
        self.ceiling_m = ceiling_m
        self.yielding_to = 0  # system id, 0: to nobody

    def steer(self, sense: Sense, wanted: Vec3) -> Vec3:
        """The velocity that respects the neighbours."""
        self.yielding_to = 0
        velocity = wanted
        for beacon in sorted(sense.beacons, key=lambda b: b.sysid):
            if beacon.airborne and beacon.sysid < self.sysid and self._conflict(sense, velocity, beacon):
                self.yielding_to = self.yielding_to or beacon.sysid
                velocity = self._give_way(sense, velocity, beacon)
        for beacon in sense.beacons:
            if beacon.airborne:
                velocity = self._repel(sense, velocity, beacon)
        return velocity

    @staticmethod
    def _conflict(sense: Sense, wanted: Vec3, other: Beacon) -> bool:
        """Whether the closest approach within the horizon is too close."""
        (x, y, z), (ox, oy, oz) = sense.position_m, other.position_m
        rx, ry, rz = ox - x, oy - y, oz - z
        vx, vy, vz = (
            other.velocity_mps[0] - wanted[0],
            other.velocity_mps[1] - wanted[1],
            other.velocity_mps[2] - wanted[2],
        )
        speed2 = vx * vx + vy * vy
        when = 0.0 if speed2 < 1e-6 else max(0.0, min(CONFLICT_S, -(rx * vx + ry * vy) / speed2))
        if math.hypot(rx + vx * when, ry + vy * when) >= CONFLICT_SIDE_M:
            return False
        # Heights cross when they are apart now and swapped then, and are near when either end is near.
        then = rz + vz * when
        return abs(then) < CONFLICT_HEIGHT_M or abs(rz) < CONFLICT_HEIGHT_M or rz * then < 0.0

    def _give_way(self, sense: Sense, wanted: Vec3, other: Beacon) -> Vec3:
        rx, ry = other.position_m[0] - sense.position_m[0], other.position_m[1] - sense.position_m[1]
        below = other.position_m[2] - sense.position_m[2]  # positive: I am the lower one
        down = (below > 1.0 and sense.down_m > 6.0) or sense.position_m[2] > self.ceiling_m - 3.0
        gap = abs(below)
        vertical = 0.0 if gap > APART_HEIGHT_M else (-CLIMB_MPS if down else CLIMB_MPS)
        if gap > CONFLICT_HEIGHT_M:  # already at another height: go on, but do not come back to this one yet
            kept = min(wanted[2], 0.0) if down else max(wanted[2], 0.0)
            return wanted[0], wanted[1], kept if gap > APART_HEIGHT_M else vertical
        if math.hypot(rx, ry) > STOP_RANGE_M:
            return wanted[0] * 0.5, wanted[1] * 0.5, vertical
        return 0.0, 0.0, vertical

    def _repel(self, sense: Sense, wanted: Vec3, other: Beacon) -> Vec3:
        away = [mine - theirs for mine, theirs in zip(sense.position_m, other.position_m, strict=True)]
        distance = math.sqrt(sum(part * part for part in away))
        if distance >= CLOSE_M:
            return wanted
        if distance < 0.1:
            away, distance = [1.0 if self.sysid > other.sysid else -1.0, 0.0, 0.0], 1.0
        push = REPEL_MPS * (CLOSE_M - distance) / 2.0
        closing = min(0.0, sum(w * a for w, a in zip(wanted, away, strict=True)) / distance)
        east, north, up = (w + (push - closing) * a / distance for w, a in zip(wanted, away, strict=True))
        return east, north, up if sense.down_m > 2.0 else max(0.0, up)
