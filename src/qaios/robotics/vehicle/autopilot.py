"""What the vehicle does next: modes, the mission, arming, and one setpoint per barrier.

`Autopilot.step` takes what the sensors read and gives the setpoint for the inner loops. The order inside is the
order of authority: safety may change the mode; the mode wants a velocity; avoidance and then separation bend it.
Commands (`arm`, `takeoff`, `goto`, ...) come from the endpoint and either take effect or raise `Conflict` (not now)
or `Invalid` (never) with the reason a ground station is shown.

It knows no socket and no clock: time is what the sensors say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from qaios.core.errors import Conflict, Invalid
from qaios.robotics.vehicle.plan import Command, Fence, FlightMode, Item, MissionState, Parameters
from qaios.robotics.vehicle.route import around
from qaios.robotics.vehicle.safety import Verdict, Watch
from qaios.robotics.vehicle.steering import Avoidance, Separation
from qaios.worlds.wire import Beacon, Sense, Setpoint, Vec3

POSITION_GAIN = 0.9
SLOWING_MPS2 = 1.5
CLIMB_MPS = 2.5
SINK_MPS = 1.5
SHELF_M = 3.0  # vehicles return at four different heights
SHELVES = 4
LANDED_S = 0.6
FORGOTTEN_S = 10.0  # armed on the ground with nothing to do (PX4: COM_DISARM_PRFLT)
FORCE_DISARM = 21196.0  # MAVLink's magic number
SEVERITY_WARNING, SEVERITY_NOTICE, SEVERITY_INFO = 4, 5, 6
FLYING_MODES = frozenset({FlightMode.OFFBOARD, FlightMode.TAKEOFF, FlightMode.HOLD, FlightMode.MISSION})


class Autopilot:
    """One vehicle. `say(severity, text)` goes out as STATUSTEXT, `reached(seq)` as MISSION_ITEM_REACHED."""

    def __init__(
        self,
        sysid: int,
        home_m: Vec3,
        fence: Fence,
        say: Callable[[int, str], None],
        reached: Callable[[int], None],
    ) -> None:
        self.sysid, self.home_m, self.fence = sysid, home_m, fence
        self._say, self._reached = say, reached
        self.parameters = Parameters()
        self.watch = Watch(self.parameters)
        self.mode = FlightMode.HOLD
        self.armed = False
        self.items: tuple[Item, ...] = ()
        self.plan_id = 0
        self.current = 0
        self.mission = MissionState.NO_MISSION
        self.speed_mps = self.parameters["MPC_XY_CRUISE"]
        self.sense: Sense | None = None
        self._target: Vec3 = home_m
        self._path: list[tuple[float, float]] = []  # corners still to pass on the way to the target
        self._yaw_rad = math.pi / 2.0
        self._wait_until_s: float | None = None
        self._offboard: tuple[Vec3 | None, Vec3 | None] = (None, None)
        self._offboard_s = -math.inf
        self._still_s = 0.0
        self._avoidance = Avoidance(fence.ceiling_m)
        self._separation = Separation(sysid, fence.ceiling_m)
        self._obstacle_said = False
        self._yield_said = 0

    # -- what others may ask ------------------------------------------------------------------------------------

    @property
    def airborne(self) -> bool:
        return self.sense is not None and self.armed and self.sense.down_m > 0.3

    @property
    def now_s(self) -> float:
        return self.sense.t_s if self.sense else 0.0

    @property
    def position_m(self) -> Vec3:
        return self.sense.position_m if self.sense else self.home_m

    def arm(self) -> None:
        """Start the motors. Twice is once."""
        if self.armed:
            return
        if self.sense is None:
            raise Conflict("arming refused: no sensor data yet")
        if self.sense.battery_fraction < self.parameters["BAT_CRIT_THR"]:
            raise Conflict("arming refused: battery low")
        if abs(self.sense.attitude_rad[0]) > 0.5 or abs(self.sense.attitude_rad[1]) > 0.5:
            raise Conflict("arming refused: not level")
        self.armed = True
        self._still_s = self.now_s
        self._yaw_rad = math.pi / 2.0 - self.sense.attitude_rad[2]
        self._target = self.position_m
        self.mode = FlightMode.HOLD

    def disarm(self, *, force: bool = False) -> None:
        """Stop the motors; in the air only by force."""
        if self.airborne and not force:
            raise Conflict("disarming refused: in the air")
        self.armed = False

    def takeoff(self, height_m: float | None) -> None:
        """Climb to `height_m` above home (None: MIS_TAKEOFF_ALT) and hold. In the air it only ever climbs."""
        self._need_flight(FlightMode.TAKEOFF)
        x, y, z = self.position_m
        height = self.parameters["MIS_TAKEOFF_ALT"] if height_m is None else height_m
        if not 0.5 <= height <= self.fence.ceiling_m:
            raise Invalid(f"takeoff height {height:g} m is outside 0.5 to {self.fence.ceiling_m:g} m")
        if self.airborne and z >= height - 0.5:
            return
        self._enter(FlightMode.TAKEOFF)
        self._target = (x, y, height)

    def goto(self, place_m: Vec3, speed_mps: float | None = None) -> None:
        """Fly there, around the no-fly zones, and hold."""
        self._need_flight(FlightMode.HOLD)
        if not self.airborne:
            raise Conflict("goto refused: on the ground, take off first")
        self._refuse_breach(place_m, "goto")
        self._enter(FlightMode.HOLD)
        if speed_mps is not None:
            self.set_speed(speed_mps)
        self._head_for(place_m)

    def hold(self) -> None:
        """Stop here and stay. A return or landing that safety ordered goes on."""
        if self.mode in (FlightMode.RTL, FlightMode.LAND) and self.watch.standing:
            raise Conflict("hold refused: safety has the vehicle")
        self._enter(FlightMode.HOLD)
        self._stay()

    def resume(self) -> None:
        """Go on with the paused mission."""
        self.start_mission(self.current)

    def start_mission(self, first: int | None = None) -> None:
        """Fly the mission from item `first` (None: from the current one, or the start when it was complete)."""
        self._need_flight(FlightMode.MISSION)
        if not self.items:
            raise Conflict("mission refused: none uploaded")
        if self.mode is FlightMode.MISSION and first in (None, self.current):
            return
        for seq, item in enumerate(self.items):
            if item.place_m is not None:
                self._refuse_breach(item.place_m, f"mission item {seq}")
        if first is None:
            first = 0 if self.mission is MissionState.COMPLETE else self.current
        self.select(first)
        self._enter(FlightMode.MISSION)
        self.mission = MissionState.ACTIVE
        self._begin_item()

    def select(self, seq: int) -> None:
        """Make item `seq` the current one."""
        if not 0 <= seq < len(self.items):
            raise Invalid(f"no mission item {seq}, there are {len(self.items)}")
        self.current = seq
        if self.mode is FlightMode.MISSION:
            self._begin_item()
        elif self.mission is MissionState.COMPLETE:
            self.mission = MissionState.PAUSED

    def load(self, items: Sequence[Item], plan_id: int) -> None:
        """Take a new mission; flying the old one ends in a hold."""
        if self.mode is FlightMode.MISSION:
            self._enter(FlightMode.HOLD)
            self._stay()
        self.items, self.plan_id, self.current = tuple(items), plan_id if items else 0, 0
        self.mission = MissionState.NOT_STARTED if items else MissionState.NO_MISSION

    def rtl(self) -> None:
        """Return over the no-fly zones' corners at a safe height and land at home."""
        if not self.armed:
            raise Conflict("RTL refused: not armed")
        if self.mode is not FlightMode.RTL:
            self._enter(FlightMode.RTL)
            x, y, z = self.position_m
            near = math.dist((x, y), self.home_m[:2]) < 3.0
            height = self.parameters["RTL_RETURN_ALT"] + SHELF_M * ((self.sysid - 1) % SHELVES)
            self._head_for(
                (self.home_m[0], self.home_m[1], z if near else min(max(z, height), self.fence.ceiling_m - 3))
            )

    def land(self) -> None:
        """Land where it is."""
        if self.mode is not FlightMode.LAND:
            self._enter(FlightMode.LAND)
            self._target = self.position_m

    def offboard(self, position_m: Vec3 | None, velocity_mps: Vec3 | None) -> None:
        """A setpoint from outside; it counts while the mode is OFFBOARD and stays fresh for COM_OF_LOSS_T."""
        self._offboard, self._offboard_s = (position_m, velocity_mps), self.now_s

    def start_offboard(self) -> None:
        self._need_flight(FlightMode.OFFBOARD)
        if self.now_s - self._offboard_s > self.parameters["COM_OF_LOSS_T"]:
            raise Conflict("offboard refused: send setpoints first")
        self._enter(FlightMode.OFFBOARD)

    def set_speed(self, speed_mps: float) -> None:
        if not (math.isfinite(speed_mps) and 0.3 <= speed_mps <= 8.0):
            raise Invalid(f"speed {speed_mps:g} m/s is outside 0.3 to 8 m/s")
        self.speed_mps = speed_mps

    # -- one barrier --------------------------------------------------------------------------------------------

    def step(self, sense: Sense) -> Setpoint:
        """The setpoint for the next 40 ms."""
        self.sense = sense
        if self.airborne:
            self._judge(sense)
        else:
            self.watch.rest(sense)
        velocity = self._steered(sense) if self.armed else (0.0, 0.0, 0.0)
        self._notice_landing(sense)
        return Setpoint(
            t_s=sense.t_s,
            armed=self.armed,
            velocity_mps=velocity,
            yaw_rad=self._yaw_rad,
            beacon=Beacon(self.sysid, sense.position_m, sense.velocity_mps, self.airborne),
        )

    def _judge(self, sense: Sense) -> None:
        finding = self.watch.look(sense, self.fence)
        if finding is None:
            return
        self._say(SEVERITY_WARNING, finding.text)
        if finding.verdict is Verdict.TILTED:
            self.armed = False
        elif finding.verdict is Verdict.EMERGENCY:
            self.land()
        elif self.mode is not FlightMode.LAND:
            self.rtl()

    def _steered(self, sense: Sense) -> Vec3:
        wanted = self._want(sense)
        if self.mode is FlightMode.LAND or (sense.down_m < 1.0 and self.mode is FlightMode.TAKEOFF):
            velocity = wanted
        else:
            velocity = self._avoidance.steer(sense, wanted)
        if self.airborne:
            velocity = self._separation.steer(sense, velocity)
        self._say_steering()
        return velocity

    def _say_steering(self) -> None:
        if self._avoidance.climbing and not self._obstacle_said:
            self._say(SEVERITY_NOTICE, "obstacle ahead: climbing over")
        self._obstacle_said = self._avoidance.raised
        yielding = self._separation.yielding_to
        if yielding and yielding != self._yield_said:
            self._say(SEVERITY_NOTICE, f"yielding to vehicle {yielding}")
        self._yield_said = yielding

    def _want(self, sense: Sense) -> Vec3:
        match self.mode:
            case FlightMode.MISSION:
                return self._fly_mission(sense)
            case FlightMode.OFFBOARD:
                return self._fly_offboard(sense)
            case FlightMode.LAND:
                return self._descend(sense)
            case FlightMode.RTL:
                return self._return(sense)
            case FlightMode.TAKEOFF:
                if self._at(self._target, 1.5, 0.5):
                    self._enter(FlightMode.HOLD)
                return self._towards(self._target)
            case _:
                return self._follow_path() if self.airborne else (0.0, 0.0, -0.3)

    def _fly_mission(self, sense: Sense) -> Vec3:
        item = self.items[self.current]
        match item.command:
            case Command.CHANGE_SPEED:
                if item.param2 > 0.0:
                    self.speed_mps = max(0.3, min(8.0, item.param2))
                self._item_done()
            case Command.RETURN:
                self._item_done()
                self.rtl()
            case Command.LAND:
                place = item.place_m or self.position_m
                if self._at((place[0], place[1], self.position_m[2]), 1.0, math.inf):
                    self._item_done()
                    self.land()
                else:
                    return self._towards((place[0], place[1], max(self.position_m[2], 3.0)))
            case Command.DELAY:
                if self._waited(item.param1):
                    self._item_done()
                return self._towards(self._target)
            case _:
                return self._fly_to_item(sense, item)
        return (0.0, 0.0, 0.0)

    def _fly_to_item(self, sense: Sense, item: Item) -> Vec3:
        if item.place_m is None:
            raise Invalid(f"mission item {self.current} has no place")
        z = sense.position_m[2]
        if item.command is Command.TAKEOFF or (z < min(item.place_m[2], 3.0) - 0.5 and sense.down_m < 3.0):
            # From the ground it goes straight up first.
            climb = (self._target[0], self._target[1], item.place_m[2])
            if item.command is Command.TAKEOFF and z >= item.place_m[2] - 0.7:
                self._item_done()
            return self._towards(climb)
        radius = item.param2 if item.command is Command.WAYPOINT and item.param2 > 0 else self.parameters["NAV_ACC_RAD"]
        displaced = self._avoidance.raised or self._separation.yielding_to
        height = math.inf if displaced else 1.0
        if not self._path and (self._wait_until_s is not None or self._at(item.place_m, radius, height)):
            self._target = item.place_m
            if self._waited(item.param1):
                self._item_done()
            return self._towards(item.place_m)
        return self._follow_path()

    def _waited(self, duration_s: float) -> bool:
        """Whether the wait that starts at the first call is over."""
        if not duration_s > 0.0:
            return True
        if self._wait_until_s is None:
            self._wait_until_s = self.now_s + duration_s
        return self.now_s >= self._wait_until_s

    def _item_done(self) -> None:
        self._reached(self.current)
        if self.current + 1 < len(self.items):
            self.current += 1
            self._begin_item()
            return
        self.mission = MissionState.COMPLETE
        self._enter(FlightMode.HOLD)
        if self.items[self.current].place_m is None:
            self._stay()
        self._say(SEVERITY_INFO, "mission complete")

    def _begin_item(self) -> None:
        self._wait_until_s = None
        place = self.items[self.current].place_m
        command = self.items[self.current].command
        if place is not None and command in (Command.WAYPOINT, Command.LOITER_TIME) and self.airborne:
            self._head_for(place)
        else:
            self._path, self._target = [], self.position_m
            if place is not None and command in (Command.WAYPOINT, Command.LOITER_TIME):
                self._path_after_takeoff(place)

    def _path_after_takeoff(self, place: Vec3) -> None:
        x, y, _ = self.position_m
        self._path = around((x, y), (place[0], place[1]), self.fence)
        self._target = (x, y, place[2]) if not self.airborne else place
        self._path = [*self._path, (place[0], place[1])]

    def _fly_offboard(self, sense: Sense) -> Vec3:
        if self.now_s - self._offboard_s > self.parameters["COM_OF_LOSS_T"]:
            self._say(SEVERITY_WARNING, "offboard setpoints stopped: hold")
            self._enter(FlightMode.HOLD)
            self._stay()
            return (0.0, 0.0, 0.0)
        position, velocity = self._offboard
        if position is not None:
            return self._towards(position)
        if velocity is None:
            return (0.0, 0.0, 0.0)
        speed = math.hypot(velocity[0], velocity[1])
        scale = min(1.0, 8.0 / speed) if speed else 1.0
        return velocity[0] * scale, velocity[1] * scale, max(-SINK_MPS, min(CLIMB_MPS, velocity[2]))

    def _return(self, sense: Sense) -> Vec3:
        x, y, z = sense.position_m
        if math.dist((x, y), self.home_m[:2]) < 0.8 and not self._path:
            self._enter(FlightMode.LAND)
            self._target = self.home_m
            return self._descend(sense)
        if z < self._target[2] - 1.5 and math.dist((x, y), self.home_m[:2]) > 3.0 and not self._separation.yielding_to:
            return 0.0, 0.0, CLIMB_MPS
        return self._follow_path()

    def _descend(self, sense: Sense) -> Vec3:
        east, north, _ = self._towards((self._target[0], self._target[1], 0.0))
        return east, north, -SINK_MPS if sense.down_m > 4.0 else -0.6

    def _notice_landing(self, sense: Sense) -> None:
        low = sense.down_m < 0.15 and abs(sense.velocity_mps[2]) < 0.2
        if not (self.armed and low and self.mode in (FlightMode.LAND, FlightMode.HOLD)):
            self._still_s = sense.t_s
        elif sense.t_s - self._still_s > (LANDED_S if self.mode is FlightMode.LAND else FORGOTTEN_S):
            self._say(SEVERITY_INFO, "landed, disarmed" if self.mode is FlightMode.LAND else "not flown: disarmed")
            self.armed = False
            self.mode = FlightMode.HOLD

    # -- moving -------------------------------------------------------------------------------------------------

    def _enter(self, mode: FlightMode) -> None:
        if self.mode is FlightMode.MISSION and mode is not FlightMode.MISSION and self.mission is MissionState.ACTIVE:
            self.mission = MissionState.PAUSED
        self.mode = mode
        self._path = []

    def _stay(self) -> None:
        """Hold where it would come to rest."""
        if self.sense is None:
            return
        (x, y, z), (vx, vy, vz) = self.sense.position_m, self.sense.velocity_mps
        self._target, self._path = (x + 0.5 * vx, y + 0.5 * vy, z + 0.3 * vz), []

    def _head_for(self, place_m: Vec3) -> None:
        x, y, _ = self.position_m
        self._target = place_m
        self._path = around((x, y), (place_m[0], place_m[1]), self.fence)

    def _follow_path(self) -> Vec3:
        while self._path and math.dist(self.position_m[:2], self._path[0]) < 1.5:
            self._path.pop(0)
        if self._path:
            corner = self._path[0]
            return self._towards((corner[0], corner[1], self._target[2]))
        return self._towards(self._target)

    def _towards(self, place_m: Vec3) -> Vec3:
        """The position loop: a velocity towards `place_m`, slowing so that it can stop there."""
        x, y, z = self.position_m
        east, north, up = place_m[0] - x, place_m[1] - y, place_m[2] - z
        distance = math.hypot(east, north)
        if distance > 2.0:
            turn = math.remainder(math.atan2(north, east) - self._yaw_rad, 2.0 * math.pi)
            self._yaw_rad += max(-0.06, min(0.06, turn))
        speed = min(self.speed_mps, POSITION_GAIN * distance, math.sqrt(2.0 * SLOWING_MPS2 * distance))
        scale = speed / distance if distance > 1e-6 else 0.0
        return east * scale, north * scale, max(-SINK_MPS, min(CLIMB_MPS, POSITION_GAIN * up))

    def _at(self, place_m: Vec3, radius_m: float, height_m: float) -> bool:
        x, y, z = self.position_m
        return math.hypot(place_m[0] - x, place_m[1] - y) <= radius_m and abs(place_m[2] - z) <= height_m

    def _need_flight(self, mode: FlightMode) -> None:
        if not self.armed:
            raise Conflict(f"{mode.name.lower()} refused: not armed")
        if self.watch.standing and self.mode in (FlightMode.RTL, FlightMode.LAND):
            raise Conflict(f"{mode.name.lower()} refused: safety has the vehicle")

    def _refuse_breach(self, place_m: Vec3, what: str) -> None:
        breach = self.fence.breach(*place_m)
        if breach:
            raise Invalid(f"{what} refused: {breach}")
