"""The driver `mavlink`: drones and whatever else speaks MAVLink, real or in the simulated world.

A device is one vehicle. Its actions (`drone.scan`, `goto`, `sample`, `survey`, `home`) are flown by
`mavlink_flight.Flight`; this module owns what lasts longer than one attempt: the link, the fence the vehicle has
accepted, the records of keys, and the way to stop. With a simulated world on the site the vehicles are those in
`run/world.json`; otherwise the configuration names them. It is the same code either way, and nothing here knows
more of a simulated drone than its MAVLink port.

Stopping never waits: `halt` sends the hold three times (the link may drop one) without asking anybody, and
`halt_recipes` gives the same packets to whoever must act while this process cannot.
"""

from __future__ import annotations

import asyncio
import json
import socket
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qaios.contracts import Attempt, Driver, Isolation, Site
from qaios.core.errors import DeviceFault, DeviceLost, Invalid, QaiError, Refused
from qaios.core.values import (
    ActionSpec,
    DatagramHalt,
    DeviceSpec,
    DeviceStatus,
    Done,
    Effect,
    Estimate,
    HaltRecipe,
    Never,
    Reading,
    Recall,
    Result,
    Running,
    Shape,
    Task,
    Unit,
    Unknown,
)
from qaios.drivers import mavlink_plans as plans
from qaios.drivers import mavlink_protocol as protocol
from qaios.drivers.mavlink_flight import Flight
from qaios.drivers.mavlink_link import Progress, VehicleLink
from qaios.drivers.mavlink_plans import Endpoint, MavlinkConfig
from qaios.drivers.mavlink_record import ENDED, STARTED, STOPPED, Record, Records, plan_id
from qaios.drivers.once import Once
from qaios.robotics.geo import Origin

HALT_REPEATS = 3  # at 5 % loss each way one in eight thousand halts is dropped whole
MOVED_M = 10.0  # an idle vehicle that moved this far is estimated anew

ALTITUDE = {"altitude_m": "height above home, m (1..120)", "speed_mps": "ground speed, m/s (0.3..8)"}


def _action(name: str, summary: str, parameters: dict[str, str], *required: str) -> ActionSpec:
    return ActionSpec(name, summary, Effect.EFFECTFUL, parameters=parameters, required=required)


ACTIONS = (
    _action(
        "drone.scan",
        "Fly a ring and bring back the obstacles the lidar met.",
        {
            **ALTITUDE,
            "at": "centre: a name, [east, north] m, {lat, lon} or a GeoJSON Point; default: where it is",
            "radius_m": "of the ring, m (0..200)",
        },
    ),
    _action(
        "drone.goto",
        "Fly to a place and hold.",
        {
            **ALTITUDE,
            "to": "Grid-A1, a named point, [east, north] m, {lat, lon} or a GeoJSON Point",
            "points": "more named points, [east, north] m each",
            "area": "an area as `qaios.robotics.survey:area` gives it; its points count as named",
            "frame": "the frame of a plan: zones to go around and the fence",
        },
        "to",
    ),
    _action(
        "drone.sample",
        "Hover and take air samples.",
        {
            **ALTITUDE,
            "samples": "how many (1..10000)",
            "at": "where, as in drone.goto; default: where it is",
            "points": "more named points, [east, north] m each",
            "area": "an area with named points",
            "frame": "the frame of a plan: zones to go around and the fence",
        },
    ),
    _action(
        "drone.survey",
        "Fly swaths and sample the air along them.",
        {
            **ALTITUDE,
            "swaths": "in order: {id, start, end: [east, north] m, via: turning points before it}",
            "then": "home (default) or hold",
            "frame": "the frame of the plan: origin, zones, fence, shelves, homes, budget",
        },
        "swaths",
    ),
    _action("drone.home", "Return, land, disarm.", {}),
)


@dataclass(frozen=True, slots=True)
class _Found:
    endpoint: Endpoint
    origin: Origin
    pid: int | None = None


@dataclass(slots=True)
class _Status:
    version: int = 1
    basis: tuple[Any, ...] = ()
    place: tuple[float, float, float] = field(default=(0.0, 0.0, 0.0))


class Drone:
    """One vehicle as a `contracts.Device`."""

    def __init__(self, name: str, config: MavlinkConfig, site: Site, endpoint: Endpoint | None) -> None:
        self._config, self._site, self._endpoint = config, site, endpoint
        self._simulated = endpoint is None
        self.spec = DeviceSpec(
            name=name,
            driver="mavlink",
            kind="drone",
            actions=ACTIONS,
            simulated=self._simulated,
            summary=(
                "quadrotor of the simulated world (MuJoCo rigid bodies, wind, battery, lidar, plume) behind MAVLink 2"
                if self._simulated
                else f"MAVLink vehicle, system {endpoint.sysid if endpoint else 0}"
            ),
        )
        self._records = Records(site.home, name)
        self._link: VehicleLink | None = None
        self._once = Once()
        self._air = asyncio.Lock()  # one flight at a time
        self._fence = 0  # checksum of what the vehicle accepted since the link was opened
        self._halts = 0
        self._recipes: tuple[HaltRecipe, ...] = ()
        self._status = _Status()
        self._pid: int | None = None  # of the vehicle's own process, where it has one on this machine

    # -- life ---------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        found = self._find()
        link = VehicleLink(
            self.spec.name,
            found.endpoint.host,
            found.endpoint.port,
            found.endpoint.sysid,
            clock=self._site.clock,
            origin=found.origin,
            lost_after_s=self._config.lost_after_s,
        )
        await link.open()
        try:
            if not await link.until(lambda seen: seen.custom_mode != 0 or seen.armed, 10.0):
                raise DeviceFault(f"{self.spec.name} sends no heartbeat from {link.host}:{link.port}")
        except BaseException:
            await link.close()
            raise
        link.on_change = self._changed
        self._link, self._fence, self._pid, self._recipes = link, 0, found.pid, ()
        self._changed()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        await self._once.close()
        if self._link is not None:
            await self._link.close()
            self._link = None

    def _find(self) -> _Found:
        """Where the vehicle is. Raises `DeviceFault` when nobody says."""
        if self._endpoint is not None:
            return _Found(self._endpoint, Origin(self._config.lat_deg, self._config.lon_deg))
        world = _world(self._site)
        row = next((row for row in world.get("vehicles", ()) if row["name"] == self.spec.name), None)
        if row is None:
            raise DeviceFault(f"the simulated world has no vehicle {self.spec.name}")
        place = Endpoint(self.spec.name, row["host"], int(row["port"]), int(row["sysid"]))
        return _Found(place, Origin(world["origin"]["lat"], world["origin"]["lon"]), int(row["pid"]))

    # -- reading ------------------------------------------------------------------------------------------------

    def status(self) -> DeviceStatus:
        alive = self._link is None or self._link.lost_s is None
        return DeviceStatus(self._status.version, alive=alive, pid=self._pid, readings=tuple(self._readings()))

    def _readings(self) -> list[Reading]:
        link = self._link
        if link is None:
            return []
        seen, at_s = link.seen, link.seen.heartbeat_s
        rows: list[tuple[str, float | None, Unit]] = [
            ("link", 0.0 if link.lost_s is not None else 1.0, Unit.ONE),
            ("battery", seen.battery_fraction, Unit.ONE),
            ("speed", seen.speed_mps, Unit.METRE_PER_SECOND),
            ("armed", float(seen.armed), Unit.ONE),
        ]
        for name, place in (("", seen.position_m), ("home_", seen.home_m)):
            if place is not None:
                axes = zip(("east", "north", "up"), place, strict=False)
                rows += [(name + axis, part, Unit.METRE) for axis, part in axes]
        return [Reading(name, float(value), unit, at_s) for name, value, unit in rows if value is not None]

    def _changed(self) -> None:
        """A new version only for what estimates depend on: link, battery in whole percents, where an idle one is."""
        link = self._link
        if link is None:
            return
        place = link.seen.position_m or self._status.place
        moved = sum((a - b) ** 2 for a, b in zip(place, self._status.place, strict=True)) > MOVED_M**2
        basis = link.lost_s is None, link.seen.battery_fraction, link.seen.armed
        if basis != self._status.basis or moved:
            self._status = _Status(self._status.version + 1, basis, place)

    async def observe(self) -> Sequence[Reading]:
        """Battery, place, speed; the last air sample and the nearest obstacle where there are any."""
        link = self._open_link()
        if link.lost_s is not None:
            raise link.loss()
        seen, rows = link.seen, self._readings()
        if seen.samples:
            t_s, *_, value = seen.samples[-1]
            sigma = self._config.pm25_sigma_floor + self._config.pm25_sigma_fraction * max(0.0, value)
            rows.append(Reading("pm25", value, Unit.MICROGRAM_PER_CUBIC_METRE, t_s, sigma))
        ranges = [metres for metres in seen.ranges_m if 0.0 < metres < seen.range_max_m]
        if ranges:
            rows.append(Reading("nearest_obstacle", min(ranges), Unit.METRE, seen.heartbeat_s))
        return rows

    def estimate(self, shapes: Sequence[Shape], status: DeviceStatus) -> Sequence[Estimate]:
        origin = Origin(self._config.lat_deg, self._config.lon_deg)
        return [
            plans.estimate(shape, status, self._config, origin)
            if self.spec.action(shape.action)
            else Estimate(0.0, refusal=f"{self.spec.name} has no action {shape.action}")
            for shape in shapes
        ]

    # -- doing --------------------------------------------------------------------------------------------------

    async def execute(self, task: Task, attempt: Attempt) -> Result:
        self._check(task)
        self._records.admit(attempt.epoch)
        known = self._once.recall(attempt.key)
        if isinstance(known, Never):
            record = self._records.find(attempt.key)
            if record is not None and record.stage == ENDED:
                return Result(record.result, provenance=record.provenance)
            # One that was in the air before a crash waits its turn when the kernel was quicker with another.
            if self._once.busy and record is None:
                raise Refused(f"{self.spec.name} is flying another task")
        return await self._once.run(attempt.key, lambda: self._fly(task, attempt))

    def _check(self, task: Task) -> None:
        """Raise `Refused` for what is wrong with a task before anything is asked of the vehicle."""
        action = self.spec.action(task.action)
        if action is None:
            raise Refused(f"{self.spec.name} has no action {task.action}")
        given = set(task.arguments)
        strange, missing = given - set(action.parameters), set(action.required) - given
        if strange or missing:
            what = [f"unknown {name}" for name in sorted(strange)] + [f"missing {name}" for name in sorted(missing)]
            raise Refused(
                f"{task.action}: {', '.join(what)}", hint=f"It takes {', '.join(action.parameters) or 'no arguments'}."
            )

    async def _fly(self, task: Task, attempt: Attempt) -> Result:
        async with self._air:
            return await self._fly_alone(task, attempt)

    async def _fly_alone(self, task: Task, attempt: Attempt) -> Result:
        link, halts = self._open_link(), self._halts
        record = self._records.find(attempt.key)
        if record is None:
            record = Record(attempt.key, task.action, begun_s=link.clock.now_s())
            self._records.save(record)
        flight = Flight(link, self._config, self._records, record, attempt, lambda: self._halts != halts)
        action = {
            "drone.scan": flight.scan,
            "drone.goto": flight.goto,
            "drone.sample": flight.sample,
            "drone.survey": flight.survey,
            "drone.home": flight.home,
        }[task.action]
        try:
            await flight.prepare(lambda: self._fence_first(link, task.arguments))
            value = await action(task.arguments)
        except asyncio.CancelledError:
            # A node that goes down lets the vehicle fly on; whoever boots next rejoins the flight.
            if not attempt.leaving:
                await self._confirm_stop(flight)
            raise
        except DeviceLost:
            attempt.emit({"lost": {"last_heartbeat_s": link.seen.heartbeat_s, "lost_s": link.lost_s}})
            raise
        except Invalid as error:
            raise Refused(str(error), hint=error.hint) from error
        provenance = self._provenance(link)
        flight.end(value, provenance)
        return Result(value, provenance=provenance)

    async def _confirm_stop(self, flight: Flight) -> None:
        try:
            await flight.stop()
        except QaiError:
            # Nobody is there to confirm: the vehicle's own link-loss failsafe is what stops it, and the next
            # `recall` says how far it got. The cancellation itself must still reach the kernel.
            self._send_halt()
        flight.stopped()

    def _provenance(self, link: VehicleLink) -> dict[str, Any]:
        return {
            "driver": "mavlink",
            "protocol": "MAVLink 2 common",
            "system": link.sysid,
            "simulated": self._simulated,
            "physics": self.spec.summary,
        }

    async def _fence_first(self, link: VehicleLink, arguments: Mapping[str, Any]) -> None:
        """The vehicle has accepted a fence before anything can move it; a survey's own fence replaces the circle."""
        fence = (arguments.get("frame") or {}).get("fence")
        if fence is not None:
            items = protocol.fence_items(fence["inclusion"], fence.get("exclusions", ()))
        elif self._fence:
            return
        else:
            home = link.seen.home_m or (link.seen.position_m or (0.0, 0.0, 0.0))[:2]
            radius = self._config.fence_radius_m
            items = [protocol.PlanItem(protocol.FENCE_CIRCLE, (home[0], home[1], 0.0), param1=radius)]
        checksum = zlib.crc32(repr(items).encode()) or 1
        if checksum != self._fence:
            await protocol.upload(link, items, protocol.FENCE, checksum)
            self._fence = checksum

    def _open_link(self) -> VehicleLink:
        if self._link is None:
            raise DeviceFault(f"{self.spec.name} is not open")
        return self._link

    # -- stopping -----------------------------------------------------------------------------------------------

    async def halt(self) -> None:
        self._halts += 1
        self._send_halt()

    def _send_halt(self) -> None:
        try:
            for recipe in self.halt_recipes():
                if isinstance(recipe, DatagramHalt):
                    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
                        out.setblocking(False)
                        out.sendto(recipe.payload, (recipe.host, recipe.port))
        except OSError:
            # A stop that cannot leave this machine is the vehicle's business: its heartbeat from us ends too.
            self._status = _Status(self._status.version + 1, (), self._status.place)

    def halt_recipes(self) -> Sequence[HaltRecipe]:
        if not self._recipes:
            try:
                place = self._find().endpoint
                sub_mode = protocol.LAND if self._config.halt == "land" else protocol.HOLD
                packet = protocol.mode_packet(place.sysid, sub_mode)
            except QaiError:
                return ()
            self._recipes = (DatagramHalt(place.host, place.port, packet),) * HALT_REPEATS
        return self._recipes

    # -- after a crash ------------------------------------------------------------------------------------------

    async def recall(self, key: str) -> Recall:
        """From our record of the key and from the plan the vehicle says it holds."""
        record = self._records.find(key)
        if record is None:
            return await self._recall_unrecorded(key)
        if record.stage == ENDED:
            return Done(Result(record.result, provenance=record.provenance))
        if record.stage == STOPPED:
            return Unknown(f"{key} was cancelled in flight, {len(record.flown)} swaths flown")
        if record.stage != STARTED:
            return Never()  # nothing that starts motion had been sent
        try:
            mission = await self._mission()
        except DeviceFault as error:
            return Unknown(f"{key} was being flown, and the vehicle does not answer: {error}")
        if record.action in ("drone.home", "drone.sample") or mission.id == record.plan:
            return Running(f"plan {record.plan} at item {mission.seq} of {mission.total}")
        return Unknown(f"{key} was being flown; meanwhile the vehicle was given plan {mission.id}")

    async def _recall_unrecorded(self, key: str) -> Recall:
        """Our records may be gone while the vehicle still has the plan."""
        try:
            mission = await self._mission()
        except DeviceFault:
            return Never()  # the record comes before the first packet, so without one there was no packet
        if mission.id == plan_id(key) and mission.state in (Progress.ACTIVE, Progress.PAUSED, Progress.COMPLETE):
            return Unknown(f"the vehicle holds the plan of {key}, but our record of it is gone")
        return Never()

    async def _mission(self) -> Progress:
        link = self._open_link()
        if await protocol.ask(link, "MISSION_CURRENT", 42) is None:
            raise DeviceFault(f"{self.spec.name} does not say what plan it holds")
        return link.seen.mission


def _world(site: Site) -> dict[str, Any]:
    """run/world.json; empty where there is none."""
    path = Path(site.home) / "run" / "world.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return document


def devices(config: MavlinkConfig, site: Site) -> Sequence[Drone]:
    """The vehicles named in the configuration, or those of the site's simulated world."""
    if config.halt not in ("hold", "land"):
        raise Invalid(f"halt is {config.halt!r}", hint="Use hold or land.")
    if config.vehicles:
        return [Drone(place.name or f"vehicle-{place.sysid}", config, site, place) for place in config.vehicles]
    if not site.world:
        return []
    named = [str(row["name"]) for row in _world(site).get("vehicles", ())]
    return [Drone(name, config, site, None) for name in named or [f"drone-{i + 1}" for i in range(config.count)]]


DRIVER: Driver[MavlinkConfig] = Driver(
    name="mavlink",
    summary="Drones and other vehicles that speak MAVLink 2: scan, goto, sample, survey, home.",
    config=MavlinkConfig,
    devices=devices,
    isolation=Isolation.INLINE,
)
