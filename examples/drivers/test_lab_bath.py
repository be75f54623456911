from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from examples.drivers.lab_bath import DRIVER, BathConfig
from examples.drivers.scpi_bath import BROKEN_K, TOO_HOT_K, ScpiBath

from qaios.contracts import Device, Site
from qaios.core.values import Task
from qaios.testing.device_kit import DeviceKit


def hold(kelvin: float) -> Task:
    return Task(1, "mission", "warm", "bath.hold", {"kelvin": kelvin})


class TestBath(DeviceKit):
    lacks = {
        "slow_observe": "the instrument has one line, and answers within milliseconds",
        "batch": "a bath is at one temperature at a time",
    }
    port = 1  # nothing listens here

    @asynccontextmanager
    async def surroundings(self, site: Site) -> AsyncIterator[None]:
        self.bath = ScpiBath()
        async with self.bath.serving() as self.port:
            yield

    def make(self, site: Site) -> Device:
        return DRIVER.devices(BathConfig(port=self.port), site)[0]

    def unopenable(self, site: Site) -> Device:
        return DRIVER.devices(BathConfig(port=1), site)[0]

    def task(self) -> Task:
        return hold(300)

    def slow_task(self) -> Task:
        return hold(TOO_HOT_K + 10)

    def faulty_task(self) -> Task:
        return hold(BROKEN_K)

    def effects(self, device: Device) -> int:
        return self.bath.heatings

    async def unknown_key(self, site: Site) -> str:
        self.bath.text = '"lost"'
        return "lost"
