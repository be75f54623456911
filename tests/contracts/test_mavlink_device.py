"""The mavlink driver keeps every promise of a device, shown against the autopilot of the simulated vehicles."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from qaios.contracts import Clock, Device, Site
from qaios.core.values import Task
from qaios.drivers.mavlink import DRIVER
from qaios.drivers.mavlink_plans import Endpoint, MavlinkConfig
from qaios.drivers.mavlink_record import STARTED, Record, Records
from qaios.testing.clock import FakeClock
from qaios.testing.device_kit import DeviceKit
from qaios.testing.memory import FakeAttempt
from tests.drivers.mavlink_peer import PeerVehicle


class TestMavlinkDevice(DeviceKit):
    lacks = {
        "slow_observe": "it reads what was last heard and waits for nothing",
        "batch": "a vehicle flies one plan at a time",
    }

    def clock(self) -> Clock:
        return FakeClock()

    @asynccontextmanager
    async def surroundings(self, site: Site) -> AsyncIterator[None]:
        self.peer = await PeerVehicle(self.time).start()
        try:
            yield
        finally:
            await self.peer.stop()

    def make(self, site: Site) -> Device:
        port = self.peer.port if hasattr(self, "peer") else 14580
        (drone,) = DRIVER.devices(MavlinkConfig(vehicles=(Endpoint("drone-1", "127.0.0.1", port),)), site)
        return drone

    def task(self) -> Task:
        return Task(1, "kit", "there", "drone.goto", {"to": [6.0, 6.0], "altitude_m": 5.0})

    def slow_task(self) -> Task:
        return Task(2, "kit", "far", "drone.goto", {"to": [240.0, 0.0], "altitude_m": 5.0, "speed_mps": 0.5})

    def faulty_task(self) -> Task:
        # Accepted and sent, but the vehicle's own fence refuses a place outside it.
        return Task(3, "kit", "away", "drone.goto", {"to": [900.0, 0.0], "altitude_m": 5.0})

    def unopenable(self, site: Site) -> Device:
        (drone,) = DRIVER.devices(MavlinkConfig(vehicles=(Endpoint("drone-1", "127.0.0.1", 9),)), site)
        return drone

    def effects(self, device: Device) -> int:
        return len(self.peer.flown)

    async def unknown_key(self, site: Site) -> str:
        record = Record("kit/mission/lost", "drone.goto", stage=STARTED, plan=4711)
        Records(site.home, "drone-1").save(record)
        return record.key

    async def began(self, device: Device, attempt: FakeAttempt) -> None:
        """Flying needs time, so it is moved on until the vehicle has left the ground."""
        assert isinstance(self.time, FakeClock)
        while self.peer.position_m[2] < 2.0 or not attempt.notes:
            await self.time.advance(0.2)
