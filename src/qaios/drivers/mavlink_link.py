"""One vehicle at the other end of a lossy datagram link, as last heard.

`VehicleLink` owns the socket: it decodes what the vehicle says into `Seen` (mode, place, battery, mission, lidar,
air samples), sends our heartbeat once a second of the site's clock, and notices when the vehicle falls silent.
Everything above it waits through `expect` (a message that answers) or `until` (a state that becomes true); both
end with `DeviceLost` when the vehicle is lost: no HEARTBEAT for `lost_after_s` and nothing else for a third of it.
The second half is there because a link that drops 5 % drops three heartbeats in a row every few vehicle-hours, and
a drone that is plainly talking is not gone. Without HEARTBEAT for three times as long it is lost whatever it says.

MAVLink 2, common dialect (mavlink.io/en/messages/common.html); modes as PX4 codes them. pymavlink encodes and
decodes and does nothing else, and is imported when the link opens.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qaios.contracts import Clock
from qaios.core.errors import DeviceFault, DeviceLost, Unreachable
from qaios.robotics.geo import Origin

GROUND_SYSTEM, GROUND_COMPONENT = 250, 190  # MAV_COMP_ID_MISSIONPLANNER: a ground station's planner
HEARTBEAT_S = 1.0
LOOK_S = 0.2  # how often silence is looked at
ARMED = 128  # MAV_MODE_FLAG_SAFETY_ARMED
AUTO = 4  # PX4's main mode in which the vehicle flies itself
AUTO_MODES = {1: "ready", 2: "takeoff", 3: "hold", 4: "mission", 5: "return", 6: "land"}
HUMAN_MODES = {1: "manual", 2: "altitude", 3: "position", 5: "acro", 6: "offboard", 7: "stabilized", 8: "rattitude"}


class VehicleLost(DeviceLost):
    """`silent_s`: how long it had been silent when that was noticed, in seconds of the site's clock."""

    def __init__(self, name: str, heartbeat_s: float, lost_s: float) -> None:
        last = f"last HEARTBEAT at {heartbeat_s:.2f} s" if math.isfinite(heartbeat_s) else "no HEARTBEAT ever"
        super().__init__(
            f"{name} is lost: {last}, noticed at {lost_s:.2f} s",
            hint="Look at the vehicle; its own failsafe brings it home when only the link is gone.",
        )
        self.silent_s = round(lost_s - heartbeat_s, 3) if math.isfinite(heartbeat_s) else None


@dataclass(slots=True)
class Progress:
    """MISSION_CURRENT: `state` is MAVLink's MISSION_STATE, `id` the opaque id of the plan."""

    seq: int = 0
    total: int = 0
    state: int = 0
    id: int = 0

    NONE, NOT_STARTED, ACTIVE, PAUSED, COMPLETE = 1, 2, 3, 4, 5


@dataclass(slots=True)
class Seen:
    """What the vehicle last said of itself. Times are seconds on the site's clock unless they say boot."""

    heartbeat_s: float = -math.inf
    packet_s: float = -math.inf  # anything at all
    custom_mode: int = 0
    armed: bool = False
    position_m: tuple[float, float, float] | None = None  # east, north, up above home
    velocity_mps: tuple[float, float, float] = (0.0, 0.0, 0.0)
    position_boot_ms: float = 0.0
    speed_mps: float = 0.0
    yaw_rad: float = 0.0  # clockwise from north, as ATTITUDE has it
    battery_fraction: float | None = None
    home_m: tuple[float, float] | None = None
    mission: Progress = field(default_factory=Progress)
    reached: int = -1  # highest mission item reached of the present plan
    boot_unix_s: float | None = None  # SYSTEM_TIME: Unix time at the vehicle's boot
    ranges_m: tuple[float, ...] = ()  # lidar, clockwise from the nose, nan where nothing is known
    range_step_rad: float = 0.0
    range_start_rad: float = 0.0
    range_max_m: float = 0.0
    range_place_m: tuple[float, float, float] = (0.0, 0.0, 0.0)  # where the lidar was at that moment
    samples: deque[tuple[float, ...]] = field(default_factory=lambda: deque(maxlen=4096))
    texts: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=32))

    @property
    def mode(self) -> str:
        """hold, mission, return, land, takeoff, ready; or how a person or other computer flies it."""
        main, sub = self.custom_mode >> 16 & 0xFF, self.custom_mode >> 24 & 0xFF
        return AUTO_MODES.get(sub, "auto") if main == AUTO else HUMAN_MODES.get(main, "unknown")

    @property
    def outside_hands(self) -> bool:
        """Neither the vehicle nor its own plan decides where it goes."""
        return self.custom_mode >> 16 & 0xFF != AUTO

    def place_at(self, boot_ms: float) -> tuple[float, float, float] | None:
        """Where it was at a moment near the last position: sensors and positions have their own instants."""
        if self.position_m is None:
            return None
        ahead_s = max(-1.0, min(1.0, (boot_ms - self.position_boot_ms) / 1000.0))
        (x, y, z), (vx, vy, vz) = self.position_m, self.velocity_mps
        return x + vx * ahead_s, y + vy * ahead_s, z + vz * ahead_s

    def last_text(self, since_s: float = -math.inf) -> str:
        return "; ".join(text for at_s, text in self.texts if at_s >= since_s)


@dataclass(slots=True, eq=False)
class _Waiter:
    names: frozenset[str]  # messages that may answer; empty: look after every one
    answer: Callable[[Any], Any]  # of the message; not None ends the wait
    future: asyncio.Future[Any]


class VehicleLink(asyncio.DatagramProtocol):
    """Talk to the vehicle with system id `sysid` at `host`:`port`; `lost_after_s` of silence is its loss."""

    def __init__(
        self, name: str, host: str, port: int, sysid: int, *, clock: Clock, origin: Origin, lost_after_s: float
    ) -> None:
        self.name, self.host, self.port, self.sysid = name, host, port, sysid
        self.clock, self.origin, self.lost_after_s = clock, origin, lost_after_s
        self.seen = Seen()
        self.lost_s: float | None = None  # when its silence was noticed; None while it is heard
        self.on_scan: Callable[[], None] | None = None
        self.on_change: Callable[[], None] | None = None
        self._transport: asyncio.DatagramTransport | None = None
        self._shut = asyncio.Event()
        self._waiters: list[_Waiter] = []
        self._beat: asyncio.Task[None] | None = None
        self._dialect: Any = None
        self._out: Any = None
        self._in: Any = None

    # -- opening and closing ------------------------------------------------------------------------------------

    async def open(self) -> None:
        self._dialect = dialect()
        self._out = self._dialect.MAVLink(None, srcSystem=GROUND_SYSTEM, srcComponent=GROUND_COMPONENT)
        self._in = self._dialect.MAVLink(None)
        self._in.robust_parsing = True
        loop = asyncio.get_running_loop()
        try:
            await loop.create_datagram_endpoint(lambda: self, remote_addr=(self.host, self.port))
        except OSError as error:
            raise DeviceFault(f"{self.name}: no socket to {self.host}:{self.port}: {error}") from error
        self._beat = asyncio.create_task(self._keep(), name=f"{self.name} heartbeat")

    async def close(self) -> None:
        # What needs no waiting comes first: a close that is cancelled half-way still leaves no socket behind.
        beat, transport, self._beat, self._transport = self._beat, self._transport, None, None
        if beat is not None:
            beat.cancel()
        if transport is not None:
            transport.close()
        self._fail(DeviceFault(f"{self.name} is closed"))
        if beat is not None:
            await asyncio.gather(beat, return_exceptions=True)
        if transport is not None:
            await self._shut.wait()  # the socket is closed a turn of the loop later

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    @property
    def mavlink(self) -> Any:
        """The dialect module, for its constants and message classes; the link is open."""
        return self._dialect

    # -- sending and waiting ------------------------------------------------------------------------------------

    def send(self, message: Any) -> None:
        self.send_packet(message.pack(self._out))

    def send_packet(self, packet: bytes) -> None:
        """A packet that is ready. When the link is closed there is nobody to send to, and it goes nowhere."""
        if self._transport is not None:
            self._transport.sendto(packet)

    @property
    def encoder(self) -> Any:
        return self._out

    async def expect(
        self, names: tuple[str, ...], timeout_s: float, accept: Callable[[Any], Any] = lambda message: message
    ) -> Any:
        """The first message of `names` for which `accept` gives something; None after `timeout_s` on the clock.

        Start it before sending what it answers only if the answer may come within the same turn of the loop;
        datagrams are read between turns, so the usual `send(); await expect()` misses nothing.
        """
        return await self._wait(frozenset(names), accept, timeout_s)

    async def until(self, ready: Callable[[Seen], bool], timeout_s: float) -> bool:
        """Whether `ready` became true of what was last seen, within `timeout_s`."""
        if self.lost_s is None and ready(self.seen):
            return True
        return bool(await self._wait(frozenset(), lambda _: True if ready(self.seen) else None, timeout_s))

    async def _wait(self, names: frozenset[str], answer: Callable[[Any], Any], timeout_s: float) -> Any:
        if self.lost_s is not None:
            raise self.loss()
        if not self.is_open:
            raise DeviceFault(f"{self.name} is closed")
        waiter = _Waiter(names, answer, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        alarm = asyncio.ensure_future(self.clock.sleep(timeout_s))
        try:
            await asyncio.wait({waiter.future, alarm}, return_when=asyncio.FIRST_COMPLETED)
            if waiter.future.done():
                return waiter.future.result()
            if alarm.exception() is not None:
                raise DeviceFault(f"{self.name}: the site's clock stopped") from alarm.exception()
            return None
        finally:
            self._waiters.remove(waiter)
            alarm.cancel()

    def loss(self) -> VehicleLost:
        return VehicleLost(self.name, self.seen.heartbeat_s, self.lost_s or self.clock.now_s())

    def _fail(self, error: Exception) -> None:
        for waiter in self._waiters:
            if not waiter.future.done():
                waiter.future.set_exception(error)

    # -- heartbeat ----------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Our heartbeat, and the watch over theirs. Two looks in a row must find silence: a loop that was late
        itself reads what had arrived meanwhile before the second."""
        due_s, silent = -math.inf, 0
        opened_s = self.clock.now_s()
        while True:
            now_s = self.clock.now_s()
            if now_s >= due_s:
                self.send(self._dialect.MAVLink_heartbeat_message(6, 8, 0, 0, 4, 3))  # a GCS, active
                due_s = now_s + HEARTBEAT_S
            silent = silent + 1 if self._silent(now_s, opened_s) else 0
            if silent >= 2 and self.lost_s is None:
                self._lose(now_s)
            try:
                await self.clock.sleep(LOOK_S)
            except Unreachable:
                # The clock went with the world, and so did the vehicle.
                self._lose(self.clock.now_s())
                return

    def _silent(self, now_s: float, opened_s: float) -> bool:
        quiet_s = now_s - max(self.seen.heartbeat_s, opened_s)
        mute_s = now_s - max(self.seen.packet_s, opened_s)
        return (quiet_s > self.lost_after_s and mute_s > self.lost_after_s / 3.0) or quiet_s > 3.0 * self.lost_after_s

    def _lose(self, now_s: float) -> None:
        self.lost_s = now_s
        self._fail(self.loss())
        self._changed()

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()

    # -- receiving ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self._shut.set()

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there at this moment (ICMP). Only silence says lost, so this changes nothing."""

    def datagram_received(self, data: bytes, addr: object) -> None:
        for message in self._in.parse_buffer(data) or ():
            name = message.get_type()
            if name == "BAD_DATA" or message.get_srcSystem() != self.sysid:
                continue
            self.seen.packet_s = self.clock.now_s()
            read = _READERS.get(name)
            if read is not None:
                read(self, message)
            for waiter in self._waiters:
                if not waiter.future.done() and (not waiter.names or name in waiter.names):
                    answer = waiter.answer(message)
                    if answer is not None:
                        waiter.future.set_result(answer)

    def site_time_s(self, boot_ms: float) -> float:
        """The vehicle's time since boot as Unix seconds; by our own clock while SYSTEM_TIME has not been heard."""
        boot = self.seen.boot_unix_s
        return self.clock.now_s() if boot is None else boot + boot_ms / 1000.0

    def _heartbeat(self, message: Any) -> None:
        self.seen.heartbeat_s = self.clock.now_s()
        before = self.seen.custom_mode, self.seen.armed, self.lost_s
        self.seen.custom_mode, self.seen.armed = message.custom_mode, bool(message.base_mode & ARMED)
        self.lost_s = None
        if before != (self.seen.custom_mode, self.seen.armed, None):
            self._changed()

    def _global_position(self, message: Any) -> None:
        east, north = self.origin.local(message.lon / 1e7, message.lat / 1e7)
        self.seen.position_m = (east, north, message.relative_alt / 1000.0)
        self.seen.velocity_mps = (message.vy / 100.0, message.vx / 100.0, -message.vz / 100.0)
        self.seen.position_boot_ms = message.time_boot_ms
        self.seen.speed_mps = math.hypot(*self.seen.velocity_mps)

    def _attitude(self, message: Any) -> None:
        self.seen.yaw_rad = message.yaw

    def _sys_status(self, message: Any) -> None:
        if message.battery_remaining >= 0:
            before, self.seen.battery_fraction = self.seen.battery_fraction, message.battery_remaining / 100.0
            if before != self.seen.battery_fraction:
                self._changed()

    def _home(self, message: Any) -> None:
        self.seen.home_m = self.origin.local(message.longitude / 1e7, message.latitude / 1e7)

    def _system_time(self, message: Any) -> None:
        if message.time_unix_usec:
            self.seen.boot_unix_s = message.time_unix_usec / 1e6 - message.time_boot_ms / 1e3

    def _mission_current(self, message: Any) -> None:
        from qaios.robotics.vehicle import planid

        mission = self.seen.mission
        plan = planid.read(message)
        if plan != mission.id:
            self.seen.reached = -1
        mission.seq, mission.total, mission.id = message.seq, message.total, plan
        mission.state = message.mission_state

    def _item_reached(self, message: Any) -> None:
        self.seen.reached = max(self.seen.reached, message.seq)

    def _obstacle_distance(self, message: Any) -> None:
        unknown, step = 65535, message.increment_f or float(message.increment)
        self.seen.ranges_m = tuple(math.nan if cm == unknown else cm / 100.0 for cm in message.distances)
        self.seen.range_step_rad, self.seen.range_start_rad = math.radians(step), math.radians(message.angle_offset)
        self.seen.range_max_m = message.max_distance / 100.0
        if message.frame != 12:  # not MAV_FRAME_BODY_FRD: angles count from north, not from the nose
            self.seen.range_start_rad -= self.seen.yaw_rad
        place = self.seen.place_at(message.time_usec / 1000.0)
        if place is not None and self.on_scan is not None:
            self.seen.range_place_m = place
            self.on_scan()

    def _named_value(self, message: Any) -> None:
        place = self.seen.place_at(message.time_boot_ms)
        if message.name.rstrip("\0") == "pm25" and place is not None:
            at_s = self.site_time_s(message.time_boot_ms)
            self.seen.samples.append((round(at_s, 3), *place, float(message.value)))

    def _text(self, message: Any) -> None:
        self.seen.texts.append((self.clock.now_s(), str(message.text).rstrip("\0")))


def dialect() -> Any:
    """pymavlink's common dialect, MAVLink 2."""
    try:
        from pymavlink.dialects.v20 import common
    except ImportError as error:
        raise DeviceFault(
            "pymavlink is not installed", retryable=False, hint="Install QAI OS with the extra `robot`."
        ) from error
    return common


_READERS: Mapping[str, Callable[[VehicleLink, Any], None]] = {
    "HEARTBEAT": VehicleLink._heartbeat,
    "GLOBAL_POSITION_INT": VehicleLink._global_position,
    "ATTITUDE": VehicleLink._attitude,
    "SYS_STATUS": VehicleLink._sys_status,
    "HOME_POSITION": VehicleLink._home,
    "SYSTEM_TIME": VehicleLink._system_time,
    "MISSION_CURRENT": VehicleLink._mission_current,
    "MISSION_ITEM_REACHED": VehicleLink._item_reached,
    "OBSTACLE_DISTANCE": VehicleLink._obstacle_distance,
    "NAMED_VALUE_FLOAT": VehicleLink._named_value,
    "STATUSTEXT": VehicleLink._text,
}
