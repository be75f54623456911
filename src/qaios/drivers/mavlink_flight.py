"""One attempt of one task, flown: from the first question to the vehicle to the result.

Every flight is a plan in the vehicle (MAVLink mission), never a string of our own commands, so the vehicle can be
left alone at any moment and asked later how far it got. `Flight` puts the plan up under its own id, has it flown,
follows it, and brings back what was seen. What it must remember is on disk before it matters (`mavlink_record`).

Who flies is the vehicle's own business as well as ours:

- It returns or lands by itself (battery, fence, link): `DeviceFault`, retryable only when the link was the reason
  and is back; the retry flies what is left.
- A person or another computer takes it over, or holds it from outside: the task *waits* until the vehicle is
  back in its mission, at most `takeover_s`. Failing instead would send retries, or other vehicles, into the air
  in which a person is just now sorting something out.
- `halt` came: `DeviceFault`, not retryable; the reset is a person's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qaios.contracts import Attempt
from qaios.core.errors import DeviceFault, Refused
from qaios.drivers import mavlink_plans as plans
from qaios.drivers import mavlink_protocol as protocol
from qaios.drivers.mavlink_link import Progress, Seen, VehicleLink
from qaios.drivers.mavlink_record import ENDED, STARTED, STOPPED, UPLOADED, Record, Records, plain, plan_id
from qaios.robotics.obstacles import ObstacleMap

HEARD_S = 10.0  # how long to wait for the first word of a vehicle
JUDGE_S = 2.5  # how long an unexpected mode must last before it is believed: messages overtake each other
LAND_S = 300.0
TICK_S = 1.0
BATCH = 8  # samples in one chunk
Row = tuple[float, ...]


class Flight:
    """Fly for one key. `halted` says whether a halt came since the flight began."""

    def __init__(
        self,
        link: VehicleLink,
        config: plans.MavlinkConfig,
        records: Records,
        record: Record,
        attempt: Attempt,
        halted: Callable[[], bool],
    ) -> None:
        self.link, self.config, self.attempt = link, config, attempt
        self.records, self.record = records, record
        self._halted = halted
        self._samples: dict[float, Row] = {}
        self._unsent: list[Row] = []
        self._at: tuple[float, float, float] | None = None
        self._odd_s: float | None = None
        self._returns = False  # the plan ends in a return
        self.moving = False  # something was sent that may have started motion
        self.least_battery = 1.0
        self._fraction = 0.0

    # -- the actions --------------------------------------------------------------------------------------------

    async def survey(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Fly what is not yet flown of the swaths; bring back all samples since the key was begun."""
        swaths = plans.read_swaths(arguments)
        speed = plans.number(arguments, "speed_mps", self.config.speed_mps, 0.3, 8.0)
        self._returns = arguments.get("then", "home") == "home"
        if not await self._still_flying():
            left = [swath for swath in swaths if swath["id"] not in self.record.flown]
            if left:
                items, ends = plans.survey_items(left, arguments, self._position, self._airborne, speed)
                await self._launch(items, ends)
        if self.record.stage == STARTED:
            await self._follow()
        if self._returns:
            await self._landed()
        samples, source = await self._whole_log()
        self._flush()
        return self._report() | {
            "flown": list(self.record.flown),
            "samples": [list(row) for row in samples],
            "sample_columns": ["t_s", "east_m", "north_m", "up_m", "pm25_ug_m3", "sigma_ug_m3"],
            "sample_source": source,
        }

    async def goto(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Be there, and hold."""
        await self._fly_to(arguments.get("to"), arguments)
        return self._report()

    async def sample(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Hover and take `samples` readings of the air."""
        count = int(plans.number(arguments, "samples", 10, 1, 10_000))
        if "at" in arguments or not self._airborne:
            await self._fly_to(arguments.get("at", list(self._position[:2])), arguments)
        self._gather()
        self._samples.clear()
        self._unsent.clear()
        patience_s, began_s = 10.0 + 4.0 * count, self.link.clock.now_s()
        while len(self._samples) < count:
            if self.link.clock.now_s() - began_s > patience_s:
                raise DeviceFault(f"{self.link.name} gave {len(self._samples)} of {count} samples in {patience_s:g} s")
            await self._watch()
            self._gather()
            self._progress(len(self._samples) / count, "sampling")
        self._flush()
        rows = [self._samples[at] for at in sorted(self._samples)][:count]
        mean = sum(row[4] for row in rows) / count
        sigma = math.sqrt(sum(row[5] ** 2 for row in rows)) / count
        return self._report() | {
            "samples": [list(row) for row in rows],
            "sample_columns": ["t_s", "east_m", "north_m", "up_m", "pm25_ug_m3", "sigma_ug_m3"],
            "pm25": {"mean": round(mean, 3), "sigma": round(sigma, 3), "unit": "ug/m3"},
        }

    async def scan(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Fly a ring and bring back what the lidar met."""
        radius = plans.number(arguments, "radius_m", 8.0, 0.0, 200.0)
        speed = plans.number(arguments, "speed_mps", self.config.speed_mps, 0.3, 8.0)
        x, y, up_m = self._goal(arguments.get("at", list(self._position[:2])), arguments)
        seen, found = self.link.seen, ObstacleMap()

        def fuse() -> None:
            if seen.range_place_m[2] > up_m - 2.0:
                found.add(
                    seen.ranges_m,
                    start_rad=seen.range_start_rad,
                    step_rad=seen.range_step_rad,
                    max_m=seen.range_max_m,
                    position_m=seen.range_place_m,
                    yaw_rad=seen.yaw_rad,
                )

        items = plans.scan_items(self._position, self._airborne, (x, y, up_m), radius, speed)
        self.link.on_scan = fuse
        try:
            await self._launch(items, [])
            await self._follow()
        finally:
            self.link.on_scan = None
        return self._report() | {
            "obstacles": found.solids(),
            "points": len(found.points_m),
            "scan_altitude_m": up_m,
            "range_m": seen.range_max_m,
        }

    async def home(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return, land, disarm; on the ground already there is nothing to do."""
        if self.link.seen.armed:
            self._begin_motion()
            await protocol.set_mode(self.link, protocol.GO_HOME)
            await self._landed()
        return self._report() | {"landed": True}

    # -- steps --------------------------------------------------------------------------------------------------

    async def prepare(self, fence: Callable[[], Any]) -> None:
        """Hear the vehicle, know its home, and have its fence accepted: before anything that may start motion."""
        if not await self.link.until(lambda seen: seen.position_m is not None, HEARD_S):
            raise DeviceFault(f"{self.link.name} says nothing of its position")
        if self.link.seen.home_m is None:
            await protocol.ask(self.link, "HOME_POSITION", 242)
        if self.link.seen.outside_hands:
            raise DeviceFault(
                f"{self.link.name} is flown by someone else ({self.link.seen.mode} mode)", retryable=False
            )
        await fence()
        self._at = self.link.seen.position_m
        self.link.seen.samples.clear()

    async def stop(self) -> None:
        """Hold, and know that it holds. Where safety already brings it down, that is as good."""
        if not self.moving or not self.link.seen.armed:
            return
        try:
            await protocol.set_mode(self.link, protocol.HOLD)
        except protocol.Declined:
            await self.link.until(lambda seen: seen.mode in ("return", "land", "hold") or not seen.armed, HEARD_S)
            return
        await self.link.until(lambda seen: seen.mode == "hold" or not seen.armed, HEARD_S)

    async def _fly_to(self, place: Any, arguments: Mapping[str, Any]) -> None:
        goal = self._goal(place, arguments)
        speed = plans.number(arguments, "speed_mps", self.config.speed_mps, 0.3, 8.0)
        zones = (arguments.get("frame") or {}).get("zones", ())
        items = plans.start_items(self._position, self._airborne, goal[2], speed)
        items += plans.way_items(zones, self._position, goal, goal[2], acceptance_m=1.0)
        await self._launch(items, [])
        await self._follow()

    def _goal(self, place: Any, arguments: Mapping[str, Any]) -> tuple[float, float, float]:
        points = {**(arguments.get("area") or {}).get("points", {}), **arguments.get("points", {})}
        x, y, up = plans.read_place(place, self.config, self.link.origin, points)
        if math.isnan(up):
            up = plans.number(arguments, "altitude_m", self.config.altitude_m, 1.0, 120.0)
        return x, y, up

    async def _still_flying(self) -> bool:
        """After a crash of ours: whether the vehicle is at this very plan right now. Reads what it had done."""
        if self.record.stage not in (UPLOADED, STARTED, STOPPED):
            return False
        await protocol.ask(self.link, "MISSION_CURRENT", 42)
        mission = self.link.seen.mission
        if mission.id != self.record.plan:
            return False
        self._note_swaths()
        active = mission.state == Progress.ACTIVE and self.link.seen.armed
        if active:
            self.moving = True
        return active

    async def _launch(self, items: Sequence[protocol.PlanItem], ends: list[tuple[str, int]]) -> None:
        """Upload under our id, arm, fly. The stage is on disk before each step that it names."""
        self.record.plan = plan_id(self.record.key, self.record.uploads)
        self.record.uploads += 1
        self.record.ends = ends
        self.records.save(self.record)
        await protocol.upload(self.link, items, protocol.MISSION, self.record.plan)
        self.link.seen.mission = Progress(id=self.record.plan, total=len(items), state=Progress.NOT_STARTED)
        self.record.stage = UPLOADED
        self._begin_motion()
        if not self.link.seen.armed:
            await protocol.order(self.link, protocol.ARM, 1.0)
            await self.link.until(lambda seen: seen.armed, HEARD_S)
        await protocol.set_mode(self.link, protocol.FLY_MISSION)
        await self.link.until(lambda seen: seen.mode == "mission" or self._complete(seen), HEARD_S)

    def _begin_motion(self) -> None:
        if self._halted():
            raise DeviceFault(f"{self.link.name} was halted", retryable=False)
        self.record.stage = STARTED
        self.records.save(self.record)
        self.moving = True

    async def _follow(self) -> None:
        """Until the plan is complete."""
        while not self._complete(self.link.seen):
            await self._watch()
            self._gather()
            if not self._complete(self.link.seen):
                await self._judge()
            mission = self.link.seen.mission
            self._progress(mission.seq / max(1, mission.total), self.link.seen.mode)
        self._gather()

    def _complete(self, seen: Seen) -> bool:
        if seen.mission.id != self.record.plan:
            return False
        at_return = self._returns and seen.mode in ("return", "land") and seen.mission.seq >= seen.mission.total - 1
        return seen.mission.state == Progress.COMPLETE or at_return

    async def _landed(self) -> None:
        """Until it stands on the ground with its motors off."""
        began_s = self.link.clock.now_s()
        while self.link.seen.armed:
            if self.link.clock.now_s() - began_s > LAND_S:
                raise DeviceFault(f"{self.link.name} did not land within {LAND_S:g} s", retryable=False)
            await self._watch()
            self._gather()
            if self.link.seen.mode not in ("return", "land"):
                await self._judge()

    async def _watch(self) -> None:
        """Return when something of note changed, or after a second."""
        if self._halted():
            raise DeviceFault(f"{self.link.name} was halted", retryable=False)
        before = self._state(self.link.seen)
        await self.link.until(lambda seen: self._halted() or self._state(seen) != before, TICK_S)
        if self._halted():
            raise DeviceFault(f"{self.link.name} was halted", retryable=False)

    def _state(self, seen: Seen) -> tuple[Any, ...]:
        mission = seen.mission
        return seen.custom_mode, seen.armed, mission.seq, mission.state, mission.id, seen.reached, len(seen.samples)

    async def _judge(self) -> None:
        """What to think of a vehicle that is not doing our plan, once it has not for a while."""
        seen, now_s = self.link.seen, self.link.clock.now_s()
        if seen.mode in ("mission", "takeoff", "ready") and seen.mission.id == self.record.plan and seen.armed:
            self._odd_s = None
            return
        self._odd_s = now_s if self._odd_s is None else self._odd_s
        if now_s - self._odd_s < JUDGE_S:
            return
        why = seen.last_text(now_s - 15.0) or "it gave no reason"
        if not seen.armed:
            raise DeviceFault(f"{self.link.name} disarmed before its flight was done: {why}", retryable=False)
        if seen.mission.id != self.record.plan:
            raise DeviceFault(f"somebody gave {self.link.name} another plan", retryable=False)
        if seen.mode in ("return", "land"):
            link = "link" in why.lower() and (seen.battery_fraction or 0.0) > self.config.reserve_fraction
            raise DeviceFault(f"{self.link.name} ended its flight by itself: {why}", retryable=link)
        await self._wait_for_its_return()

    async def _wait_for_its_return(self) -> None:
        """A person, or someone from outside, has it: wait until it is back in its mission, and send nothing."""
        who = f"{self.link.name} is in {self.link.seen.mode} mode by someone else's hand"
        self._progress(0.0, f"waiting: {who}")
        began_s = self.link.clock.now_s()
        while self.link.seen.mode not in ("mission", "return", "land") and self.link.seen.armed:
            if self.link.clock.now_s() - began_s > self.config.takeover_s:
                raise DeviceFault(f"{who}, for more than {self.config.takeover_s:g} s", retryable=False)
            await self._watch()
            self._gather()
            if self._complete(self.link.seen):
                return
        self._odd_s = None

    # -- what is brought back -----------------------------------------------------------------------------------

    @property
    def _position(self) -> tuple[float, float, float]:
        position = self.link.seen.position_m
        if position is None:
            raise DeviceFault(f"{self.link.name} says nothing of its position")
        return position

    @property
    def _airborne(self) -> bool:
        return self.link.seen.armed and self._position[2] > 1.0

    def _gather(self) -> None:
        """Take in what was heard: distance, battery, samples, swaths flown."""
        seen = self.link.seen
        if seen.position_m is not None and self._at is not None:
            self.record.distance_m += math.dist(seen.position_m, self._at)
            self._at = seen.position_m
        if seen.battery_fraction is not None:
            self.least_battery = min(self.least_battery, seen.battery_fraction)
        while seen.samples:
            t_s, east, north, up, value = seen.samples.popleft()
            sigma = self.config.pm25_sigma_floor + self.config.pm25_sigma_fraction * max(0.0, value)
            self._samples[t_s] = row = _row(t_s, east, north, up, value, sigma)
            self._unsent.append(row)
        if len(self._unsent) >= BATCH:
            self._flush()
        self._note_swaths()

    def _note_swaths(self) -> None:
        mission, seen = self.link.seen.mission, self.link.seen
        if mission.id != self.record.plan:
            return
        for swath, end in self.record.ends:
            passed = mission.seq > end or seen.reached >= end or mission.state == Progress.COMPLETE
            if passed and swath not in self.record.flown:
                self.record.flown.append(swath)
                self.records.save(self.record)
                self._flush()
                self.attempt.emit({"swath": swath, "t_s": round(self.link.clock.now_s(), 3)})

    def _flush(self) -> None:
        if self._unsent:
            self.attempt.emit({"samples": [list(row) for row in self._unsent]})
            self._unsent.clear()

    async def _whole_log(self) -> tuple[list[Row], str]:
        """All samples since the key was begun, from the vehicle's own log; it has what the link dropped."""
        rows = dict(self._samples)
        try:
            log = await protocol.fetch_log(self.link)
        except Refused:
            raise
        except DeviceFault as error:
            if self.link.lost_s is not None:
                raise
            return [rows[at] for at in sorted(rows)], f"telemetry only: {error}"
        logged = {row[0]: _row(*row) for row in log if row[0] >= self.record.begun_s - 0.5}
        heard_late = {at: row for at, row in rows.items() if not any(abs(at - other) < 0.05 for other in logged)}
        whole = {**logged, **heard_late}
        return [whole[at] for at in sorted(whole)], "vehicle log"

    def _report(self) -> dict[str, Any]:
        """What every flight says of where it left the vehicle."""
        self._gather()
        seen = self.link.seen
        x, y, up = self._position
        lon, lat = self.link.origin.place(x, y)
        return {
            "device": self.link.name,
            "position": [round(x, 2), round(y, 2), round(up, 2)],
            "lat_deg": round(lat, 7),
            "lon_deg": round(lon, 7),
            "home": [round(part, 2) for part in seen.home_m or (0.0, 0.0)],
            "distance_m": round(self.record.distance_m, 1),
            "battery_fraction": seen.battery_fraction,
            "min_battery_fraction": round(self.least_battery, 3),
            "duration_s": round(self.link.clock.now_s() - self.record.begun_s, 2),
        }

    def stopped(self) -> None:
        """It was cancelled: what has not begun is as if it had never been asked for."""
        if self.record.stage == STARTED:
            self.record.stage = STOPPED
            self.records.save(self.record)

    def _progress(self, fraction: float, note: str) -> None:
        """Progress never goes back, though a resumed plan counts its items anew."""
        self._fraction = max(self._fraction, min(1.0, fraction))
        self.attempt.progress(self._fraction, note)

    def end(self, value: dict[str, Any], provenance: dict[str, Any]) -> None:
        """The result is on disk before it is returned."""
        self.record.stage, self.record.result, self.record.provenance = ENDED, plain(value), plain(provenance)
        self.records.save(self.record)


def _row(t_s: float, east: float, north: float, up: float, value: float, sigma: float) -> Row:
    return (round(t_s, 3), round(east, 2), round(north, 2), round(up, 2), round(value, 3), round(sigma, 3))
