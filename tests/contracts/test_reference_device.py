"""The scripted device keeps every promise of the kit: it is what the mutants are made from."""

from __future__ import annotations

import asyncio

import numpy as np

from qaios.contracts import Clock, Device, Site
from qaios.core.errors import DeviceFault
from qaios.core.values import Batch, Shape, Task, Unknown
from qaios.testing.clock import FakeClock
from qaios.testing.device_kit import DeviceKit
from qaios.testing.scripted import ScriptedDevice, Step, World

SCRIPT = {
    "quick": [Step(duration_s=2.0, value={"n": 1}, chunks=({"half": 1},))],
    "slow": [Step(hold=True)],
    "faulty": [Step(error=DeviceFault("it broke"))],
}


def act(name: str) -> Task:
    return Task(1, "mission", name, "test.act", {"amount": 1})


class ScriptedDeviceKit(DeviceKit):
    """The kit, filled in for a scripted device of class `made`."""

    made: type[ScriptedDevice] = ScriptedDevice

    def clock(self) -> Clock:
        self.world = World()
        return FakeClock()

    def make(self, site: Site) -> Device:
        return self.made(site.clock, capacity=3, script=SCRIPT, memory=self.world)

    def task(self) -> Task:
        return act("quick")

    def bad_tasks(self) -> list[Task]:
        wrong: tuple[dict[str, object], ...] = ({"amount": "much"}, {"amount": 1, "speed": 2})
        return [Task(1, "mission", "quick", "test.act", arguments) for arguments in wrong]

    def slow_task(self) -> Task:
        return act("slow")

    def faulty_task(self) -> Task:
        return act("faulty")

    def unopenable(self, site: Site) -> Device:
        device = self.made(site.clock)
        device.open_error = DeviceFault("there is nothing at this address")
        return device

    def effects(self, device: Device) -> int:
        return len(self.world.effects)

    def slow_observe(self, device: Device) -> None:
        assert isinstance(device, ScriptedDevice)
        device.observe_hold = asyncio.Event()

    async def unknown_key(self, site: Site) -> str:
        self.world.outcomes["lost"] = Unknown("sent, no answer")
        return "lost"

    def batch(self, count: int) -> Batch:
        return Batch(np.arange(count), "mission", Shape("test.compute", {}), ())


class TestScriptedDevice(ScriptedDeviceKit):
    pass
