"""A vehicle for tests: the real autopilot and MAVLink endpoint on a kinematic body, in this process, on a given clock.

What the driver talks to is what flies in the simulated world, without MuJoCo, without a process, and with the
clock in the test's hand. The body follows velocity setpoints with a lag, the battery drains evenly, the lidar sees
boxes, the air gets dirtier towards the east.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from qaios.contracts import Clock
from qaios.robotics.geo import Origin
from qaios.robotics.vehicle.autopilot import Autopilot
from qaios.robotics.vehicle.endpoint import Endpoint
from qaios.robotics.vehicle.plan import Fence, FlightMode, Polygon
from qaios.worlds.wire import AirSample, Sense

BARRIER_S = 0.04
RAYS, RANGE_M = 24, 20.0
Box = tuple[float, float, float, float]  # west, south, east, north


class PeerVehicle(asyncio.DatagramProtocol):
    """One vehicle at its pad. `loss`: probability that a datagram is dropped, each way."""

    def __init__(
        self,
        clock: Clock,
        *,
        sysid: int = 1,
        home_m: tuple[float, float] = (0.0, 0.0),
        loss: float = 0.0,
        drain_per_s: float = 1.0 / 864.0,
        boxes: Sequence[Box] = (),
    ) -> None:
        self.clock, self.boxes, self.drain_per_s = clock, boxes, drain_per_s
        self.sysid, self.port = sysid, 0
        self.position_m, self.velocity_mps = (*home_m, 0.05), (0.0, 0.0, 0.0)
        self.battery = 1.0
        self.heard: list[str] = []  # names of messages that came in
        self.flown: set[int] = set()  # ids of the plans it has flown
        self._began_s = clock.now_s()
        self._random = random.Random(sysid)
        self._air_s = 0.5
        fence = Fence(Polygon(((-500, -500), (500, -500), (500, 500), (-500, 500)), inclusion=True), 120.0)
        self.autopilot = Autopilot(sysid, (*home_m, 0.0), fence, self._say, self._reached)
        self.endpoint = Endpoint(self.autopilot, Origin(), self._began_s, self._send, loss=loss, seed=sysid)
        self._transport: asyncio.DatagramTransport | None = None
        self._life: asyncio.Task[None] | None = None

    async def start(self) -> PeerVehicle:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]
        self._life = asyncio.create_task(self._live(), name=f"peer {self.sysid}")
        return self

    def kill(self) -> None:
        """As SIGKILL does: no last word, and the motors stop."""
        if self._life is not None:
            self._life.cancel()
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    async def stop(self) -> None:
        self.kill()
        if self._life is not None:
            await asyncio.gather(self._life, return_exceptions=True)
        await asyncio.sleep(0)  # a transport closes its socket a turn of the loop later

    def person_takes_over(self) -> None:
        """A pilot switches to position mode."""
        position_mode = SimpleNamespace(custom_mode=3 << 16, value=(3, 0), name="POSCTL")
        self.autopilot._enter(cast(Any, position_mode))
        self.autopilot._stay()

    def person_gives_back(self) -> None:
        self.autopilot.start_mission(self.autopilot.current)

    async def _live(self) -> None:
        while True:
            await self.clock.sleep(BARRIER_S)
            setpoint = self.autopilot.step(self._sense())
            self.endpoint.tick(self._sense(air=True))
            if self.autopilot.mode is FlightMode.MISSION:
                self.flown.add(self.autopilot.plan_id)
            self._move(setpoint.velocity_mps if setpoint.armed else (0.0, 0.0, -3.0))
            if setpoint.armed:
                self.battery = max(0.0, self.battery - self.drain_per_s * BARRIER_S)

    def _move(self, wanted: tuple[float, float, float]) -> None:
        self.velocity_mps = tuple(0.7 * v + 0.3 * w for v, w in zip(self.velocity_mps, wanted, strict=True))  # type: ignore[assignment]
        x, y, z = (p + v * BARRIER_S for p, v in zip(self.position_m, self.velocity_mps, strict=True))
        if z <= 0.05:
            z, self.velocity_mps = 0.05, (0.0, 0.0, 0.0)
        self.position_m = (x, y, z)

    def _sense(self, *, air: bool = False) -> Sense:
        t_s = self.clock.now_s() - self._began_s
        samples: tuple[AirSample, ...] = ()
        if air and t_s >= self._air_s:
            self._air_s = t_s + self._random.uniform(0.3, 1.5)
            samples = (AirSample(t_s, 10.0 + 0.1 * self.position_m[0], 1.5),)
        return Sense(
            t_s=t_s, position_m=self.position_m, velocity_mps=self.velocity_mps, attitude_rad=(0.0, 0.0, 0.0),
            rates_radps=(0.0, 0.0, 0.0), battery_fraction=self.battery, battery_v=12.0, battery_a=7.0,
            battery_used_j=0.0, lidar_m=tuple(self._range_m(ray) for ray in range(RAYS)),
            down_m=max(0.0, self.position_m[2] - 0.05), air=samples,
        )  # fmt: skip

    def _range_m(self, ray: int) -> float:
        angle = 2.0 * math.pi * ray / RAYS
        return min(
            (_hit_m(self.position_m, math.sin(angle), math.cos(angle), box) for box in self.boxes), default=RANGE_M
        )

    # -- the wire -----------------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: Any) -> None:
        for message in self.endpoint._messages(data):
            self.heard.append(message.get_type())
        self.endpoint.receive(data, addr)

    def _send(self, datagram: bytes, peer: tuple[str, int]) -> None:
        if self._transport is not None:
            self._transport.sendto(datagram, peer)

    def _say(self, severity: int, text: str) -> None:
        self.endpoint.say(severity, text)

    def _reached(self, seq: int) -> None:
        self.endpoint.reached(seq)


def _hit_m(place: Sequence[float], dx: float, dy: float, box: Box) -> float:
    """How far a ray goes until it meets the box (slab method); the maximum range when it does not."""
    near, far = 0.0, RANGE_M
    for at, step, low, high in ((place[0], dx, box[0], box[2]), (place[1], dy, box[1], box[3])):
        if abs(step) < 1e-9:
            if not low <= at <= high:
                return RANGE_M
            continue
        first, second = sorted(((low - at) / step, (high - at) / step))
        near, far = max(near, first), min(far, second)
    return near if near <= far else RANGE_M
