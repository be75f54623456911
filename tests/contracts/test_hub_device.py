"""The hub as a device keeps every promise of the kit, against the real hub on a real port."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from qaios.contracts import Device, Site
from qaios.core.values import Task
from qaios.drivers import hub
from qaios.drivers.hub import HubConfig, HubDevice
from qaios.testing.device_kit import DeviceKit, Footprint
from qaios.testing.memory import FakeAttempt
from tests.drivers.test_hub import LocalHub


def upload(**arguments: object) -> Task:
    return Task(1, "mission", "upload", "hub.upload", arguments)


class TestHub(DeviceKit):
    lacks = {
        "slow_observe": "it asks the hub over a connection of its own for each question",
        "batch": "a report is one upload",
        "faulty_task": "a hub that stumbles is tried at length in tests/drivers/test_hub.py",
        "unknown_key": "a hub that cannot be asked is tried there, too",
    }

    @pytest.fixture(autouse=True)
    def _impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hub, "SETTLE_S", 0.3)  # a hub that holds a report is not waited for long

    @asynccontextmanager
    async def surroundings(self, site: Site) -> AsyncIterator[None]:
        async with LocalHub(self.home).serve() as self.hub:
            yield

    def make(self, site: Site) -> Device:
        return HubDevice(HubConfig(), site)

    def unopenable(self, site: Site) -> Device:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            port = nobody.getsockname()[1]
        here = self.hub.address
        return HubDevice(
            HubConfig(url=f"http://127.0.0.1:{port}", token=here.token, join=here.join, fingerprint=here.fingerprint),
            site,
        )

    def task(self) -> Task:
        if hasattr(self, "hub"):
            self.hub.hold.set()
        return upload(name="air.json", content={"pm25": [1.5, 2.0]})

    def slow_task(self) -> Task:
        self.hub.hold.clear()
        return upload(name="slow.json", content={"pm25": []})

    async def began(self, device: Device, attempt: FakeAttempt) -> None:
        await self.hub.held.wait()
        self.hub.held.clear()

    def effects(self, device: Device) -> int:
        return self.hub.store.count()

    async def check_footprint(self, before: Footprint) -> None:
        self.hub.hold.set()  # the hub of the test runs in this process, and still holds the report it was sent
        await super().check_footprint(before)
