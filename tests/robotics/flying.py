"""Fly autopilots over real physics in one process: no sockets, no wall clock, every run the same.

`Flight` joins a `Fleet` and one `Vehicle` per drone as the world process does, with the same one-barrier delay.
`Ground` is a small ground station that speaks MAVLink to one of them through function calls.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
from pymavlink.dialects.v20 import common

from qaios.robotics.geo import Origin
from qaios.robotics.vehicle import planid
from qaios.robotics.vehicle.autopilot import Autopilot
from qaios.robotics.vehicle.endpoint import Endpoint
from qaios.robotics.vehicle.plan import Fence, FlightMode, Polygon
from qaios.worlds.fleet import BARRIER_S, Fleet
from qaios.worlds.scene import Scene, default_scene
from qaios.worlds.wire import Setpoint

Place = tuple[float, float, float]


def calm_scene(**changes: Any) -> Scene:
    """The default scene without buildings, almost without wind."""
    base = msgspec.structs.replace(default_scene(), buildings=(), wind_mps=(0.01, 0.0), gust_mps=0.0)
    return msgspec.structs.replace(base, **changes)


class Flight:
    """`count` drones, their autopilots and endpoints; `texts` is every STATUSTEXT as (t_s, sysid, text)."""

    def __init__(self, scene: Scene, count: int = 1, seed: int = 1, loss: float = 0.0) -> None:
        self.scene = scene
        self.fleet = Fleet(scene, count, seed)
        self.texts: list[tuple[float, int, str]] = []
        self.sent: list[deque[bytes]] = [deque(maxlen=5000) for _ in range(count)]
        self.pilots: list[Autopilot] = []
        self.endpoints: list[Endpoint] = []
        self._next: list[Setpoint | None] = [None] * count
        fence = Fence(Polygon(scene.fence_m, inclusion=True), scene.ceiling_m)
        for i in range(count):
            east, north = scene.pads_m[i]
            pilot = Autopilot(i + 1, (east, north, 0.05), fence, self._say(i), self._reached(i))
            endpoint = Endpoint(
                pilot, Origin(scene.lat_deg, scene.lon_deg), 0.0, self._collect(i), loss=loss, seed=seed
            )
            self.pilots.append(pilot)
            self.endpoints.append(endpoint)
        self.step(2)

    def _say(self, i: int) -> Callable[[int, str], None]:
        def say(severity: int, text: str) -> None:
            self.texts.append((self.fleet.t_s, i + 1, text))
            self.endpoints[i].say(severity, text)

        return say

    def _reached(self, i: int) -> Callable[[int], None]:
        def reached(seq: int) -> None:
            self.endpoints[i].reached(seq)

        return reached

    def _collect(self, i: int) -> Callable[[bytes, tuple[str, int]], None]:
        return lambda datagram, _peer: self.sent[i].append(datagram)

    def step(self, barriers: int = 1) -> None:
        """So many barriers of 40 ms."""
        for _ in range(barriers):
            senses = [self.fleet.sense(i) for i in range(self.fleet.count)]
            self.fleet.advance()
            for i, sense in enumerate(senses):
                if not self.fleet.live[i]:
                    continue
                setpoint = self.pilots[i].step(sense)
                self.endpoints[i].tick(sense)
                self.fleet.command(
                    i,
                    armed=setpoint.armed,
                    velocity_mps=setpoint.velocity_mps,
                    yaw_rad=setpoint.yaw_rad,
                    beacon=setpoint.beacon,
                )

    def fly(self, seconds: float, each: Callable[[], None] | None = None) -> None:
        """Let `seconds` pass, calling `each` at every barrier."""
        for _ in range(round(seconds / BARRIER_S)):
            self.step()
            if each is not None:
                each()

    def until(self, condition: Callable[[], bool], limit_s: float = 120.0) -> float:
        """Fly until `condition`; the time it took. Fails after `limit_s` of world time."""
        start = self.fleet.t_s
        while not condition():
            assert self.fleet.t_s - start < limit_s, f"not after {limit_s} s: {self.texts[-5:]}"
            self.step()
        return self.fleet.t_s - start

    def lift(self, height_m: float = 10.0) -> None:
        """Arm all, take off, wait until they hold."""
        for pilot in self.pilots:
            pilot.arm()
            pilot.takeoff(height_m)
        self.until(lambda: all(pilot.mode is FlightMode.HOLD for pilot in self.pilots), 40.0)

    def place(self, i: int = 0) -> Place:
        east, north, up = self.fleet.positions_m[i].tolist()
        return east, north, up

    def said(self, word: str, sysid: int | None = None) -> bool:
        return any(word in text and sysid in (None, who) for _, who, text in self.texts)

    def forbid(self, i: int, *zones: tuple[tuple[float, float], ...]) -> None:
        """Give vehicle `i` exclusion polygons."""
        pilot = self.pilots[i]
        pilot.fence = replace(pilot.fence, zones=tuple(Polygon(zone, inclusion=False) for zone in zones))


class Ground:
    """A ground station for vehicle `i` of a flight. It hears what the endpoint sends to `peer`."""

    def __init__(self, flight: Flight, i: int = 0, peer: tuple[str, int] = ("127.0.0.1", 9)) -> None:
        self.flight, self.i, self.peer = flight, i, peer
        self.mav = common.MAVLink(None, srcSystem=255, srcComponent=190)
        self.sysid = i + 1
        self._heard = 0

    def send(self, message: Any) -> None:
        packet = message if isinstance(message, bytes) else bytes(message.pack(self.mav))
        self.mav.seq = (self.mav.seq + 1) % 256
        self.flight.endpoints[self.i].receive(packet, self.peer)

    def heartbeat(self) -> None:
        self.send(common.MAVLink_heartbeat_message(6, 8, 0, 0, 4, 3))

    def heard(self, kind: str) -> list[Any]:
        """Every message of `kind` since the last call of `clear`, oldest first."""
        messages = [self.mav.decode(bytearray(packet)) for packet in self.flight.sent[self.i]]
        return [message for message in messages if message.get_type() == kind]

    def clear(self) -> None:
        self.flight.sent[self.i].clear()

    def command(self, number: int, *params: float) -> int:
        """COMMAND_LONG; its MAV_RESULT."""
        self.clear()
        given = (*params, *([0.0] * (7 - len(params))))
        self.send(common.MAVLink_command_long_message(self.sysid, 1, number, 0, *given))
        (ack,) = self.heard("COMMAND_ACK")
        assert ack.command == number
        return int(ack.result)

    def item(self, seq: int, command: int, place: Place | None, *, kind: int = 0, param1: float = 0.0) -> Any:
        lat, lon, up = 0, 0, 0.0
        if place is not None:
            longitude, latitude = self.flight.endpoints[self.i].frame.place(place[0], place[1])
            lat, lon, up = round(latitude * 1e7), round(longitude * 1e7), place[2]
        return common.MAVLink_mission_item_int_message(
            self.sysid, 1, seq, 6, command, 0, 1, param1, 0.0, 0.0, 0.0, lat, lon, up, kind
        )

    def upload(self, items: list[Any], *, kind: int = 0, plan: int = 0, limit_s: float = 60.0) -> Any:
        """The upload handshake; repeats what is lost. The MISSION_ACK."""
        count = common.MAVLink_mission_count_message(self.sysid, 1, len(items), kind)
        self.clear()
        start = self.flight.fleet.t_s
        self.send(planid.pack(self.mav, count, plan))
        while self.flight.fleet.t_s - start < limit_s:
            messages = [self.mav.decode(bytearray(packet)) for packet in self.flight.sent[self.i]]
            self.clear()
            asked = [message.seq for message in messages if message.get_type() == "MISSION_REQUEST_INT"]
            acks = [message for message in messages if message.get_type() == "MISSION_ACK"]
            if acks:
                return acks[-1]
            if asked:
                self.send(items[asked[-1]])
            else:
                self.flight.step()
                if not self.flight.sent[self.i] and round(self.flight.fleet.t_s / BARRIER_S) % 50 == 0:
                    self.send(planid.pack(self.mav, count, plan))
        raise AssertionError("no MISSION_ACK")
